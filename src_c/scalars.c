/* Hyperparameters and step count -> the scalars of the rules. All in double, left to right as
 * written; cyopt/rules.py has the same formulas, and a test compares the two bit for bit. */
#include "internal.h"

#include <math.h>

/* beta1^t and beta2^t by repeated squaring: multiplications only, so the same bits on every
 * machine, which libm's pow() does not promise. Both at once, and times 1 where a bit of t is 0,
 * which changes nothing: a step waits for these two chains, and a branch on t would be
 * mispredicted. A base below LOST becomes 0, since 1 minus such a power is 1 anyway: the square of
 * a tiny number is subnormal, which takes a hundred cycles. */
#define LOST 0x1p-60
static void powers_by_squaring(const double beta[2], int64_t t, double power[2])
{
    double b1 = beta[0], b2 = beta[1], p1 = 1.0, p2 = 1.0;
    for (; t > 0; t >>= 1) {
        p1 = p1 * (t & 1 ? b1 : 1.0);
        p2 = p2 * (t & 1 ? b2 : 1.0);
        b1 = b1 < LOST ? 0.0 : b1 * b1;
        b2 = b2 < LOST ? 0.0 : b2 * b2;
    }
    power[0] = p1;
    power[1] = p2;
}

static void powers_by_libm(const double beta[2], int64_t t, double power[2])
{
    power[0] = pow(beta[0], (double)t);
    power[1] = pow(beta[1], (double)t);
}

/* How the frameworks write the velocity v; mu is the same in all:
 *   outside (PyTorch, TensorFlow 1, optax)  v = mu*v + (1-dampening)*g     p = p - lr*v
 *                                           PyTorch: no dampening in this parameter's first step,
 *                                           nor while mu is 0
 *   inside (Keras, scikit-learn)            v = mu*v - lr*g                p = p + v
 *   average (textbooks, autograd)           v = mu*v + (1-mu)*g            p = p - lr*v
 */
static void prepare_momentum(const struct cyopt_hyper *h, int64_t t, struct cyopt_scalars *x)
{
    x->mu = h->momentum;
    switch (h->momentum_form) {
    case CYOPT_LR_OUTSIDE:
        x->a = t == 1 || h->momentum == 0.0 ? 1.0 : 1.0 - h->dampening;
        break;
    case CYOPT_LR_INSIDE:
        x->a = -h->lr;
        x->step = -1.0;
        break;
    case CYOPT_AVERAGE:
        x->a = 1.0 - h->momentum;
        break;
    }
}

/* RMSProp's velocity takes the scaled gradient u: w = mu*w + u, p = p - lr*w (PyTorch), or with lr
 * inside, w = mu*w + lr*u, p = p - w (Keras, TensorFlow, optax). */
static void prepare_rmsprop(const struct cyopt_hyper *h, struct cyopt_scalars *x)
{
    const int inside =
        h->momentum_form == CYOPT_LR_INSIDE &&
        (h->rule == CYOPT_RULE_rmsprop_momentum || h->rule == CYOPT_RULE_rmsprop_centered_momentum);
    x->mu = h->momentum;
    x->a = inside ? h->lr : 1.0;
    if (inside)
        x->step = 1.0;
}

/* step and r of Adam:
 *   paper, PyTorch, optax                         lr / (1-b1^t)                 1 / sqrt(1-b2^t)
 *   "epsilon hat": Keras, TensorFlow, sklearn     lr * sqrt(1-b2^t) / (1-b1^t)  1
 *   without bias correction                       lr                            1
 */
static void prepare_adam(const struct cyopt_hyper *h, int64_t t, struct cyopt_scalars *x)
{
    if (h->bias_correction) {
        const double beta[2] = {h->beta1, h->beta2};
        double power[2];
        if (h->libm_pow)
            powers_by_libm(beta, t, power);
        else
            powers_by_squaring(beta, t, power);
        const double root2 = sqrt(1.0 - power[1]);
        if (h->eps_hat) {
            x->step = h->lr * root2 / (1.0 - power[0]);
        } else {
            x->step = h->lr / (1.0 - power[0]);
            x->r = 1.0 / root2;
        }
    }
    if (!isnan(h->denom_scale))
        x->r = h->denom_scale;
}

void cyopt_compute_scalars(const struct cyopt_hyper *h, int64_t t, struct cyopt_scalars *x)
{
    const int coupled = h->decay == CYOPT_DECAY_COUPLED;
    x->rule = h->rule;
    x->prologue = (coupled && h->weight_decay != 0.0 ? CYOPT_COUPLED : 0) |
                  (h->clip_value != 0.0 ? CYOPT_LIMITED : 0);
    x->clip_norm = h->clip_norm;
    x->clip_eps = h->clip_eps;
    x->clip_per_array = h->clip_per_array;
    x->skip_nonfinite = h->skip_nonfinite;
    x->limit = h->clip_value;
    x->s = (h->maximize ? -1.0 : 1.0) * (1.0 / h->grad_scale);
    x->wd = coupled ? h->weight_decay : 0.0;
    x->k = coupled ? 1.0 : 1.0 - h->lr * h->weight_decay;
    x->step = h->lr;
    x->mu = x->a = 0.0;
    x->r = 1.0;
    x->b1 = h->beta1;
    x->c1 = 1.0 - h->beta1;
    x->b2 = h->beta2;
    x->c2 = 1.0 - h->beta2;
    x->eps_in = h->eps_inside_sqrt ? h->eps : 0.0;
    x->eps = h->eps_inside_sqrt ? 0.0 : h->eps;
    x->e = 1.0 - h->ema;

    switch (h->rule) {
    case CYOPT_RULE_momentum:
    case CYOPT_RULE_nesterov:
        prepare_momentum(h, t, x);
        break;
    case CYOPT_RULE_adagrad:
        x->step = h->lr / (1.0 + ((double)t - 1.0) * h->lr_decay);
        break;
    case CYOPT_RULE_rmsprop:
    case CYOPT_RULE_rmsprop_centered:
    case CYOPT_RULE_rmsprop_momentum:
    case CYOPT_RULE_rmsprop_centered_momentum:
        prepare_rmsprop(h, x);
        break;
    case CYOPT_RULE_adam:
    case CYOPT_RULE_amsgrad:
        prepare_adam(h, t, x);
        break;
    }
    if (!isnan(h->step_size))
        x->step = h->step_size;
    /* Decay after the update: k*(p - step*u) = k*p - (step*k)*u. */
    if (h->decay == CYOPT_DECAY_AFTER)
        x->step = x->step * x->k;
}

/* PyTorch's clip_grad_norm_ has clip_eps = 1e-6, thinc, Keras and optax 0. A NaN norm gives NaN. */
double cyopt_clip_coefficient(const struct cyopt_scalars *x, double norm)
{
    if (x->clip_norm == 0.0)
        return 1.0;
    const double ratio = x->clip_norm / (norm + x->clip_eps);
    return 1.0 < ratio ? 1.0 : ratio;
}
