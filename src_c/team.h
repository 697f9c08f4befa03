/* A pass over a list of arrays, cut into shares for threads; internal. */
#ifndef CYOPT_TEAM_H
#define CYOPT_TEAM_H

#include "internal.h"

#include <stdatomic.h>

#define CYOPT_LINE_BYTES 64

/* Room for a chunk on a thread's stack. */
union cyopt_tile {
    _Alignas(CYOPT_LINE_BYTES) float f32[CYOPT_CHUNK];
    double f64[CYOPT_CHUNK];
};

struct cyopt_pass;

/* What a pass does with elements first, ..., end - 1 of one array. In a pass over chunks these are
 * whole chunks, and `unit` is the index of the first one in the list. */
typedef void cyopt_visit(const struct cyopt_pass *pass, const struct cyopt_array *array,
                         ptrdiff_t first, ptrdiff_t end, ptrdiff_t unit);

struct cyopt_pass {
    cyopt_visit *visit;
    int chunked; /* cut at chunks of CYOPT_CHUNK elements, not at cache lines of the parameter */
    const struct cyopt_array *arrays;
    ptrdiff_t n_arrays;
    const struct cyopt_scalars *sets;
    const struct cyopt_config *config;
    double *sums, *more_sums; /* one number per chunk */
    atomic_int *nonfinite;
    int has_coefficients; /* gradients are multiplied by their arrays' `coefficient` */
};

/* Runs a pass over this much work; returns the number of shares that it was cut into. */
int cyopt_run_pass(const struct cyopt_pass *pass, ptrdiff_t work);

/* Chunks of an array that has a gradient; else 0. */
ptrdiff_t cyopt_chunks_of(const struct cyopt_array *array);

/* Cache lines of an array that has a gradient, as if it were aligned to them; else 0. */
ptrdiff_t cyopt_lines_of(const struct cyopt_array *array);

static inline ptrdiff_t cyopt_chunks_in(ptrdiff_t size)
{
    return (size + CYOPT_CHUNK - 1) / CYOPT_CHUNK;
}

static inline ptrdiff_t cyopt_item_bytes(const struct cyopt_array *array)
{
    return array->dtype == CYOPT_FLOAT64 ? 8 : 4;
}

#endif
