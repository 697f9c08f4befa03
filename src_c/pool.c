/* The only file that starts threads.
 *
 * Why not OpenMP: its team meets at a barrier, so that a step ends only when the last thread has
 * got a core. Training loops call a BLAS between steps, whose threads keep their cores busy for
 * milliseconds after a product; a step of 60 us then took 8 ms (2 cores, OpenBLAS). Here helpers
 * sleep between steps, and the caller never waits for one that has not begun. */
#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* sched_getaffinity */
#endif
#include "pool.h"

#include "cyopt.h"

#if defined(CYOPT_NO_THREADS) || !(defined(__unix__) || defined(__APPLE__))

void cyopt_pool_run(int n, void (*task)(void *arg, int id), void *arg)
{
    (void)n;
    task(arg, 0);
}

int cyopt_has_threads(void)
{
    return 0;
}

int cyopt_pool_cpus(void)
{
    return 1;
}

#else

#include <pthread.h>
#include <signal.h>
#include <unistd.h>
#ifdef __linux__
#include <sched.h>
#endif

static struct {
    pthread_mutex_t lock;    /* of all that follows */
    pthread_cond_t offer;    /* places > 0 */
    pthread_cond_t finished; /* active == 0 */
    int in_use;              /* a caller has the pool */
    int helpers;             /* threads that exist */
    int places;              /* helpers that may still join */
    int joined;              /* helpers that have joined this task */
    int active;              /* joined helpers that are not done */
    void (*task)(void *arg, int id);
    void *arg;
} pool = {
    .lock = PTHREAD_MUTEX_INITIALIZER,
    .offer = PTHREAD_COND_INITIALIZER,
    .finished = PTHREAD_COND_INITIALIZER,
};

static void *help(void *unused)
{
    pthread_mutex_lock(&pool.lock);
    for (;;) {
        while (pool.places == 0)
            pthread_cond_wait(&pool.offer, &pool.lock);
        pool.places--;
        pool.active++;
        const int id = ++pool.joined;
        void (*const task)(void *, int) = pool.task;
        void *const arg = pool.arg;
        pthread_mutex_unlock(&pool.lock);
        task(arg, id);
        pthread_mutex_lock(&pool.lock);
        if (--pool.active == 0)
            pthread_cond_signal(&pool.finished);
    }
    return unused;
}

/* After a fork the child has no helpers, but a lock that one of them may have held. */
static void reset_in_child(void)
{
    static const pthread_mutex_t new_lock = PTHREAD_MUTEX_INITIALIZER;
    static const pthread_cond_t new_condition = PTHREAD_COND_INITIALIZER;
    pool.lock = new_lock;
    pool.offer = new_condition;
    pool.finished = new_condition;
    pool.in_use = pool.helpers = pool.places = pool.joined = pool.active = 0;
}

static void watch_for_forks(void)
{
    pthread_atfork(NULL, NULL, reset_in_child);
}

/* Helpers block signals, which are for the program's own threads, except faults: those must reach
 * the handler that reports them. The lock is held. */
static void start_helpers(int wanted)
{
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS};
    sigset_t others, before;
    sigfillset(&others);
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++)
        sigdelset(&others, faults[i]);
    pthread_sigmask(SIG_BLOCK, &others, &before);
    for (pthread_t thread; pool.helpers < wanted; pool.helpers++) {
        if (pthread_create(&thread, NULL, help, NULL) != 0)
            break; /* with fewer helpers the caller does more */
        pthread_detach(thread);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void cyopt_pool_run(int n, void (*task)(void *arg, int id), void *arg)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch_for_forks); /* not under the lock: a fork here leaves it free */
    pthread_mutex_lock(&pool.lock);
    if (pool.in_use) { /* by a step of another thread: the program is parallel already */
        pthread_mutex_unlock(&pool.lock);
        task(arg, 0);
        return;
    }
    if (pool.helpers < n - 1)
        start_helpers(n - 1);
    pool.in_use = 1;
    pool.task = task;
    pool.arg = arg;
    pool.joined = 0;
    pool.places = n - 1;
    for (int i = 1; i < n; i++)
        pthread_cond_signal(&pool.offer);
    pthread_mutex_unlock(&pool.lock);

    /* Helpers use what is on this thread's stack: pthread_cancel() has to wait for them. */
    int cancel_state;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel_state);
    task(arg, 0);
    pthread_mutex_lock(&pool.lock);
    pool.places = 0;
    while (pool.active > 0)
        pthread_cond_wait(&pool.finished, &pool.lock);
    pool.in_use = 0;
    pthread_mutex_unlock(&pool.lock);
    pthread_setcancelstate(cancel_state, NULL);
}

int cyopt_has_threads(void)
{
    return 1;
}

int cyopt_pool_cpus(void)
{
#ifdef __linux__
    cpu_set_t cpus;
    if (sched_getaffinity(0, sizeof cpus, &cpus) == 0)
        return CPU_COUNT(&cpus);
#endif
    /* sched_getaffinity() fails with more than 1,024 CPUs: count those online. */
    const long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (int)online : 0;
}

#endif
