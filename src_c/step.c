/* The step over a list of arrays.
 *
 * The work of a step is cut at lines: cache lines of a parameter, and with them the same elements
 * of its gradient and state. The whole list is one range of lines, cut into one share per thread.
 * A thread takes its own share piece by piece, then what is left of the others': a step needs no
 * thread but its caller. As elements do not depend on each other, neither the cuts nor who takes a
 * piece changes a bit. */
#include "fpenv.h"
#include "kernels.h"
#include "pool.h"

#include <stdatomic.h>

#define LINE_BYTES 64
#define PIECE_LINES 1024 /* taken at a time: 64 KiB of parameters, 5 us or more */
#define ALIGN_LINES 128  /* arrays from here on have their first line apart */
#define TILE_BYTES 32768 /* of a strided gradient: with the other streams, about an L2 cache */

struct share {
    /* First line that nobody has taken; alone in a cache line, as other threads take from others.
     */
    _Alignas(LINE_BYTES) _Atomic ptrdiff_t next;
    ptrdiff_t end;
};

struct step {
    const struct cyopt_array *arrays;
    ptrdiff_t n_arrays;
    const struct cyopt_scalars *sets;
    const struct cyopt_config *config;
    int n_shares;
    struct share *shares;
};

/* Where a walk over the list is: array `index`, whose first line is `base`. */
struct cursor {
    ptrdiff_t index, base;
};

static ptrdiff_t item_bytes(const struct cyopt_array *array)
{
    return array->dtype == CYOPT_FLOAT64 ? 8 : 4;
}

static ptrdiff_t per_line(const struct cyopt_array *array)
{
    return LINE_BYTES / item_bytes(array);
}

/* Elements that the first line would have before those of the array. */
static ptrdiff_t missing(const struct cyopt_array *array)
{
    return (ptrdiff_t)((uintptr_t)array->param % LINE_BYTES) / item_bytes(array);
}

/* Lines of a parameter that begins where a line does: how many threads a step has must not depend
 * on where arrays lie. An array without a gradient is skipped; its `set` means nothing. */
static ptrdiff_t whole_lines(const struct cyopt_array *array)
{
    return array->grad ? (array->size + per_line(array) - 1) / per_line(array) : 0;
}

static ptrdiff_t lines_of(const struct cyopt_array *array)
{
    if (!array->grad || array->size == 0)
        return 0;
    return (array->size - 1 + missing(array)) / per_line(array) + 1;
}

static ptrdiff_t work_of(const struct cyopt_array *array, const struct cyopt_scalars *sets)
{
#define COST(name, function, variant, slots, cost) cost,
    static const unsigned char costs[] = {CYOPT_RULES(COST)};
#undef COST
    return array->grad ? whole_lines(array) * costs[sets[array->set].rule] : 0;
}

static void *advance(void *address, ptrdiff_t bytes)
{
    return address ? (char *)address + bytes : NULL;
}

/* Elements first, ..., end - 1 of one array. A gradient in another element order is gathered into
 * a tile on this thread's stack, part by part. */
static void run_elements(cyopt_kernel *kernel, const struct cyopt_array *array, ptrdiff_t first,
                         ptrdiff_t end, const struct cyopt_scalars *scalars)
{
    const ptrdiff_t itemsize = item_bytes(array);
    const int dense = array->grad_ndim == 0;
    const ptrdiff_t part = dense ? end - first : TILE_BYTES / itemsize;
    union {
        _Alignas(LINE_BYTES) float f32[TILE_BYTES / 4];
        double f64[TILE_BYTES / 8];
    } tile;
    for (; first < end; first += part) {
        const ptrdiff_t n = end - first < part ? end - first : part, offset = first * itemsize;
        const void *grad = (const char *)array->grad + offset;
        void *state[CYOPT_MAX_STATE];
        for (int j = 0; j < CYOPT_MAX_STATE; j++)
            state[j] = advance(array->state[j], offset);
        if (!dense) {
            cyopt_gather(array, first, n, &tile);
            grad = &tile;
        }
        kernel(n, advance(array->param, offset), grad, state, scalars);
    }
}

/* Lines from, ..., to - 1 of one array. The first line of a large array is apart if it is not
 * whole: the stores of all others then do not lie across two lines, which is up to 20 % faster. */
static void run_array(const struct step *step, const struct cyopt_array *array, ptrdiff_t from,
                      ptrdiff_t to)
{
    const struct cyopt_scalars *scalars = &step->sets[array->set];
    cyopt_kernel_finder *const find = (cyopt_kernel_finder *)step->config->kernels;
    cyopt_kernel *const kernel = find(step->config->isa, array->dtype, scalars);
    const ptrdiff_t line = per_line(array), before = missing(array);
    const ptrdiff_t end = to == lines_of(array) ? array->size : to * line - before;
    ptrdiff_t first = from * line - before;
    if (first < 0) {
        first = 0;
        if (end >= ALIGN_LINES * line) {
            run_elements(kernel, array, 0, line - before, scalars);
            first = line - before;
        }
    }
    run_elements(kernel, array, first, end, scalars);
}

