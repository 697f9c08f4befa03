# Included by _cpu.pyx: operations that no signal handler of Python can interrupt.

@cython.final
cdef class Version:
    """Counts the changes of a group of hyperparameters, for the plans made from it."""
    cdef readonly int64_t value

    def __init__(self, int64_t value=0):
        self.value = value

    cpdef bint change(self, dict attributes, dict new, known=None) except -1:
        """Update attributes that the group already has, and count the change. With `known`, only if
        that is still the value; returns whether it was."""
        if known is not None and known != self.value:
            return False
        attributes.update(new)
        self.value += 1
        return True

    def __reduce__(self):
        return Version, (self.value,)


cpdef bint unchanged(list versions) except -1:
    """Whether no group has changed since its `Version` had the number paired with it."""
    cdef Version version
    for version, known in versions:
        if version.value != <int64_t>known:
            return False
    return True


def commit(list calls, list pairs, list changes, owner, dict waiting):
    """Call functions (each with its arguments), which must return 0; then copy bytes into the first
    array of each pair from the second, which is exactly like it; then make the changes (`Version`,
    attributes, new ones), and set what waits at the owner."""
    cdef Version version
    for function, args in calls:
        if function(*args):
            raise RuntimeError("the CUDA driver refused a copy; make a new optimizer")
    _copy_bytes(pairs)
    for version, attributes, new in changes:
        version.change(attributes, new)
    owner._waiting = waiting


cdef extern from *:
    """
    #ifdef _MSC_VER
    static __declspec(thread) int64_t cyopt_steps_of_thread;
    #else
    static _Thread_local int64_t cyopt_steps_of_thread;
    #endif
    """
    int64_t cyopt_steps_of_thread


def steps_made():
    """How many steps this thread has made: tells whether an exception came before or after one."""
    return cyopt_steps_of_thread


def count(cnp.ndarray counts, cnp.ndarray given, cnp.ndarray steps, bint keyed):
    """Count a step of the optimizer, and of each parameter that is given (1, not 0)."""
    cdef int64_t *completed = <int64_t *>cnp.PyArray_DATA(counts)
    cdef int64_t *ones = <int64_t *>cnp.PyArray_DATA(given)
    cdef int64_t *total = <int64_t *>cnp.PyArray_DATA(steps)
    cdef ptrdiff_t i
    for i in range(cnp.PyArray_SIZE(counts)):
        completed[i] += ones[i]
    _count_step(total, completed, keyed)


cdef void _count_step(int64_t *steps, const int64_t *completed, bint keyed) noexcept:
    """Count one more step of an optimizer; with `keyed`, its count is the largest of its lists.
    Without, there may be no parameters, and nothing to read in `completed`."""
    global cyopt_steps_of_thread
    cyopt_steps_of_thread += 1
    steps[0] = max(steps[0], completed[0]) if keyed else steps[0] + 1


def perform(list calls, list pairs, cnp.ndarray cell=None, cnp.ndarray known=None):
    """Call functions (each with its arguments), then copy bytes into the first array of each pair.
    With a `cell`, only if it still holds the bytes of `known`; returns whether it did."""
    if cell is not None and memcmp(
            cnp.PyArray_DATA(cell), cnp.PyArray_DATA(known), cnp.PyArray_NBYTES(cell)):
        return False
    for function, args in calls:
        function(*args)
    _copy_bytes(pairs)
    return True


def at_least(cnp.ndarray counts, cnp.ndarray least):
    """Raise each count to at least that of `least`."""
    cdef int64_t *own = <int64_t *>cnp.PyArray_DATA(counts)
    cdef int64_t *other = <int64_t *>cnp.PyArray_DATA(least)
    cdef ptrdiff_t i
    for i in range(cnp.PyArray_SIZE(counts)):
        own[i] = max(own[i], other[i])


cdef int _copy_bytes(list pairs) except -1:
    cdef cnp.ndarray to, source
    for to, source in pairs:
        memcpy(cnp.PyArray_DATA(to), cnp.PyArray_DATA(source), cnp.PyArray_NBYTES(to))
    return 0


def copy_into(list pairs):
    """Copy into the first array of each pair, of any strides, with NumPy, which may allocate."""
    cdef cnp.ndarray to, source
    for to, source in pairs:
        cnp.PyArray_CopyInto(to, source)
