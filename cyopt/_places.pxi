# Included by _cpu.pyx: the addresses of arrays that are not NumPy's, in tens of nanoseconds each.

def first_of_types(list values):
    """The first value of each type, in their order; None is not a value."""
    cdef object last = None
    cdef dict first = {}
    for value in values:
        if type(value) is not last:
            last = type(value)
            first.setdefault(last, value)
    first.pop(type(None), None)
    return list(first.values())


cdef bint _still_has(value, tuple shape) except -1:
    """Whether an array that can only have been reshaped still has this shape.

    Its size has not changed, so with up to two axes the first decides. CuPy makes a tuple of a
    shape in 60 ns, and gives `ndim` and `len` in 10.
    """
    cdef ptrdiff_t n = len(shape)
    if value.ndim != n:
        return False
    if n > 2 or 0 in shape:
        return value.shape == shape
    return n == 0 or len(value) == shape[0]


@cython.final
cdef class Places:
    """Where arrays lie and what describes them, to find arrays that differ only in address.

    `asked(type)` says how: (table, is_lazy, identity, only_reshaped). `table` is its `DLPackTable`
    or None. `is_lazy` says whether an array's numbers are not those in its memory; None: they are.
    `identity`, for types without a table, is an attribute or a function that gives a tuple: the
    address, then all else that describes an array. `only_reshaped`: while it is the same object, an
    array can only be reshaped; its shape is then second in the tuple. None stands for no array.
    """
    cdef list _forms                # of each array: None, bytes of the numbers, or the tuple
    cdef public cnp.ndarray addresses
    cdef list _first                # weak references to those that can only be reshaped
    cdef object _asked
    # For the type that was seen last.
    cdef object _type, _lazy, _identity
    cdef DLPackTable _dlpack
    cdef bint _only_reshaped

    def __init__(self, list values, asked):
        cdef int64_t address
        cdef int64_t numbers[MOST_NUMBERS]
        self._asked = asked
        self._forms, self._first = [], []
        self.addresses = np.empty(len(values), np.int64)
        for i, value in enumerate(values):
            self._forms.append(self._form(value, &address, numbers))
            self.addresses[i] = address
            lasts = value is not None and self._only_reshaped
            self._first.append(PyWeakref_NewRef(value, None) if lasts else None)

    def find(self, list values):
        """The addresses of arrays that match these; None if one does not. If all lie where these
        do, it is the same object as `addresses`."""
        cdef ptrdiff_t i, n = len(self._forms)
        cdef int64_t address
        cdef int64_t numbers[MOST_NUMBERS]
        cdef cnp.ndarray before = self.addresses, found = before
        cdef int64_t *known = <int64_t *>cnp.PyArray_DATA(before)
        if len(values) != n:
            return None
        for i in range(n):
            if not self._is_alike(values[i], i, &address, numbers):
                return None
            if address != known[i] and found is before:
                found = before.copy()
            if found is not before:
                (<int64_t *>cnp.PyArray_DATA(found))[i] = address
        return found

    cdef bint _is_alike(
            self, value, ptrdiff_t i, int64_t *address, int64_t *numbers) except -1:
        cdef size_t n
        cdef ptrdiff_t j
        cdef tuple identity
        form = self._forms[i]
        address[0] = 0
        if value is None or form is None:
            return value is form
        self._choose(type(value))
        if type(form) is bytes:
            return (
                self._look(value, address, numbers, &n)
                and <size_t>PyBytes_GET_SIZE(form) == n * sizeof(int64_t)
                and memcmp(numbers, PyBytes_AS_STRING(form), n * sizeof(int64_t)) == 0
            )
        if self._only_reshaped and self._is_first(value, i):
            address[0] = (<tuple>form)[0]
            return _still_has(value, (<tuple>form)[1])
        identity = self._ask(value)
        address[0] = identity[0]
        if identity is form:
            return True
        if len(identity) != len(<tuple>form):
            return False
        for j in range(1, len(identity)):
            known = (<tuple>form)[j]
            if identity[j] is not known and identity[j] != known:
                return False
        return True

    cdef bint _is_first(self, value, ptrdiff_t i) except -1:
        """Whether it is the object that was seen first."""
        cdef PyObject *first = NULL
        if self._first[i] is None:
            return False
        PyWeakref_GetRef(self._first[i], &first)
        Py_XDECREF(first)
        return first == <PyObject *>value

    cdef _form(self, value, int64_t *address, int64_t *numbers):
        cdef size_t n
        cdef tuple identity
        address[0] = 0
        if value is None:
            return None
        self._choose(type(value))
        if self._look(value, address, numbers, &n):
            return PyBytes_FromStringAndSize(<char *>numbers, n * sizeof(int64_t))
        identity = self._ask(value)
        address[0] = identity[0]
        return identity

    cdef bint _look(self, value, int64_t *address, int64_t *numbers, size_t *n) except -1:
        return (
            self._dlpack is not None
            and self._dlpack.look(value, address, numbers, n)
            and (self._lazy is None or not self._lazy(value))
        )

    cdef tuple _ask(self, value):
        if type(self._identity) is str:
            return getattr(value, self._identity)
        return self._identity(value)

    cdef int _choose(self, type_) except -1:
        if type_ is not self._type:
            self._type = None
            self._dlpack, self._lazy, self._identity, \
                self._only_reshaped = self._asked(type_)
            self._type = type_
        return 0