/* Lines begin, ..., end - 1 of the whole list. The cursor stays for the next call, further on. */
static void run_lines(const struct step *step, struct cursor *at, ptrdiff_t begin, ptrdiff_t end)
{
    if (begin < at->base)
        *at = (struct cursor){0, 0};
    for (; at->index < step->n_arrays && at->base < end; at->index++) {
        const struct cyopt_array *array = &step->arrays[at->index];
        const ptrdiff_t lines = lines_of(array);
        const ptrdiff_t from = begin > at->base ? begin - at->base : 0;
        const ptrdiff_t to = end - at->base < lines ? end - at->base : lines;
        if (from < to)
            run_array(step, array, from, to);
        if (end - at->base < lines)
            return;
        at->base += lines;
    }
}

/* What one thread of the team does: its own share, then the rest of the others'. */
static void take_shares(void *arg, int id)
{
    struct step *step = arg;
    struct cursor at = {0, 0};
    const cyopt_fpenv saved = cyopt_fpenv_enter(step->config->flush_subnormals);
    for (int i = 0; i < step->n_shares; i++) {
        struct share *share = &step->shares[(id + i) % step->n_shares];
        for (;;) {
            const ptrdiff_t begin = atomic_fetch_add(&share->next, PIECE_LINES);
            if (begin >= share->end)
                break;
            const ptrdiff_t rest = share->end - begin;
            run_lines(step, &at, begin, begin + (rest < PIECE_LINES ? rest : PIECE_LINES));
        }
    }
    cyopt_fpenv_leave(saved);
}

/* What num_threads == 0 means: max_threads, but at most the CPUs that the caller may run on. */
static int automatic_threads(const struct cyopt_config *config)
{
    const int cpus = cyopt_pool_cpus();
    if (config->max_threads > 0 && (cpus == 0 || config->max_threads < cpus))
        return config->max_threads;
    return cpus > 0 ? cpus : 1;
}

/* One thread up to `grain`, two from there to twice as much, and so on: no thread is woken for work
 * that those already awake end sooner. */
int cyopt_team_size(ptrdiff_t work, const struct cyopt_config *config)
{
    if (work <= config->grain || !cyopt_has_threads())
        return 1;
    int limit = config->num_threads > 0 ? config->num_threads : automatic_threads(config);
    if (limit > CYOPT_MAX_TEAM)
        limit = CYOPT_MAX_TEAM;
    const ptrdiff_t wanted = (work - 1) / config->grain + 1;
    return wanted < limit ? (int)wanted : limit;
}

static void run_team(struct step *step, ptrdiff_t lines)
{
    struct share shares[CYOPT_MAX_TEAM];
    const ptrdiff_t part = lines / step->n_shares, extra = lines % step->n_shares;
    ptrdiff_t begin = 0;
    for (int i = 0; i < step->n_shares; i++) {
        atomic_init(&shares[i].next, begin);
        begin += part + (i < extra);
        shares[i].end = begin;
    }
    step->shares = shares;
    cyopt_pool_run(step->n_shares, take_shares, step);
}

static void run_alone(const struct step *step, ptrdiff_t lines)
{
    struct cursor at = {0, 0};
    const cyopt_fpenv saved = cyopt_fpenv_enter(step->config->flush_subnormals);
    run_lines(step, &at, 0, lines);
    cyopt_fpenv_leave(saved);
}

/* The scalars do not depend on how the caller rounds either. */
void cyopt_prepare(const struct cyopt_hyper *hyper, int64_t t, struct cyopt_scalars *scalars)
{
    const cyopt_fpenv saved = cyopt_fpenv_enter(0);
    cyopt_compute_scalars(hyper, t, scalars);
    cyopt_fpenv_leave(saved);
}

int cyopt_step(const struct cyopt_array *arrays, ptrdiff_t n_arrays,
               const struct cyopt_scalars *sets, const struct cyopt_config *config)
{
    ptrdiff_t lines = 0, whole = 0, work = 0;
    for (ptrdiff_t i = 0; i < n_arrays; i++) {
        lines += lines_of(&arrays[i]);
        whole += whole_lines(&arrays[i]);
        work += work_of(&arrays[i], sets);
    }
    const int team = cyopt_team_size(work, config);
    const int n_shares = team <= whole ? team : (int)whole;
    struct step step = {arrays, n_arrays, sets, config, n_shares > 0 ? n_shares : 1, NULL};
    if (step.n_shares == 1)
        run_alone(&step, lines);
    else
        run_team(&step, lines);
    return step.n_shares;
}
