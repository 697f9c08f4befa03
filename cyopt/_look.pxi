# Included by _cpu.pyx: the checks of arrays and trees on the fast path, in nanoseconds.

cdef bint _extent(cnp.ndarray array, uintptr_t *begin, uintptr_t *end) noexcept:
    """The addresses of the first byte and one past the last, whatever the signs of the strides;
    False for an array without elements."""
    cdef ptrdiff_t reach
    cdef int d
    begin[0] = end[0] = <uintptr_t>cnp.PyArray_DATA(array)
    for d in range(cnp.PyArray_NDIM(array)):
        if cnp.PyArray_DIM(array, d) == 0:
            return False
        reach = (cnp.PyArray_DIM(array, d) - 1) * cnp.PyArray_STRIDE(array, d)
        if reach < 0:
            begin[0] += reach
        else:
            end[0] += reach
    end[0] += cnp.PyArray_ITEMSIZE(array)
    return True


def extent(cnp.ndarray array not None):
    """The addresses of the first byte of an array and one past its last."""
    cdef uintptr_t begin, end
    if not _extent(array, &begin, &end):
        end = begin = <uintptr_t>cnp.PyArray_DATA(array)
    return begin, end


cdef int ORDER = cnp.NPY_ARRAY_C_CONTIGUOUS | cnp.NPY_ARRAY_F_CONTIGUOUS


cdef int _dtype(cnp.ndarray array):
    return CYOPT_FLOAT64 if cnp.PyArray_TYPE(array) == cnp.NPY_FLOAT64 else CYOPT_FLOAT32


cdef bint _same_shape(cnp.ndarray a, cnp.ndarray known):
    """Whether an array is aligned, in native byte order, and of the shape of `known`."""
    cdef int d
    if (not cnp.PyArray_ISNOTSWAPPED(a) or not cnp.PyArray_ISALIGNED(a)
            or cnp.PyArray_NDIM(a) != cnp.PyArray_NDIM(known)):
        return False
    for d in range(cnp.PyArray_NDIM(a)):
        if cnp.PyArray_DIM(a, d) != cnp.PyArray_DIM(known, d):
            return False
    return True


cdef bint _is_like(object value, cnp.ndarray known, void *address):
    """Whether an array that a step writes lies there, with the type, shape and order of `known`."""
    if type(value) is not cnp.ndarray:
        return False
    cdef cnp.ndarray array = value
    return (cnp.PyArray_DATA(array) == address
            and cnp.PyArray_ISWRITEABLE(array)
            and (cnp.PyArray_FLAGS(array) & cnp.PyArray_FLAGS(known) & ORDER)
            and cnp.PyArray_TYPE(array) == cnp.PyArray_TYPE(known)
            and _same_shape(array, known))


cdef bint _has_form(object tree, object node):
    """Whether a tree is a dict, list or tuple with as many children as the structure `node`."""
    cdef ptrdiff_t n = len(<tuple>(<tuple>node)[0])
    if (<tuple>node)[2]:
        return type(tree) is dict and len(<dict>tree) == n
    if type(tree) is list:
        return len(<list>tree) == n
    return type(tree) is tuple and len(<tuple>tree) == n


cdef object _child(object tree, object node, tuple keys, ptrdiff_t i):
    """Child i of a tree; NotImplemented if it does not have the form of `node`: comparing keys may
    have run any code."""
    if not _has_form(tree, node):
        return NotImplemented
    if type(tree) is dict:
        return (<dict>tree).get(keys[i], NotImplemented)
    return (<list>tree)[i] if type(tree) is list else (<tuple>tree)[i]
