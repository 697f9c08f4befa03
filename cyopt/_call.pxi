# Included by _cpu.pyx: the fast path of the functional form, for calls like an earlier one.

cdef enum:
    KEY_BYTES = 512

# Limits for the numbers that may differ from the earlier call's: up to these no product of them is
# beyond the range of float32, and no check is needed (see rounding.py).
cdef double ORDINARY = 1e15, BELOW_ONE = 1 - 2.0**-53
# Between these, a momentum or beta stays between 0 and 1 in float32, and lr / (1 - beta) finite.
cdef double LEAST_RATE = 1e-30, MOST_RATE = 1 - 2.0**-20


cpdef bint is_ordinary(double lr, double weight_decay):
    """Whether a learning rate needs no `check_rounded` if all other numbers have passed it."""
    return lr <= ORDINARY and lr * weight_decay <= ORDINARY


cdef object _FLOAT64 = np.float64, _INT64 = np.int64


cdef bint _is_float(value):
    """Whether this is a float of Python, or NumPy's float64, which has the same numbers."""
    return type(value) is float or type(value) is _FLOAT64


cdef struct Key:
    char text[KEY_BYTES]
    Py_ssize_t size


cdef bint _put(Key *key, const void *source, Py_ssize_t n) noexcept:
    if key.size + n > KEY_BYTES:
        return False
    if n > 0:  # else there may be no source
        memcpy(key.text + key.size, source, n)
        key.size += n
    return True


cdef bint _put_value(Key *key, char kind, const void *source, Py_ssize_t n) noexcept:
    return _put(key, &kind, 1) and _put(key, &n, sizeof(n)) and _put(key, source, n)


cdef bint _put_object(Key *key, object value) except -1:
    """A number or name, exactly: 1, 1.0 and True all differ, and so do 0.0 and -0.0."""
    cdef double number
    cdef long long integer
    cdef Py_ssize_t n
    cdef int overflow = 0
    if _is_float(value):
        number = value
        return _put_value(key, c'f', &number, sizeof(number))
    if value is None:
        return _put_value(key, c'n', NULL, 0)
    if type(value) is bool:
        return _put_value(key, c't' if value else c'u', NULL, 0)
    if type(value) is int:
        integer = PyLong_AsLongLongAndOverflow(value, &overflow)
        return not overflow and _put_value(key, c'i', &integer, sizeof(integer))
    if type(value) is str:
        n = len(<str>value) * <int>PyUnicode_KIND(value)
        return _put_value(key, 0x30 + PyUnicode_KIND(value), PyUnicode_DATA(value), n)
    if type(value) is tuple:
        n = len(<tuple>value)
        if not _put_value(key, c'(', NULL, 0):
            return False
        for item in <tuple>value:
            if not _put_object(key, item):
                return False
        return _put_value(key, c')', NULL, 0)
    return False


cdef object _varying(str name, object value):
    """What of a hyperparameter may be another number in a call that uses the same plan: a float, or
    None for nothing. The key has the rest, such as a momentum of 0, which is another rule."""
    if name == "betas":
        value = (<tuple>value)[0] if type(value) is tuple and len(<tuple>value) == 2 else None
    elif name == "lr" or name == "ema":
        return value if _is_float(value) else None
    elif name != "momentum":
        return None
    return value if _is_float(value) and LEAST_RATE <= <double>value <= MOST_RATE else None


cdef bint _put_hyperparameter(Key *key, object name, object value) except -1:
    if not _put_object(key, name):
        return False
    if _varying(name, value) is None:
        return _put_object(key, value)
    if not _put_value(key, c'*', NULL, 0):
        return False
    return name != "betas" or _put_object(key, (<tuple>value)[1])


def call_key(function, like, dict given, bint replaces, bint scales, param):
    """What calls that may share a plan have in common: the function, its hyperparameters except the
    values of lr, ema, momentum and beta1, and the address of the first array. None: not to be kept.

    `replaces` and `scales` say whether there is a step_size, and a denom_scale.
    """
    cdef Key key
    cdef char flags = replaces + 2 * scales
    cdef void *place = <void *>function
    if type(param) is list or type(param) is tuple:
        if not param:
            return None
        param = param[0]
    if type(param) is not cnp.ndarray:
        return None
    key.size = 0
    if not (_put(&key, &flags, 1) and _put(&key, &place, sizeof(place))):
        return None
    place = cnp.PyArray_DATA(<cnp.ndarray>param)
    if not (_put(&key, &place, sizeof(place)) and _put_object(&key, like)):
        return None
    for name, value in given.items():
        if not _put_hyperparameter(&key, name, value):
            return None
    return PyBytes_FromStringAndSize(key.text, key.size)


cdef double _nowhere


cdef cnp.ndarray _ghost(cnp.ndarray array):
    """An array like another one in everything but its memory: to compare with, never to read."""
    return cnp.PyArray_New(cnp.ndarray, cnp.PyArray_NDIM(array), cnp.PyArray_DIMS(array),
                           cnp.PyArray_TYPE(array), cnp.PyArray_STRIDES(array), &_nowhere, 0,
                           cnp.NPY_ARRAY_ALIGNED | cnp.NPY_ARRAY_WRITEABLE, None)


