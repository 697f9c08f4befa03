/* EVERY update rule, once. Included by kernels.inc for each element type `real`; the same rules in
 * Python are cyopt/rules.py, and both give the same bits.
 *
 * RULE(name, state...) sees one element: parameter p, gradient g after the prologue, up to three
 * state elements by pointer, the scalars h (cyopt.h) and its variant, a compile-time constant. It
 * updates the state and returns the new parameter. Operators are + - * / and sqrt, each rounded
 * once (no FMA contraction), in the order written: that order is the definition of the result. No
 * pow, no literal, no `1 - beta`.
 *
 * MAX(a, b) is a > b ? a : b, and MIN(a, b) a < b ? a : b, with new data second, so that a NaN in
 * it is kept.
 */

/* What every rule starts with: scale and sign of the gradient; its limits; coupled weight decay. */
static CYOPT_INLINE real NAME(prologue)(real p, real g, const NAME(scalars) h, int prologue)
{
    g = h.s * g;
    if (prologue & CYOPT_LIMITED)
        g = MIN(h.limit, MAX(-h.limit, g));
    if (prologue & CYOPT_COUPLED)
        g = g + h.wd * p;
    return g;
}

/* What follows the rule for a parameter with an average a; p is the updated parameter:
 *   a = a + e*(p - a)
 * Not d*a + (1-d)*p: the two rounded factors do not add up to 1, so the average would drift away
 * from a constant parameter. The average of an infinite parameter becomes NaN, as with PyTorch's
 * lerp. */
static CYOPT_INLINE real NAME(average)(real a, real p, const NAME(scalars) h)
{
    return a + h.e * (p - a);
}

/* SGD:  p = k*p - step*g */
RULE(sgd, unused0, unused1, unused2)
{
    return h.k * p - h.step * g;
}

/* Momentum. Polyak 1964; Nesterov's form as in Sutskever et al. 2013 and PyTorch.
 *   v = mu*v + a*g        u = v;  Nesterov: u = a*g + mu*v
 *   p = k*p - step*u
 */
RULE(momentum, momentum_buffer, unused1, unused2)
{
    const real v = h.mu * *momentum_buffer + h.a * g;
    const real u = (variant & CYOPT_NESTEROV) ? h.a * g + h.mu * v : v;
    *momentum_buffer = v;
    return h.k * p - h.step * u;
}

/* AdaGrad. Duchi, Hazan & Singer 2011.
 *   sum = sum + g*g       p = k*p - (step*g) / (sqrt(sum + eps_in) + eps)
 */
RULE(adagrad, sum, unused1, unused2)
{
    *sum = *sum + g * g;
    return h.k * p - (h.step * g) / (SQRT(*sum + h.eps_in) + h.eps);
}

/* RMSProp. Tieleman & Hinton 2012; centered: Graves 2013.
 *   v = b2*v + c2*(g*g)   x = v;  centered: q = b2*q + c2*g, x = max(0, v - q*q)
 *   u = g / (sqrt(x + eps_in) + eps)
 *   p = k*p - step*u;     with momentum: w = mu*w + a*u, p = k*p - step*w
 */
RULE(rmsprop, square_avg, grad_avg, momentum_buffer)
{
    const real v = h.b2 * *square_avg + h.c2 * (g * g);
    real x = v;
    *square_avg = v;
    if (variant & CYOPT_CENTERED) {
        const real q = h.b2 * *grad_avg + h.c2 * g;
        *grad_avg = q;
        x = MAX(ZERO, v - q * q);
    }
    real u = g / (SQRT(x + h.eps_in) + h.eps);
    if (variant & CYOPT_VELOCITY)
        u = *momentum_buffer = h.mu * *momentum_buffer + h.a * u;
    return h.k * p - h.step * u;
}

/* Adam. Kingma & Ba 2015, Algorithm 1; amsgrad: Reddi, Kale & Kumar 2018.
 *   m = b1*m + c1*g       v = b2*v + c2*(g*g)       x = v;  amsgrad: x = max(x, v)
 *   p = k*p - (step*m) / (sqrt(x)*r + eps)
 */
RULE(adam, exp_avg, exp_avg_sq, max_exp_avg_sq)
{
    const real m = h.b1 * *exp_avg + h.c1 * g;
    const real v = h.b2 * *exp_avg_sq + h.c2 * (g * g);
    real x = v;
    *exp_avg = m;
    *exp_avg_sq = v;
    if (variant & CYOPT_AMSGRAD)
        x = *max_exp_avg_sq = MAX(*max_exp_avg_sq, v);
    return h.k * p - (h.step * m) / (SQRT(x) * h.r + h.eps);
}
