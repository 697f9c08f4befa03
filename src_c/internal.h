/* What the files of src_c share, hidden from hosts. */
#ifndef CYOPT_INTERNAL_H
#define CYOPT_INTERNAL_H

#include "cyopt.h"

/* Every operation is rounded once: no fused a*b + c. AVX-512 and arm64 have FMA, and compilers use
 * it unless it is turned off: for clang by this pragma, for GCC by -std=c11 (-ffp-contract=off may
 * be added). */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__) && !defined(__STRICT_ANSI__)
#error "cyopt promises the same bits everywhere: compile it with -std=c11 -ffp-contract=off"
#endif

/* One kernel per rule and options: flags of the prologue, and whether there is an average. */
enum { CYOPT_AVERAGED = 4, CYOPT_N_OPTIONS = 8 };
typedef cyopt_kernel *const (*cyopt_kernel_table)[CYOPT_N_OPTIONS];

/* What a step does besides its rule: sides.inc. */
struct cyopt_sides {
    double (*square_sum)(ptrdiff_t n, const void *numbers, double s);
    int (*all_finite)(ptrdiff_t n, const void *numbers, double s);
    void (*difference)(ptrdiff_t n, void *before, const void *after);
};

/* The tables of one instruction set, indexed by enum cyopt_dtype: kernels_all.inc. */
struct cyopt_isa {
    cyopt_kernel_table kernels[CYOPT_N_DTYPES];
    const struct cyopt_sides *sides[CYOPT_N_DTYPES];
};

extern const struct cyopt_isa cyopt_isa_base, cyopt_isa_avx2, cyopt_isa_avx512;

/* dispatch.c */
const struct cyopt_sides *cyopt_find_sides(int isa, int dtype);

/* scalars.c: cyopt_prepare() in the current floating-point environment. */
void cyopt_compute_scalars(const struct cyopt_hyper *hyper, int64_t t,
                           struct cyopt_scalars *scalars);

/* norms.c: the norm from the sums of all chunks, which it overwrites, in the current floating-point
 * environment. With `sets`, it sets the arrays' coefficients as well. */
double cyopt_compute_norm(struct cyopt_array *arrays, ptrdiff_t n_arrays, double *sums,
                          const struct cyopt_scalars *sets);

/* scalars.c: the factor by which clip_norm multiplies gradients of this norm. */
double cyopt_clip_coefficient(const struct cyopt_scalars *scalars, double norm);

/* gather.c: elements first, ..., first + n - 1 of a gradient, in the parameter's order, to read (in
 * place, or copied to `tile`, which has room for n) and to set to zero. */
const void *cyopt_gather(const struct cyopt_array *array, ptrdiff_t first, ptrdiff_t n, void *tile);
void cyopt_clear(const struct cyopt_array *array, ptrdiff_t first, ptrdiff_t n);

/* The extra kernel files are for GCC and clang on x86-64; elsewhere there is only the baseline. */
#if defined(__x86_64__) && defined(__GNUC__)
#define CYOPT_X86_KERNELS 1
#endif

#endif
