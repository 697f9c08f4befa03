/* Norms over a list of arrays, with the same bits for any instruction set, number of threads,
 * alignment and order of the list. Each array is summed in chunks of CYOPT_CHUNK elements, in its
 * memory order; then its chunks are added pairwise, and then the arrays, in ascending order of
 * their sums: a run continues with the same bits when its parameters, known by name, come in
 * another order. cyopt/rules.py has the same in Python. */
#include "team.h"

#include <math.h>
#include <stdlib.h>

#define READ_COST 2 /* of a line, as in CYOPT_RULES */

/* Adds neighbours, then neighbouring sums, until one is left; 0 if there are none. */
static double pairwise_sum(double *x, ptrdiff_t n)
{
    if (n == 0)
        return 0.0;
    for (; n > 1; n = (n + 1) / 2) {
        for (ptrdiff_t i = 0; i < n / 2; i++)
            x[i] = x[2 * i] + x[2 * i + 1];
        if (n % 2)
            x[n / 2] = x[n - 1];
    }
    return x[0];
}

/* For qsort: NaNs after all others, in any order. */
static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return isnan(x) || isnan(y) ? (isnan(x) != 0) - (isnan(y) != 0) : (x > y) - (x < y);
}

double cyopt_compute_norm(struct cyopt_array *arrays, ptrdiff_t n_arrays, double *sums,
                          const struct cyopt_scalars *sets)
{
    double *chunks = sums;
    ptrdiff_t n = 0;
    for (ptrdiff_t i = 0; i < n_arrays; i++) {
        const ptrdiff_t n_chunks = cyopt_chunks_of(&arrays[i]);
        if (n_chunks == 0)
            continue;
        const double sum = pairwise_sum(chunks, n_chunks);
        chunks += n_chunks;
        if (sets && sets[arrays[i].set].clip_per_array)
            arrays[i].coefficient = cyopt_clip_coefficient(&sets[arrays[i].set], sqrt(sum));
        sums[n++] = sum;
    }
    qsort(sums, (size_t)n, sizeof *sums, compare);
    const double norm = sqrt(pairwise_sum(sums, n));
    for (ptrdiff_t i = 0; sets && i < n_arrays; i++)
        if (arrays[i].grad && !sets[arrays[i].set].clip_per_array)
            arrays[i].coefficient = cyopt_clip_coefficient(&sets[arrays[i].set], norm);
    return norm;
}

/* A sum that is not finite means that an element is not, or just that squares overflow, which is no
 * reason to skip a step. */
static void visit_gradient(const struct cyopt_pass *pass, const struct cyopt_array *array,
                           ptrdiff_t first, ptrdiff_t end, ptrdiff_t unit)
{
    const struct cyopt_sides *sides = cyopt_find_sides(pass->config->isa, array->dtype);
    const struct cyopt_scalars *scalars = &pass->sets[array->set];
    union cyopt_tile tile;
    for (; first < end; first += CYOPT_CHUNK, unit++) {
        const ptrdiff_t n = end - first < CYOPT_CHUNK ? end - first : CYOPT_CHUNK;
        const void *grad = cyopt_gather(array, first, n, &tile);
        const double sum = sides->square_sum(n, grad, scalars->s);
        if (scalars->skip_nonfinite && !isfinite(sum) && !sides->all_finite(n, grad, scalars->s))
            atomic_store(pass->nonfinite, 1);
        pass->sums[unit] = sum;
    }
}

int cyopt_needs_norm(const struct cyopt_scalars *scalars)
{
    return scalars->skip_nonfinite || scalars->clip_norm != 0.0;
}

ptrdiff_t cyopt_count_chunks(const struct cyopt_array *arrays, ptrdiff_t n_arrays)
{
    ptrdiff_t n = 0;
    for (ptrdiff_t i = 0; i < n_arrays; i++)
        n += cyopt_chunks_in(arrays[i].size);
    return n;
}

int cyopt_square_sums(struct cyopt_array *arrays, ptrdiff_t n_arrays,
                      const struct cyopt_scalars *sets, const struct cyopt_config *config,
                      double *sums)
{
    atomic_int nonfinite;
    atomic_init(&nonfinite, 0);
    ptrdiff_t lines = 0;
    for (ptrdiff_t i = 0; i < n_arrays; i++)
        lines += cyopt_lines_of(&arrays[i]);
    const struct cyopt_pass pass = {
        .visit = visit_gradient,
        .chunked = 1,
        .arrays = arrays,
        .n_arrays = n_arrays,
        .sets = sets,
        .config = config,
        .sums = sums,
        .nonfinite = &nonfinite,
    };
    cyopt_run_pass(&pass, lines * READ_COST);
    return atomic_load(&nonfinite);
}
