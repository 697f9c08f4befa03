/* The step over a list of arrays: gradients are measured if needed, then all arrays are updated. */
#include "fpenv.h"
#include "team.h"

#include <string.h>

#define ALIGN_BYTES 8192 /* from this size on, an incomplete first line is updated separately */
/* Work that takes several passes is done in parts of this many bytes of the parameter, which stay
 * in an L1 cache with their gradient, state and average (measured: bench/NOTES.md). */
#define PART_BYTES 4096

/* What stays the same while a thread updates the part of an array that it has taken. */
struct update {
    const struct cyopt_pass *pass;
    const struct cyopt_array *array;
    const struct cyopt_scalars *scalars;
    const struct cyopt_sides *sides;
    cyopt_kernel *kernel;
};

static void *advance(void *address, ptrdiff_t bytes)
{
    return address ? (char *)address + bytes : NULL;
}

/* Whether the parameter's average begins in this step, as a copy of it. */
static int average_starts(const struct cyopt_array *array)
{
    return array->average && array->average_begins;
}

/* Only the rule, over n elements from `first` on. */
static void apply_rule(const struct update *u, ptrdiff_t first, ptrdiff_t n, const void *grad)
{
    const ptrdiff_t offset = first * cyopt_item_bytes(u->array);
    void *state[CYOPT_MAX_STATE + 1];
    for (int j = 0; j < CYOPT_MAX_STATE; j++)
        state[j] = advance(u->array->state[j], offset);
    state[CYOPT_MAX_STATE] = advance(u->array->average, offset);
    u->kernel(n, advance(u->array->param, offset), grad, state, u->scalars);
}

/* The rule and all that goes with it, over few enough elements to stay in cache. */
static void update_part(const struct update *u, ptrdiff_t first, ptrdiff_t n)
{
    const ptrdiff_t itemsize = cyopt_item_bytes(u->array);
    _Alignas(CYOPT_LINE_BYTES) char tile[PART_BYTES];
    if (average_starts(u->array))
        memcpy(advance(u->array->average, first * itemsize),
               advance(u->array->param, first * itemsize), (size_t)(n * itemsize));
    apply_rule(u, first, n, cyopt_gather(u->array, first, n, tile));
    if (u->array->zero_grad)
        cyopt_clear(u->array, first, n);
}

/* Part by part, or all at once if there is nothing but the rule. */
static void update_elements(const struct update *u, ptrdiff_t first, ptrdiff_t end)
{
    const struct cyopt_array *array = u->array;
    const ptrdiff_t itemsize = cyopt_item_bytes(array), part = PART_BYTES / itemsize;
    if (array->grad_ndim == 0 && array->grad_dtype == array->dtype && !array->zero_grad &&
        !average_starts(array)) {
        apply_rule(u, first, end - first, (const char *)array->grad + first * itemsize);
        return;
    }
    for (; first < end; first += part)
        update_part(u, first, end - first < part ? end - first : part);
}

/* An incomplete first line of a large array is updated separately, so that no later store straddles
 * two lines, which is up to 20 % faster. */
static void update_lines(const struct update *u, ptrdiff_t first, ptrdiff_t end)
{
    const ptrdiff_t itemsize = cyopt_item_bytes(u->array);
    const ptrdiff_t before = (ptrdiff_t)((uintptr_t)u->array->param % CYOPT_LINE_BYTES);
    if (first == 0 && before != 0 && end * itemsize + before >= ALIGN_BYTES) {
        first = (CYOPT_LINE_BYTES - before) / itemsize;
        update_elements(u, 0, first);
    }
    update_elements(u, first, end);
}

/* Chunk by chunk, with the sums of squares of the change and of the result. */
static void update_chunks(const struct update *u, ptrdiff_t first, ptrdiff_t end, ptrdiff_t unit)
{
    const ptrdiff_t itemsize = cyopt_item_bytes(u->array);
    union cyopt_tile change;
    for (; first < end; first += CYOPT_CHUNK, unit++) {
        const ptrdiff_t n = end - first < CYOPT_CHUNK ? end - first : CYOPT_CHUNK;
        const void *param = advance(u->array->param, first * itemsize);
        memcpy(&change, param, (size_t)(n * itemsize));
        update_elements(u, first, first + n);
        u->sides->difference(n, &change, param);
        u->pass->sums[unit] = u->sides->square_sum(n, &change, 1.0);
        u->pass->more_sums[unit] = u->sides->square_sum(n, param, 1.0);
    }
}

