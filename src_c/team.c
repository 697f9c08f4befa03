/* How a pass over a list of arrays is cut.
 *
 * The whole list is one range of units, cut into one share per thread. A unit is a cache line of a
 * parameter, and with it the same elements of its gradient and state; or a chunk of a sum of
 * squares. A thread takes its own share piece by piece, then what is left of the others', so a pass
 * needs no thread except its caller. Units do not depend on each other, so neither the cuts nor
 * which thread takes a piece changes a bit. */
#include "team.h"

#include "fpenv.h"
#include "pool.h"

#define PIECE_LINES 1024 /* taken at a time: 64 KiB of parameters, 5 us or more */
#define PIECE_CHUNKS 4

/* A thread takes pieces of its own share from the front, other threads take them from the back, so
 * that most pieces stay with the core that had them in the last step. Each share has a cache line
 * to itself, because other threads take from other shares. */
struct share {
    _Alignas(CYOPT_LINE_BYTES) _Atomic ptrdiff_t taken; /* pieces, from either end */
    _Atomic ptrdiff_t from_back;
    ptrdiff_t begin, end; /* units */
};

struct team {
    const struct cyopt_pass *pass;
    int n_shares;
    struct share *shares;
};

/* The position of a walk over the list: array `index`, whose first unit is `base`. */
struct cursor {
    ptrdiff_t index, base;
};

static ptrdiff_t per_line(const struct cyopt_array *array)
{
    return CYOPT_LINE_BYTES / cyopt_item_bytes(array);
}

/* Elements per unit. */
static ptrdiff_t per_unit(const struct cyopt_pass *pass, const struct cyopt_array *array)
{
    return pass->chunked ? CYOPT_CHUNK : per_line(array);
}

/* Elements of the first unit that lie before the array. */
static ptrdiff_t missing(const struct cyopt_pass *pass, const struct cyopt_array *array)
{
    return pass->chunked
               ? 0
               : (ptrdiff_t)((uintptr_t)array->param % CYOPT_LINE_BYTES) / cyopt_item_bytes(array);
}

/* An array without a gradient is skipped; its `set` means nothing. */
static ptrdiff_t units_of(const struct cyopt_pass *pass, const struct cyopt_array *array)
{
    if (!array->grad || array->size == 0)
        return 0;
    return (array->size - 1 + missing(pass, array)) / per_unit(pass, array) + 1;
}

ptrdiff_t cyopt_chunks_of(const struct cyopt_array *array)
{
    return array->grad ? cyopt_chunks_in(array->size) : 0;
}

/* Alignment does not count: the number of threads must not depend on where arrays lie. */
ptrdiff_t cyopt_lines_of(const struct cyopt_array *array)
{
    return array->grad
               ? (array->size * cyopt_item_bytes(array) + CYOPT_LINE_BYTES - 1) / CYOPT_LINE_BYTES
               : 0;
}

/* Units begin, ..., end - 1 of the whole list. The cursor is kept for the next call, further on. */
static void run_units(const struct cyopt_pass *pass, struct cursor *at, ptrdiff_t begin,
                      ptrdiff_t end)
{
    while (begin < at->base)
        at->base -= units_of(pass, &pass->arrays[--at->index]);
    for (; at->index < pass->n_arrays && at->base < end; at->index++) {
        const struct cyopt_array *array = &pass->arrays[at->index];
        const ptrdiff_t units = units_of(pass, array);
        const ptrdiff_t from = begin > at->base ? begin - at->base : 0;
        const ptrdiff_t to = end - at->base < units ? end - at->base : units;
        if (from < to) {
            const ptrdiff_t per = per_unit(pass, array), before = missing(pass, array);
            const ptrdiff_t first = from * per > before ? from * per - before : 0;
            const ptrdiff_t last = to == units ? array->size : to * per - before;
            pass->visit(pass, array, first, last, at->base + from);
        }
        if (end - at->base < units)
            return;
        at->base += units;
    }
}

/* What one thread of the team does: its own share, then the rest of the others'. */
static void take_shares(void *arg, int id)
{
    const struct team *team = arg;
    const struct cyopt_pass *pass = team->pass;
    const ptrdiff_t size = pass->chunked ? PIECE_CHUNKS : PIECE_LINES;
    struct cursor at = {0, 0};
    const cyopt_fpenv saved = cyopt_fpenv_enter(pass->config->flush_subnormals);
    for (int i = 0; i < team->n_shares; i++) {
        struct share *share = &team->shares[(id + i) % team->n_shares];
        const ptrdiff_t pieces = (share->end - share->begin - 1) / size + 1;
        for (ptrdiff_t own = 0; atomic_fetch_add(&share->taken, 1) < pieces; own++) {
            const ptrdiff_t piece =
                i == 0 ? own : pieces - 1 - atomic_fetch_add(&share->from_back, 1);
            const ptrdiff_t begin = share->begin + piece * size, rest = share->end - begin;
            run_units(pass, &at, begin, begin + (rest < size ? rest : size));
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
 * that those already awake would finish sooner. */
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

static void run_shares(const struct cyopt_pass *pass, int n_shares, ptrdiff_t units)
{
    struct share shares[CYOPT_MAX_TEAM];
    struct team team = {pass, n_shares, shares};
    const ptrdiff_t part = units / n_shares, extra = units % n_shares;
    ptrdiff_t begin = 0;
    for (int i = 0; i < n_shares; i++) {
        atomic_init(&shares[i].taken, 0);
        atomic_init(&shares[i].from_back, 0);
        shares[i].begin = begin;
        begin += part + (i < extra);
        shares[i].end = begin;
    }
    cyopt_pool_run(n_shares, take_shares, &team);
}

/* Array by array, without counting units, which takes most of the time for small lists. */
static void run_alone(const struct cyopt_pass *pass)
{
    ptrdiff_t chunk = 0;
    const cyopt_fpenv saved = cyopt_fpenv_enter(pass->config->flush_subnormals);
    for (ptrdiff_t i = 0; i < pass->n_arrays; i++) {
        const struct cyopt_array *array = &pass->arrays[i];
        if (!array->grad || array->size == 0)
            continue;
        pass->visit(pass, array, 0, array->size, chunk);
        chunk += cyopt_chunks_of(array);
    }
    cyopt_fpenv_leave(saved);
}

int cyopt_run_pass(const struct cyopt_pass *pass, ptrdiff_t work)
{
    const int team = cyopt_team_size(work, pass->config);
    ptrdiff_t units = 0, least = 0;
    for (ptrdiff_t i = 0; team > 1 && i < pass->n_arrays; i++) {
        const struct cyopt_array *array = &pass->arrays[i];
        units += units_of(pass, array);
        least += pass->chunked ? cyopt_chunks_of(array) : cyopt_lines_of(array);
    }
    const int n_shares = team <= least ? team : (int)least;
    if (n_shares > 1) {
        run_shares(pass, n_shares, units);
        return n_shares;
    }
    run_alone(pass);
    return 1;
}
