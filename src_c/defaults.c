/* Default configuration and hyperparameters, and cyopt_update(). */
#include "cyopt.h"

#include <math.h>

/* Work that is worth a thread of its own: 60 us of Adam (210,000 parameters in float32), 80 us of
 * Momentum, 90 us of SGD. Waking a helper costs the caller 10 us, and the helper begins after 30
 * us; a second thread paid off from 40 to 50 us of work on (2 virtual cores of an EPYC 9004,
 * measured: bench/NOTES.md). */
#define DEFAULT_GRAIN 131072

void cyopt_default_config(struct cyopt_config *config)
{
    *config = (struct cyopt_config){
        .flush_subnormals = 1,
        .grain = DEFAULT_GRAIN,
        .kernels = (uintptr_t)cyopt_find_kernel,
    };
    while (!cyopt_isa_available(config->isa))
        config->isa++;
}

void cyopt_default_hyper(int rule, struct cyopt_hyper *hyper)
{
    *hyper = (struct cyopt_hyper){
        .rule = rule,
        .bias_correction = 1,
        .lr = 1e-3,
        .grad_scale = 1.0,
        .step_size = NAN,
        .denom_scale = NAN,
        .clip_eps = 1e-6,
    };
    switch (rule) {
    case CYOPT_RULE_momentum:
    case CYOPT_RULE_nesterov:
        hyper->momentum = 0.9;
        break;
    case CYOPT_RULE_adagrad:
        hyper->lr = 1e-2;
        hyper->eps = 1e-10;
        break;
    case CYOPT_RULE_adam:
    case CYOPT_RULE_amsgrad:
        hyper->beta1 = 0.9;
        hyper->beta2 = 0.999;
        hyper->eps = 1e-8;
        break;
    case CYOPT_RULE_rmsprop:
    case CYOPT_RULE_rmsprop_centered:
    case CYOPT_RULE_rmsprop_momentum: /* its momentum is up to the caller */
    case CYOPT_RULE_rmsprop_centered_momentum:
        hyper->lr = 1e-2;
        hyper->beta2 = 0.99;
        hyper->eps = 1e-8;
        break;
    }
}

int cyopt_update(struct cyopt_array *arrays, ptrdiff_t n_arrays, const struct cyopt_hyper *hyper,
                 int64_t t, const struct cyopt_config *config)
{
    struct cyopt_scalars scalars;
    struct cyopt_report report = {0};
    cyopt_prepare(hyper, t, &scalars);
    for (ptrdiff_t i = 0; i < n_arrays; i++)
        arrays[i].set = 0;
    return cyopt_step(arrays, n_arrays, &scalars, config, &report);
}