static void visit_update(const struct cyopt_pass *pass, const struct cyopt_array *array,
                         ptrdiff_t first, ptrdiff_t end, ptrdiff_t unit)
{
    const struct cyopt_scalars *scalars = &pass->sets[array->set];
    cyopt_kernel_finder *const find = (cyopt_kernel_finder *)pass->config->kernels;
    struct cyopt_scalars clipped;
    if (pass->has_coefficients && array->coefficient != 1.0) {
        clipped = *scalars;
        clipped.s = clipped.s * array->coefficient;
        scalars = &clipped;
    }
    const struct update update = {
        .pass = pass,
        .array = array,
        .scalars = scalars,
        .sides = cyopt_find_sides(pass->config->isa, array->dtype),
        .kernel = find(pass->config->isa, array->dtype, scalars, array->average != NULL),
    };
    if (pass->chunked)
        update_chunks(&update, first, end, unit);
    else
        update_lines(&update, first, end);
}

static void visit_skipped(const struct cyopt_pass *pass, const struct cyopt_array *array,
                          ptrdiff_t first, ptrdiff_t end, ptrdiff_t unit)
{
    (void)pass, (void)unit;
    if (array->zero_grad)
        cyopt_clear(array, first, end - first);
}

/* Rounds to nearest and keeps subnormals, whatever the caller's thread has set. This and
 * total_norm() are not in scalars.c and norms.c, beside the arithmetic that they wrap: a compiler
 * that can inline it may move it across the change of the control register. */
void cyopt_prepare(const struct cyopt_hyper *hyper, int64_t t, struct cyopt_scalars *scalars)
{
    const cyopt_fpenv saved = cyopt_fpenv_enter(0);
    cyopt_compute_scalars(hyper, t, scalars);
    cyopt_fpenv_leave(saved);
}

static double total_norm(struct cyopt_array *arrays, ptrdiff_t n_arrays, double *sums,
                         const struct cyopt_scalars *sets)
{
    const cyopt_fpenv saved = cyopt_fpenv_enter(0);
    const double norm = cyopt_compute_norm(arrays, n_arrays, sums, sets);
    cyopt_fpenv_leave(saved);
    return norm;
}

static ptrdiff_t work_of(const struct cyopt_array *array, const struct cyopt_scalars *sets)
{
#define COST(name, function, variant, slots, cost) cost,
    static const unsigned char costs[] = {CYOPT_RULES(COST)};
#undef COST
    if (!array->grad)
        return 0;
    const int more = (array->average ? 2 : 0) + (array->zero_grad ? 1 : 0);
    return cyopt_lines_of(array) * (costs[sets[array->set].rule] + more);
}

int cyopt_step(struct cyopt_array *arrays, ptrdiff_t n_arrays, const struct cyopt_scalars *sets,
               const struct cyopt_config *config, struct cyopt_report *report)
{
    ptrdiff_t work = 0;
    int measure = report->want_norms;
    for (ptrdiff_t i = 0; i < n_arrays; i++) {
        work += work_of(&arrays[i], sets);
        measure |= arrays[i].grad && cyopt_needs_norm(&sets[arrays[i].set]);
    }
    struct cyopt_pass pass = {
        .visit = visit_update,
        .chunked = report->want_norms,
        .arrays = arrays,
        .n_arrays = n_arrays,
        .sets = sets,
        .config = config,
        .sums = report->sums,
        .has_coefficients = measure,
    };
    report->grad_norm = report->update_norm = report->param_norm = -1.0;
    report->skipped = 0;
    if (measure) {
        report->skipped = cyopt_square_sums(arrays, n_arrays, sets, config, report->sums);
        report->grad_norm = total_norm(arrays, n_arrays, report->sums, sets);
    }
    if (report->skipped) {
        pass.visit = visit_skipped;
        pass.chunked = 0;
        return cyopt_run_pass(&pass, work);
    }
    if (!report->want_norms)
        return cyopt_run_pass(&pass, work);
    pass.more_sums = report->sums + cyopt_count_chunks(arrays, n_arrays);
    const int team = cyopt_run_pass(&pass, work);
    report->update_norm = total_norm(arrays, n_arrays, pass.sums, NULL);
    report->param_norm = total_norm(arrays, n_arrays, pass.more_sums, NULL);
    return team;
}