@cython.final
cdef class Call:
    """The plan of a call that was checked in full, for calls whose arrays have the same addresses.

    It keeps no array alive: it knows only their addresses, shapes and types.
    """
    cdef Plan _plan
    cdef bint _running
    cdef readonly ptrdiff_t n       # parameters

    def __cinit__(self, Plan plan not None):
        cdef list ghosts = []
        for param in plan._params:
            ghosts.append(_ghost(param))
        plan._params = ghosts
        plan._states = plan._averages = plan.written = None
        self._plan, self.n, self._running = plan, plan._n, True  # until `run` has ended

    def run(self, grads):
        """The call itself, once, with gradients that have been checked as for `Plan.run`."""
        try:
            return self._plan.run(grads, False)
        finally:
            self._running = False

    def again(self, param, grad, tuple states, average, dict given, step, step_size, denom_scale):
        """One step, if these arrays, except the gradients, are those of the earlier call: True, or
        False if it was skipped. Otherwise None, and nothing is done.

        A number that is None was not given in the earlier call either; what of `given` does not
        vary is as it was then.
        """
        if self._running:  # in another thread, which has released the GIL
            return None
        self._running = True
        try:
            if self._take_numbers(given, step, step_size, denom_scale):
                return self._run(param, grad, states, average)
        finally:
            self._running = False

    cdef bint _take_numbers(self, dict given, step, step_size, denom_scale) except -1:
        """Put these numbers into the plan; False if one is not of ordinary size."""
        cdef ptrdiff_t i
        cdef int overflow = 0
        cdef int64_t t
        cdef cyopt_hyper *hyper = &self._plan._hypers[0]
        if type(step) is not int and type(step) is not _INT64:
            return False
        t = PyLong_AsLongLongAndOverflow(step, &overflow)
        if overflow or t < 1 or t >= <int64_t>1 << 62:
            return False
        if not (_take(_of(given, "lr"), 0.0, ORDINARY, &hyper.lr)
                and _take(_of(given, "ema"), 0.0, BELOW_ONE, &hyper.ema)
                and _take(_of(given, "momentum"), LEAST_RATE, MOST_RATE, &hyper.momentum)
                and _take(_of(given, "betas"), LEAST_RATE, MOST_RATE, &hyper.beta1)
                and _take(step_size, -ORDINARY, ORDINARY, &hyper.step_size)
                and _take(denom_scale, 0.0, ORDINARY, &hyper.denom_scale)):
            return False
        if not is_ordinary(hyper.lr, hyper.weight_decay):
            return False
        for i in range(self._plan._n):
            self._plan._counts[i] = t - 1
        return True

    cdef object _run(self, param, grad, tuple states, average):
        cdef Plan plan = self._plan
        cdef ptrdiff_t i
        cdef list kept = []
        cdef bint several = type(param) is list or type(param) is tuple
        plan._n_sets = 0
        for i in range(plan._n):
            if not (_has_length(grad, several, plan._n)
                    and self._is_at(param, plan._arrays[i].param, several, i, kept)
                    and self._same_states(states, average, several, i, kept)
                    and plan._match_grad(_item(grad, several, i), i, kept)):
                return None
        return plan._launch(False)

    cdef bint _same_states(self, tuple states, object average, bint several, ptrdiff_t i,
                           list kept) except -1:
        """Whether the state and the average of a parameter lie where they did and match it."""
        cdef Plan plan = self._plan
        cdef Py_ssize_t j
        for j in range(len(states)):
            if not self._is_at(states[j], plan._arrays[i].state[j], several, i, kept):
                return False
        return self._is_at(average, plan._arrays[i].average, several, i, kept)

    cdef bint _is_at(self, object value, void *address, bint several, ptrdiff_t i,
                     list kept) except -1:
        """Whether array i of an argument lies at this address and matches its parameter. It is kept
        alive until the end of the step: another thread may empty the list meanwhile."""
        if value is None or address == NULL:
            return value is None and address == NULL
        if not _has_length(value, several, self._plan._n):
            return False
        value = _item(value, several, i)
        kept.append(value)
        return _is_like(value, self._plan._params[i], address)


cdef object _of(dict given, str name):
    return _varying(name, given.get(name))


cdef bint _take(object value, double least, double most, double *number):
    if value is None:
        return True
    if not _is_float(value) or not least <= <double>value <= most:
        return False
    number[0] = value
    return True


cdef bint _has_length(object value, bint several, ptrdiff_t n):
    """Whether an argument has the form of the parameters: n in a list or tuple, or a single one."""
    if not several:
        return n == 1
    if type(value) is list:
        return len(<list>value) == n
    return type(value) is tuple and len(<tuple>value) == n


cdef object _item(object value, bint several, ptrdiff_t i):
    if not several:
        return value
    return (<list>value)[i] if type(value) is list else (<tuple>value)[i]
