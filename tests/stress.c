/* Threads that step lists of arrays of their own, at the same time and with every number of
 * helpers, while others change nothing but settings of their own: for ThreadSanitizer, and the
 * results must be those of one thread. */
#define _POSIX_C_SOURCE 200809L
#include <cyopt.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define CALLERS 4
#define STEPS 12
#define ARRAYS 5
#define SIZE 40001 /* several pieces for each of a few threads */

struct model {
    float param[ARRAYS][SIZE], grad[ARRAYS][SIZE], m[ARRAYS][SIZE], v[ARRAYS][SIZE];
    float average[ARRAYS][SIZE];
};

static void train(struct model *model, int max_threads)
{
    struct cyopt_hyper hyper = {.rule = CYOPT_RULE_adam, .bias_correction = 1, .lr = 0.01};
    struct cyopt_config config;
    struct cyopt_array arrays[ARRAYS];
    double sums[2 * ARRAYS * (SIZE / CYOPT_CHUNK + 1)];
    hyper.beta1 = hyper.ema = 0.9;
    hyper.beta2 = 0.99;
    hyper.eps = 1e-8;
    hyper.grad_scale = hyper.clip_norm = 1.0;
    hyper.skip_nonfinite = 1;
    hyper.step_size = hyper.denom_scale = 0.0 / 0.0;
    cyopt_default_config(&config);
    config.grain = 1;
    memset(model, 0, sizeof *model);
    memset(arrays, 0, sizeof arrays);
    for (int i = 0; i < ARRAYS; i++) {
        arrays[i].size = SIZE - 1000 * i;
        arrays[i].param = model->param[i];
        arrays[i].grad = model->grad[i];
        arrays[i].state[0] = model->m[i];
        arrays[i].state[1] = model->v[i];
        arrays[i].average = model->average[i];
    }
    for (int t = 1; t <= STEPS; t++) {
        struct cyopt_scalars scalars;
        struct cyopt_report report = {.want_norms = t % 3 == 0, .sums = sums};
        cyopt_prepare(&hyper, t, &scalars);
        config.num_threads = 1 + t % max_threads;
        for (int i = 0; i < ARRAYS; i++)
            for (int j = 0; j < SIZE; j++)
                model->grad[i][j] = (float)((j * 31 + t * 7 + i) % 17) - 8.0f;
        cyopt_step(arrays, ARRAYS, &scalars, &config, &report);
    }
}

static void *train_with_helpers(void *model)
{
    train(model, 5);
    return NULL;
}

static void *train_for_ever(void *model)
{
    for (;;) {
        train_with_helpers(model);
        pthread_testcancel();
    }
    return NULL;
}

/* A caller that is cancelled leaves the helpers free for the next one. */
static void cancel_a_caller(struct model *model)
{
    const struct timespec some_steps = {.tv_nsec = 50000000};
    pthread_t caller;
    pthread_create(&caller, NULL, train_for_ever, model);
    nanosleep(&some_steps, NULL);
    pthread_cancel(caller);
    pthread_join(caller, NULL);
}

int main(void)
{
    struct model *models = malloc((CALLERS + 1) * sizeof *models);
    pthread_t callers[CALLERS];
    alarm(400); /* a step that never ends */
    train(&models[CALLERS], 1);
    for (int i = 0; i < CALLERS; i++)
        pthread_create(&callers[i], NULL, train_with_helpers, &models[i]);
    for (int i = 0; i < CALLERS; i++)
        pthread_join(callers[i], NULL);
    for (int i = 0; i < 5; i++)
        cancel_a_caller(&models[0]);
    train_with_helpers(&models[0]);
    for (int i = 0; i < CALLERS; i++)
        if (memcmp(&models[i], &models[CALLERS], sizeof *models) != 0) {
            printf("caller %d has other results\n", i);
            return 1;
        }
    free(models);
    return 0;
}
