/* cyopt: the optimizer step for array programs. The whole C interface; needs no Python.
 *
 * A step is three structs and one call:
 *
 *     struct cyopt_hyper     what the user chose: learning rate, betas, conventions
 *       |  cyopt_prepare()   once per step, in double
 *     struct cyopt_scalars   the numbers that the update rule uses
 *       |
 *     struct cyopt_array     one parameter: addresses, size, dtype, index of its scalars
 *       |  cyopt_step()      all arrays, in place; the gradients' norm first, where it is needed
 *
 * For arrays that share their hyperparameters and step count, two structs and one call suffice:
 * cyopt_default_hyper() and cyopt_update(). examples/ uses them from C and from Cython.
 *
 * Nothing here checks its arguments: that is up to the caller (see cyopt/arrays.py).
 */
#ifndef CYOPT_H
#define CYOPT_H

#include <stddef.h>
#include <stdint.h>

/* Changes with any struct below except cyopt_api, and with the meaning of any function: code
 * compiled for another version is refused, see cyopt_python.h. */
#define CYOPT_API_VERSION 2

#ifdef __cplusplus
extern "C" {
#endif

#define CYOPT_MAX_STATE 3
#define CYOPT_MAX_TEAM 256 /* threads of a step */
#define CYOPT_CHUNK 4096   /* elements per partial sum of squares: see norms.c */

enum cyopt_dtype { CYOPT_FLOAT32, CYOPT_FLOAT64, CYOPT_N_DTYPES };

/* Every rule: X(name, function in rules.h, variant flags, mask of the state slots it uses, cost).
 * `cost` is the time for one cache line (64 bytes) of the parameter with all data in cache, in
 * units of 0.5 ns: 10 with a division or root (measured in float32; see DEFAULT_GRAIN in
 * defaults.c), else the number of arrays read plus arrays written, minus one (without arithmetic,
 * the lines that come from another core's cache dominate). Add new rules at the end: the numbers
 * are compiled into hosts. */
#define CYOPT_RULES(X)                                                                             \
    X(sgd, sgd, 0, 0, 2)                                                                           \
    X(momentum, momentum, 0, 1, 4)                                                                 \
    X(nesterov, momentum, CYOPT_NESTEROV, 1, 4)                                                    \
    X(adagrad, adagrad, 0, 1, 10)                                                                  \
    X(rmsprop, rmsprop, 0, 1, 10)                                                                  \
    X(rmsprop_centered, rmsprop, CYOPT_CENTERED, 1 | 2, 10)                                        \
    X(rmsprop_momentum, rmsprop, CYOPT_VELOCITY, 1 | 4, 10)                                        \
    X(rmsprop_centered_momentum, rmsprop, CYOPT_CENTERED | CYOPT_VELOCITY, 1 | 2 | 4, 10)          \
    X(adam, adam, 0, 1 | 2, 10)                                                                    \
    X(amsgrad, adam, CYOPT_AMSGRAD, 1 | 2 | 4, 10)

enum cyopt_variant {
    CYOPT_NESTEROV = 1,
    CYOPT_CENTERED = 2,
    CYOPT_VELOCITY = 4,
    CYOPT_AMSGRAD = 8
};

#define CYOPT_RULE_ID(name, function, variant, slots, cost) CYOPT_RULE_##name,
enum cyopt_rule { CYOPT_RULES(CYOPT_RULE_ID) CYOPT_N_RULES };
#undef CYOPT_RULE_ID

/* Weight decay: added to the gradient, or a factor on the parameter before or after the update. */
enum cyopt_decay { CYOPT_DECAY_COUPLED, CYOPT_DECAY_BEFORE, CYOPT_DECAY_AFTER };

/* Where the learning rate enters the velocity v, whose sign is the frameworks' (see scalars.c). */
enum cyopt_momentum_form { CYOPT_LR_OUTSIDE, CYOPT_LR_INSIDE, CYOPT_AVERAGE };

/* What the user chose. A rule reads only the fields in its formula. */
struct cyopt_hyper {
    int rule;            /* enum cyopt_rule */
    int decay;           /* enum cyopt_decay */
    int momentum_form;   /* enum cyopt_momentum_form */
    int maximize;        /* ascend instead of descend */
    int eps_inside_sqrt; /* AdaGrad, RMSProp: sqrt(v + eps) instead of sqrt(v) + eps */
    int eps_hat;         /* Adam: eps outside the uncorrected root, as in TensorFlow */
    int bias_correction; /* Adam */
    int libm_pow;        /* Adam: beta^t by pow(), as Python's **, not by repeated squaring */
    double lr, weight_decay, grad_scale;
    double momentum, dampening; /* Momentum; RMSProp with momentum */
    double lr_decay;            /* AdaGrad */
    double beta1, beta2;        /* Adam, in [0, 1); beta2 is RMSProp's alpha */
    double eps;
    double step_size, denom_scale; /* override `step`, and Adam's `r`; NaN: do not */
    double clip_norm, clip_eps;    /* limit of the gradients' norm, 0: none; see scalars.c */
    double clip_value;             /* limit of each element of the gradient, 0: none */
    double ema;                    /* decay of the parameter's average */
    int clip_per_array;            /* clip by each array's norm, not by that of all */
    int skip_nonfinite;            /* skip the step if a gradient of this group is not finite */
};

/* The scalars of the rules, X(name); rules.h uses them under these names. */
#define CYOPT_SCALARS(X)                                                                           \
    X(s)      /* factor of the gradient: sign, 1 / grad_scale, coefficient of clip_norm */         \
    X(limit)  /* largest absolute value of a gradient's element */                                 \
    X(wd)     /* coupled weight decay */                                                           \
    X(k)      /* decoupled weight decay: factor of the parameter */                                \
    X(step)   /* factor of the update: learning rate and bias correction */                        \
    X(mu)     /* decay of the velocity */                                                          \
    X(a)      /* factor of what is added to the velocity */                                        \
    X(b1)     /* decay of the first moment */                                                      \
    X(c1)     /* 1 - b1 */                                                                         \
    X(b2)     /* decay of the second moment */                                                     \
    X(c2)     /* 1 - b2 */                                                                         \
    X(r)      /* factor of the root: bias correction of the second moment */                       \
    X(eps_in) /* epsilon inside the root */                                                        \
    X(eps)    /* epsilon outside the root */                                                       \
    X(e)      /* weight of the parameter in its average: 1 - ema */

/* What a rule starts with besides scaling the gradient. Coupled decay of 0 is left out, because it
 * would turn an infinite parameter into NaN. */
enum cyopt_prologue { CYOPT_COUPLED = 1, CYOPT_LIMITED = 2 };

/* Kept in double; a kernel rounds each scalar to its own type once. */
struct cyopt_scalars {
    int rule;     /* enum cyopt_rule */
    int prologue; /* flags of enum cyopt_prologue */
    int clip_per_array, skip_nonfinite;
    double clip_norm, clip_eps;
#define CYOPT_FIELD(name) double name;
    CYOPT_SCALARS(CYOPT_FIELD)
#undef CYOPT_FIELD
};

/* One parameter. param, state and average are dense and have one element order; so does grad, or it
 * is described by grad_ndim (at most 64), grad_shape and grad_strides (bytes) and read in C order
 * of that shape. All are aligned to their element types. No two arrays of a step overlap, except
 * that gradients that are not set to zero may overlap each other. */
struct cyopt_array {
    ptrdiff_t size; /* elements */
    int dtype;      /* enum cyopt_dtype */
    int set;        /* index into the array of cyopt_scalars */
    void *param;
    void *grad;                   /* NULL: this array is skipped */
    void *state[CYOPT_MAX_STATE]; /* the state arguments of the rule in rules.h, in their order;
                                   * slots outside the mask of CYOPT_RULES are ignored */
    void *average;                /* exponential average of the parameter; NULL: none */
    int average_begins;           /* it becomes a copy of the parameter before this step */
    int zero_grad;                /* set grad to zero; without this it is never written */
    int grad_dtype;               /* may be CYOPT_FLOAT64 for a float32 parameter */
    int grad_ndim;                /* 0: grad is dense, in the parameter's element order */
    const ptrdiff_t *grad_shape, *grad_strides;
    double coefficient; /* of clip_norm; written by the step */
};

/* What a step measures. A norm is the root of the sum of squares over all arrays that have a
 * gradient: of the gradients divided by grad_scale, of the change of the parameters, and of the
 * updated parameters. */
struct cyopt_report {
    int want_norms; /* measure all three; otherwise only the first, and only if needed */
    double *sums; /* room for twice cyopt_count_chunks() numbers, or NULL if nothing is measured */
    int skipped;  /* a gradient was not finite: parameters, state, averages are unchanged */
    double grad_norm; /* below zero: not measured */
    double update_norm, param_norm;
};

struct cyopt_config {
    int isa;              /* index into the list of cyopt_isa_name() */
    int num_threads;      /* 0: one per CPU of the thread's affinity, at most max_threads */
    int max_threads;      /* limit for num_threads == 0, such as a cgroup's quota; 0: none */
    int flush_subnormals; /* read and write subnormals as zero */
    ptrdiff_t grain;      /* work (lines x cost) per thread; at least 1 */
    uintptr_t kernels;    /* a cyopt_kernel_finder: whose kernels run; benchmarks have others. An
                           * integer because the binding makes a dict of this struct. */
};

/* Updates n elements of one dense parameter; `state` is that of struct cyopt_array, followed by the
 * average. */
typedef void cyopt_kernel(ptrdiff_t n, void *param, const void *grad, void *const state[],
                          const struct cyopt_scalars *scalars);

/* Finds the kernel for an instruction set, an element type and the rule of these scalars, and for a
 * parameter with or without an average. */
typedef cyopt_kernel *cyopt_kernel_finder(int isa, int dtype, const struct cyopt_scalars *scalars,
                                          int averaged);
cyopt_kernel_finder cyopt_find_kernel;

/* Widest first; the last one is the ABI's baseline and always available. NULL past the end. */
const char *cyopt_isa_name(int isa);
int cyopt_isa_available(int isa);

const char *cyopt_rule_name(int rule); /* NULL past the end */
int cyopt_has_threads(void);           /* 0: built without them */
void cyopt_default_config(struct cyopt_config *config);

/* The defaults of cyopt's class of this rule (PyTorch's, and momentum 0.9 for the momentum rules).
 * The momentum of RMSProp's rules is 0: it is up to the caller. */
void cyopt_default_hyper(int rule, struct cyopt_hyper *hyper);

/* Computes the scalars of step t, which counts from 1. */
void cyopt_prepare(const struct cyopt_hyper *hyper, int64_t t, struct cyopt_scalars *scalars);

/* How many threads a step is worth: `work` is the sum of its arrays' lines x cost. */
int cyopt_team_size(ptrdiff_t work, const struct cyopt_config *config);

/* Whether a step with these scalars measures its gradients. */
int cyopt_needs_norm(const struct cyopt_scalars *scalars);

/* The number of chunks in the sums of squares of these arrays. */
ptrdiff_t cyopt_count_chunks(const struct cyopt_array *arrays, ptrdiff_t n_arrays);

/* Computes the sums of squares of all chunks, for callers that add them up themselves. Returns
 * whether a gradient whose set has skip_nonfinite is not finite. */
int cyopt_square_sums(struct cyopt_array *arrays, ptrdiff_t n_arrays,
                      const struct cyopt_scalars *sets, const struct cyopt_config *config,
                      double *sums);

/* Updates all arrays in place; returns the number of shares, at most one per thread, into which the
 * work was split. Needs 64 KiB of stack. The threads that it starts are never ended: a library that
 * may be unloaded (dlclose) must be linked with -Wl,-z,nodelete. */
int cyopt_step(struct cyopt_array *arrays, ptrdiff_t n_arrays, const struct cyopt_scalars *sets,
               const struct cyopt_config *config, struct cyopt_report *report);

/* The same for arrays that all make step t of `hyper`, without measuring their gradients: clip_norm
 * and skip_nonfinite must be off. Sets each array's `set` to 0. */
int cyopt_update(struct cyopt_array *arrays, ptrdiff_t n_arrays, const struct cyopt_hyper *hyper,
                 int64_t t, const struct cyopt_config *config);

/* The functions that a host needs, as a table for code that is not linked with them: the Python
 * package has it in the capsule cyopt._C_API. New functions go at the end; `size` says how many
 * there are. */
struct cyopt_api {
    int version; /* CYOPT_API_VERSION */
    size_t size; /* bytes of this struct */
    /* As set from Python. Copy it while you hold the GIL. */
    const struct cyopt_config *config;
    const char *(*isa_name)(int isa);
    int (*isa_available)(int isa);
    const char *(*rule_name)(int rule);
    int (*has_threads)(void);
    void (*default_config)(struct cyopt_config *config);
    void (*default_hyper)(int rule, struct cyopt_hyper *hyper);
    void (*prepare)(const struct cyopt_hyper *hyper, int64_t t, struct cyopt_scalars *scalars);
    int (*team_size)(ptrdiff_t work, const struct cyopt_config *config);
    int (*needs_norm)(const struct cyopt_scalars *scalars);
    ptrdiff_t (*count_chunks)(const struct cyopt_array *arrays, ptrdiff_t n_arrays);
    int (*step)(struct cyopt_array *arrays, ptrdiff_t n_arrays, const struct cyopt_scalars *sets,
                const struct cyopt_config *config, struct cyopt_report *report);
    int (*update)(struct cyopt_array *arrays, ptrdiff_t n_arrays, const struct cyopt_hyper *hyper,
                  int64_t t, const struct cyopt_config *config);
};

#ifdef __cplusplus
}
#endif

#endif
