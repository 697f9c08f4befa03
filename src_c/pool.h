/* A few sleeping threads that help the calling one; internal. */
#ifndef CYOPT_POOL_H
#define CYOPT_POOL_H

/* Calls task(arg, 0) in this thread and offers task(arg, id), id = 1, ..., n - 1, to others. When
 * task(arg, 0) returns, all work must be taken: helpers that have not started by then are sent back
 * to sleep, and those that have are waited for. */
void cyopt_pool_run(int n, void (*task)(void *arg, int id), void *arg);

/* CPUs that the calling thread may run on; 0: unknown. */
int cyopt_pool_cpus(void);

#endif
