# cython: language_level=3
"""The kernels of src_c/twins.h, for `_cpu.set_config(kernels=KERNELS)`: a step then moves the bytes
of its rule and does next to no arithmetic."""

from libc.stdint cimport uintptr_t

cdef extern from "cyopt.h":
    void *cyopt_find_kernel  # a function, of which only the address is used

KERNELS = <uintptr_t>&cyopt_find_kernel
