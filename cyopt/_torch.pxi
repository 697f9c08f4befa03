# Included by _cpu.pyx: all that a step of torch's optimizers asks of a group, in one pass over it.

cdef bint _is_dense(const int64_t *form, ptrdiff_t n) noexcept:
    """Whether an array of one element or more is dense in C order; for `form` see `_described`."""
    cdef ptrdiff_t i
    cdef int64_t expected = 1
    for i in range(n - 2, 0, -2):
        if form[i] == 0 or (form[i] != 1 and form[i + 1] != expected):
            return False
        expected *= form[i]
    return True


@cython.final
cdef class TorchGroups:
    """Reads groups whose tensors are nothing but their memory, as nearly all are.

    `table` is the `DLPackTable` of tensors, and `is_negated` their method that tells that the
    numbers in memory have the other sign. Tensors of other types than `tensor` and `parameter` may
    be more than their memory.
    """
    cdef DLPackTable _table
    cdef object _tensor, _parameter, _is_negated

    def __init__(self, DLPackTable table not None, tensor, parameter, is_negated):
        self._table, self._is_negated = table, is_negated
        self._tensor, self._parameter = tensor, parameter

    def read(self, params, state, tuple slots, bint on_cpu, bint counted):
        """Of the parameters with a gradient: (columns, arrays, counters, count).

        `columns` are lists of parameters, gradients and each slot of `state`, and `arrays` the same
        on the CPU as NumPy arrays. With `counted` all `counters` have the value `count`, which is
        else 1, without its fraction. None if there is no gradient, or if anything is not as it
        mostly is: another type or order, state that is missing or not like its parameter, several
        devices or counts, one counter for two parameters.

        On a GPU only gradients are asked whether they are negated: the step asks all once more, and
        takes none.
        """
        cdef int64_t form[MOST_NUMBERS]
        cdef int64_t other[MOST_NUMBERS]
        cdef int64_t device = 0
        cdef size_t n, m
        cdef Py_ssize_t j
        cdef float count = 1
        cdef float *number
        cdef list columns = []
        cdef list arrays = [] if on_cpu else columns
        cdef list counters = []
        cdef set different = set()
        for j in range(2 + len(slots)):  # no list comprehension: see _plan.pxi
            columns.append([])
            if on_cpu:
                arrays.append([])
        for param in params:
            grad = param.grad
            if grad is None:
                continue
            if not (self._take(param, columns[0], arrays[0], on_cpu, form, &n)
                    and _is_dense(form, n)
                    and self._take(grad, columns[1], arrays[1], True, other, &m)):
                return None
            if device and form[0] & DL_DEVICE != device:
                return None
            device = form[0] & DL_DEVICE
            if not (slots or counted):
                continue
            entries = state.get(param)
            if type(entries) is not dict:
                return None
            for j in range(len(slots)):
                value = (<dict>entries).get(slots[j])
                if not (self._take(value, columns[2 + j], arrays[2 + j], on_cpu, other, &m)
                        and m == n and memcmp(other, form, n * sizeof(int64_t)) == 0):
                    return None
            if counted:
                counter = (<dict>entries).get("step")
                number = self._number(counter)
                if number == NULL or (counters and number[0] != count):
                    return None
                count = number[0]
                counters.append(counter)
                different.add(<uintptr_t>number)
        if not device or not 0 <= count < TOO_LARGE or len(different) < len(counters):
            return None
        return columns, arrays, counters, <int64_t>count

    cdef bint _is_exact(self, value) noexcept:
        return type(value) is self._parameter or type(value) is self._tensor

    cdef bint _take(self, value, list column, list arrays, bint asks, int64_t *form, size_t *n
                    ) except -1:
        """Add a tensor to its column, and describe it; False if it is not all in its memory, or, for
        an array, not of floats."""
        cdef cyopt_dl_tensor tensor
        cdef int64_t address
        if not self._is_exact(value) or (asks and self._is_negated(value)):
            return False
        if not (self._table.read(value, &tensor) and _described(&tensor, &address, form, n)):
            return False
        column.append(value)
        if arrays is not column:
            array = _array_of(&tensor, value)
            if array is None:
                return False
            arrays.append(array)
        return True

    cdef float *_number(self, value) except? NULL:
        """The address of a counter; NULL if the number is not in it, or if it is of another kind."""
        if not self._is_exact(value) or self._is_negated(value):
            return NULL
        return self._table._number(value)
