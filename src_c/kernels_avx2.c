/* The kernels for AVX2, 8 floats per vector. FMA is not enabled: each operation is rounded once. */
#include "internal.h"

#ifdef CYOPT_X86_KERNELS
#include <math.h> /* before the target: its inline functions are not ours to recompile */

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC target("avx2")
#endif

#define ISA_NAME avx2
#include "kernels_all.inc"

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
