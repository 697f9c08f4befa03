/* A step of Adam from C, without Python. From the root of the repository:
 *
 *     gcc -O3 -std=c11 -fno-math-errno -ffp-contract=off -pthread -Isrc_c \
 *         examples/embed_c/one_step.c src_c/[a-z]*.c -lm -o one_step && ./one_step
 */
#include "cyopt.h"

#include <math.h>
#include <stdio.h>

#define N 3

int main(void)
{
    float weights[N] = {1.0f, -2.0f, 3.0f}, gradient[N] = {0.5f, -0.25f, 0.0f};
    float exp_avg[N] = {0}, exp_avg_sq[N] = {0};
    struct cyopt_array array = {
        .size = N,
        .dtype = CYOPT_FLOAT32,
        .param = weights,
        .grad = gradient,
        .grad_dtype = CYOPT_FLOAT32,
        .state = {exp_avg, exp_avg_sq},
    };
    struct cyopt_hyper hyper;
    struct cyopt_config config;

    cyopt_default_config(&config);
    cyopt_default_hyper(CYOPT_RULE_adam, &hyper);
    hyper.lr = 0.1;
    cyopt_update(&array, 1, &hyper, 1, &config);

    /* The first step of Adam moves each weight by lr, against the sign of its gradient. */
    const float expected[N] = {0.9f, -1.9f, 3.0f};
    for (int i = 0; i < N; i++) {
        printf("%g\n", (double)weights[i]);
        if (fabsf(weights[i] - expected[i]) > 1e-6f)
            return 1;
    }
    return 0;
}
