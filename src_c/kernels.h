/* What the kernel files and their callers share; internal. */
#ifndef CYOPT_KERNELS_H
#define CYOPT_KERNELS_H

#include "cyopt.h"

/* One kernel per rule, with coupled weight decay or without. */
typedef cyopt_kernel *const (*cyopt_kernel_table)[2];

cyopt_kernel_table cyopt_kernels_base(enum cyopt_dtype dtype);
cyopt_kernel_table cyopt_kernels_avx2(enum cyopt_dtype dtype);
cyopt_kernel_table cyopt_kernels_avx512(enum cyopt_dtype dtype);

/* Work that is worth a thread of its own: 60 us, as 210,000 parameters of Adam in float32, or
 * 700,000 of SGD. Waking a helper takes 10 us of the caller, and 30 us until it begins; a second
 * thread won from 40 to 50 us of work on, whatever the rule (2 virtual cores of an EPYC 9004,
 * measured: bench/NOTES.md). */
#define CYOPT_DEFAULT_GRAIN 131072

/* scalars.c: cyopt_prepare() in the floating-point environment that is set. */
void cyopt_compute_scalars(const struct cyopt_hyper *hyper, int64_t t,
                           struct cyopt_scalars *scalars);

/* gather.c: elements first, ..., first + n - 1 of a strided gradient, in C order of its shape. */
void cyopt_gather(const struct cyopt_array *array, ptrdiff_t first, ptrdiff_t n, void *out);

/* The extra kernel files are for GCC and clang on x86-64; elsewhere the baseline is all there is.
 */
#if defined(__x86_64__) && defined(__GNUC__)
#define CYOPT_X86_KERNELS 1
#endif

#endif
