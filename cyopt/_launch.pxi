# Included by _cpu.pyx: launches of kernels on a GPU, in the time of the driver's own function.

# cuLaunchKernel: a kernel, blocks and threads along three axes, bytes of shared memory, a stream,
# the addresses of the arguments, and one that cyopt has no use for.
ctypedef int (*launch_function)(
    uintptr_t, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, uintptr_t,
    void **, void **) noexcept nogil

cdef enum:
    MOST_INTEGERS = 12
    MOST_SETS = 4       # as in cuda/batches.py
    MOST_NAMES = 16
    MOST_SCALARS = MOST_SETS * MOST_NAMES


@cython.final
cdef class Launch:
    """The launch of a kernel on a stream; its arguments are 64-bit integers, then scalars.

    `driver`: the address of cuLaunchKernel, and a function that raises for an error it returns.
    Each of the `sets` is a group, which has the hyperparameters, and a parameter, which has the
    step count; its scalars of these names are rounded to the dtype, to infinity beyond its range.
    """
    cdef launch_function _start
    cdef object _refuse
    cdef uintptr_t _kernel, _stream
    cdef unsigned _blocks, _threads
    cdef int64_t _integers[MOST_INTEGERS]
    cdef ptrdiff_t _scalar_index[MOST_NAMES]    # in cyopt_scalars, of doubles
    cdef ptrdiff_t _groups[MOST_SETS]
    cdef ptrdiff_t _params[MOST_SETS]
    cdef int _n_integers, _n_scalars, _n_sets
    cdef bint _single

    def __cinit__(self, tuple driver, uintptr_t kernel, unsigned blocks, unsigned threads,
                  uintptr_t stream, integers, dtype="float64", names=(), sets=()):
        self._start, self._refuse = <launch_function><uintptr_t>driver[0], driver[1]
        self._kernel, self._stream = kernel, stream
        self._blocks, self._threads = blocks, threads
        self._n_integers, self._n_scalars, self._n_sets = len(integers), len(names), len(sets)
        if (self._n_integers > MOST_INTEGERS or self._n_sets > MOST_SETS
                or self._n_scalars > MOST_NAMES):
            raise ValueError("too many arguments of a kernel")
        for i, integer in enumerate(integers):
            self._integers[i] = integer
        for i, name in enumerate(names):
            self._scalar_index[i] = _SCALAR_INDEX[name]
        for i, (group, param) in enumerate(sets):
            self._groups[i], self._params[i] = group, param
        self._single = dtype == "float32"

    def scalars(self, hypers, cnp.ndarray counts not None):
        """The scalars of each set's next step, as the bytes that the call takes."""
        cdef cyopt_hyper h
        cdef cyopt_scalars x
        cdef double to[MOST_SCALARS]
        cdef double *first = &x.s
        cdef float single
        cdef int i, j, n = 0
        if not self._n_scalars:
            return b""
        for i in range(self._n_sets):
            h = _hyper(hypers[self._groups[i]])
            cyopt_prepare(
                &h, (<int64_t *>cnp.PyArray_DATA(counts))[self._params[i]] + 1, &x)
            for j in range(self._n_scalars):
                to[n] = first[self._scalar_index[j]]
                if self._single:  # in the first bytes of its place
                    single = <float>to[n]
                    memcpy(&to[n], &single, sizeof(single))
                n += 1
        return PyBytes_FromStringAndSize(<char *>to, n * sizeof(double))

    def __call__(self, bytes scalars not None=b""):
        """Launch it."""
        cdef void *arguments[MOST_INTEGERS + MOST_SCALARS]
        cdef double *first = <double *>PyBytes_AS_STRING(scalars)
        cdef int i, status, n = self._n_integers
        if <size_t>PyBytes_GET_SIZE(scalars) != (
                self._n_scalars * self._n_sets * sizeof(double)):
            raise ValueError("these are not the scalars of this kernel")
        for i in range(n):
            arguments[i] = &self._integers[i]
        for i in range(self._n_scalars * self._n_sets):
            arguments[n + i] = &first[i]
        with nogil:
            status = self._start(
                self._kernel, self._blocks, 1, 1, self._threads, 1, 1, 0, self._stream,
                arguments, NULL)
        if status:
            self._refuse(status)


def current_context(uintptr_t function):
    """The handle that cuCtxGetCurrent, at this address, gives, or 0."""
    cdef uintptr_t context = 0
    (<int (*)(uintptr_t *) noexcept nogil>function)(&context)
    return context
