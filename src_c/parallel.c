/* The step over a list of arrays, and the only file that knows of threads.
 *
 * The work of a step is counted in lines: 64 bytes of a parameter, and with them the same elements
 * of its gradient and state. The whole list is one range of lines, cut into one share per thread;
 * as elements do not depend on each other, where the cuts fall does not change a bit. */
#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* sched_getaffinity */
#endif
#include "fpenv.h"
#include "kernels.h"

#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef __linux__
#include <sched.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

#define LINE_BYTES 64
#define TILE_BYTES 32768 /* of a strided gradient: with the other streams, about an L2 cache */

static ptrdiff_t item_bytes(const struct cyopt_array *array)
{
    return array->dtype == CYOPT_FLOAT64 ? 8 : 4;
}

/* An array without a gradient is skipped. */
static ptrdiff_t lines_of(const struct cyopt_array *array)
{
    if (!array->grad)
        return 0;
    const ptrdiff_t per_line = LINE_BYTES / item_bytes(array);
    return array->size / per_line + (array->size % per_line != 0);
}

/* OpenMP's threads do not survive a fork, and libgomp waits for them forever: the child of a fork
 * stays on one thread. */
static int in_forked_child = 0;

#if defined(_OPENMP) && (defined(__unix__) || defined(__APPLE__))
static void after_fork_in_child(void)
{
    in_forked_child = 1;
}

__attribute__((constructor)) static void watch_for_forks(void)
{
    pthread_atfork(NULL, NULL, after_fork_in_child);
}
#endif

int cyopt_openmp_version(void)
{
#ifdef _OPENMP
    return _OPENMP;
#else
    return 0;
#endif
}

/* What num_threads == 0 means, asked anew at each step: OMP_NUM_THREADS and threadpoolctl act
 * through OpenMP; taskset and containers act through the affinity and max_threads. */
static int automatic_threads(const struct cyopt_config *config)
{
    int n = 1;
#ifdef _OPENMP
    n = omp_get_max_threads();
#ifdef __linux__
    cpu_set_t cpus;
    if (n > 1 && sched_getaffinity(0, sizeof cpus, &cpus) == 0 && CPU_COUNT(&cpus) < n)
        n = CPU_COUNT(&cpus);
#endif
    if (config->max_threads > 0 && config->max_threads < n)
        n = config->max_threads;
#else
    (void)config;
#endif
    return n;
}

/* One thread up to `grain` lines, two from there to twice as many, and so on: no thread is woken
 * for work that those already awake end sooner. */
int cyopt_team_size(ptrdiff_t lines, const struct cyopt_config *config)
{
    if (lines <= config->grain || in_forked_child || !cyopt_openmp_version())
        return 1;
    const int limit = config->num_threads > 0 ? config->num_threads : automatic_threads(config);
    const ptrdiff_t wanted = (lines - 1) / config->grain + 1;
    return wanted < limit ? (int)wanted : limit;
}

static void *advance(void *address, ptrdiff_t bytes)
{
    return address ? (char *)address + bytes : NULL;
}

/* Elements first, ..., end - 1 of one array. A gradient in another element order is gathered into
 * a tile on this thread's stack, part by part. */
static void run(cyopt_kernel *kernel, const struct cyopt_array *array, ptrdiff_t first,
                ptrdiff_t end, const struct cyopt_scalars *scalars)
{
    const ptrdiff_t itemsize = item_bytes(array);
    const int dense = array->grad_ndim == 0;
    const ptrdiff_t part = dense ? end - first : TILE_BYTES / itemsize;
    double tile[TILE_BYTES / sizeof(double)];
    for (; first < end; first += part) {
        const ptrdiff_t n = end - first < part ? end - first : part, offset = first * itemsize;
        const void *grad = (const char *)array->grad + offset;
        void *state[CYOPT_MAX_STATE];
        for (int j = 0; j < CYOPT_MAX_STATE; j++)
            state[j] = advance(array->state[j], offset);
        if (!dense) {
            cyopt_gather(array, first, n, tile);
            grad = tile;
        }
        kernel(n, advance(array->param, offset), grad, state, scalars);
    }
}

/* Lines begin, ..., end - 1 of the whole list: one thread's share. */
static void run_share(const struct cyopt_array *arrays, ptrdiff_t n_arrays, ptrdiff_t begin,
                      ptrdiff_t end, const struct cyopt_scalars *sets,
                      const struct cyopt_config *config)
{
    const cyopt_fpenv saved = cyopt_fpenv_enter(config->flush_subnormals);
    ptrdiff_t base = 0; /* first line of the array */
    for (ptrdiff_t i = 0; i < n_arrays && base < end; i++) {
        const struct cyopt_array *array = &arrays[i];
        const ptrdiff_t per_line = LINE_BYTES / item_bytes(array), lines = lines_of(array);
        const ptrdiff_t from = begin > base ? begin - base : 0;
        const ptrdiff_t to = end - base < lines ? end - base : lines;
        if (from < to) {
            const struct cyopt_scalars *scalars = &sets[array->set];
            const ptrdiff_t last = to == lines ? array->size : to * per_line;
            run(cyopt_find_kernel(config->isa, array->dtype, scalars), array, from * per_line, last,
                scalars);
        }
        base += lines;
    }
    cyopt_fpenv_leave(saved);
}

int cyopt_step(const struct cyopt_array *arrays, ptrdiff_t n_arrays,
               const struct cyopt_scalars *sets, const struct cyopt_config *config)
{
    ptrdiff_t lines = 0;
    for (ptrdiff_t i = 0; i < n_arrays; i++)
        lines += lines_of(&arrays[i]);
    int team = cyopt_team_size(lines, config);
    if (team == 1) {
        run_share(arrays, n_arrays, 0, lines, sets, config);
        return 1;
    }
#ifdef _OPENMP
#pragma omp parallel num_threads(team)
    {
        /* OpenMP may give fewer threads than were asked for. */
        const ptrdiff_t n = omp_get_num_threads(), id = omp_get_thread_num();
        const ptrdiff_t part = lines / n, extra = lines % n;
        const ptrdiff_t begin = id * part + (id < extra ? id : extra);
        run_share(arrays, n_arrays, begin, begin + part + (id < extra), sets, config);
        if (id == 0)
            team = (int)n;
    }
#endif
    return team;
}
