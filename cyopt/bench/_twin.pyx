# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# The binding once more, over kernels compiled from src_c/twins.h: `opt.use_plan(_twin.Plan)` makes
# an optimizer move the bytes of its rule and do next to no arithmetic.
include "../_cpu.pyx"
