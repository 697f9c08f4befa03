# Included by _cpu.pyx: only sums of squares, for callers that add them up (cyopt.distributed).


def square_sums(cnp.ndarray array, double s, double[::1] sums):
    """Put the sum of the squares of `s*x` of each chunk of a dense array into `sums`.

    Returns whether all numbers are finite. The sums are those of `cyopt.rules.square_sums`.
    """
    cdef cyopt_array a
    cdef cyopt_scalars scalars
    cdef cyopt_config config = _config
    cdef bint nonfinite
    a.size, a.dtype, a.set = cnp.PyArray_SIZE(array), _dtype(array), 0
    a.param = a.grad = cnp.PyArray_DATA(array)
    a.grad_dtype, a.grad_ndim, a.average, a.average_begins, a.zero_grad = a.dtype, 0, NULL, 0, 0
    scalars.s, scalars.skip_nonfinite = s, 1
    with nogil:
        nonfinite = cyopt_square_sums(&a, 1, &scalars, &config, &sums[0])
    return not nonfinite
