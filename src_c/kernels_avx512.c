/* The kernels for AVX512, 16 floats per vector. It has FMA: see internal.h. */
#include "internal.h"

#ifdef CYOPT_X86_KERNELS
#include <math.h> /* before the target: its inline functions are not ours to recompile */

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512vl"))),                 \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512vl")
#endif

#define ISA_NAME avx512
#include "kernels_all.inc"

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
