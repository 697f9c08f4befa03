/* The traffic twin of every rule: the same reads and writes, each read consumed by one addition.
 * Compiled instead of rules.h (CYOPT_TWIN), with the same loop, shares and threads, it has the
 * speed that a rule would have if its arithmetic were free: `python -m cyopt bench` measures the
 * rules against it.
 *
 * A rule stores only the state that its variant uses; the other additions disappear. */
static CYOPT_INLINE real NAME(prologue)(real p, real g, const NAME(scalars) h, int prologue)
{
    (void)p, (void)h, (void)prologue;
    return g;
}

static CYOPT_INLINE real NAME(average)(real a, real p, const NAME(scalars) h)
{
    (void)h;
    return a + p;
}

#define TWIN(name)                                                                                 \
    RULE(name, state0, state1, state2)                                                             \
    {                                                                                              \
        (void)h, (void)variant;                                                                    \
        *state0 = *state0 + g;                                                                     \
        *state1 = *state1 + g;                                                                     \
        *state2 = *state2 + g;                                                                     \
        return p + g;                                                                              \
    }
TWIN(sgd)
TWIN(momentum)
TWIN(adagrad)
TWIN(rmsprop)
TWIN(adam)
#undef TWIN
