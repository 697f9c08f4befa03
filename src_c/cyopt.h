/* cyopt: the optimizer step for array programs. The whole C interface; needs no Python.
 *
 * A step is three structs and one call:
 *
 *     struct cyopt_hyper     what the user chose: learning rate, betas, conventions
 *       |  cyopt_prepare()   once per step, in double
 *     struct cyopt_scalars   the numbers that the update rule multiplies with
 *       |
 *     struct cyopt_array     one parameter: addresses, size, dtype, index of its scalars
 *       |  cyopt_step()      all arrays, in place; the gradients' norm first, where it is needed
 *
 * Arrays that share their hyperparameters and their count of steps need two structs and one call:
 * cyopt_default_hyper() and cyopt_update(). examples/ uses them from C and from Cython.
 *
 * Nothing here checks its arguments: that is the caller's part (see cyopt/arrays.py).
 */
#ifndef CYOPT_H
#define CYOPT_H

#include <stddef.h>
#include <stdint.h>

/* Changes with any struct below but cyopt_api, and with what a function means: code compiled for
 * another version is then refused, see cyopt_python.h. */
#define CYOPT_API_VERSION 2

#ifdef __cplusplus
extern "C" {
#endif

#define CYOPT_MAX_STATE 3
#define CYOPT_MAX_TEAM 256 /* threads of a step */
#define CYOPT_CHUNK 4096   /* elements of a partial sum of squares: see norms.c */

enum cyopt_dtype { CYOPT_FLOAT32, CYOPT_FLOAT64, CYOPT_N_DTYPES };

/* Every rule: X(name, function in rules.h, variant flags, mask of the state slots it uses, cost).
 * The cost is how long a line (64 bytes of the parameter) takes inside the caches, in units of half
 * a nanosecond: 10 if there is a division or root (measured in float32; see DEFAULT_GRAIN in
 * defaults.c), else the number of arrays that are read and written, less one, as beside so little
 * work the lines that come from another core's cache cost most. New rules go to the end: the
 * numbers are compiled into hosts. */
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

/* Where the learning rate enters a velocity v; signs as the frameworks store it (see scalars.c). */
enum cyopt_momentum_form { CYOPT_LR_OUTSIDE, CYOPT_LR_INSIDE, CYOPT_AVERAGE };

/* What the user chose. A rule reads only the fields that its formula has. */
struct cyopt_hyper {
    int rule;            /* enum cyopt_rule */
    int decay;           /* enum cyopt_decay */
    int momentum_form;   /* enum cyopt_momentum_form */
    int maximize;        /* ascend instead of descend */
    int eps_inside_sqrt; /* AdaGrad, RMSProp: sqrt(v + eps) instead of sqrt(v) + eps */
    int eps_hat;         /* Adam: eps beside the uncorrected root, as in TensorFlow */
    int bias_correction; /* Adam */
    int libm_pow;        /* Adam: beta^t by pow(), as Python's **, not by repeated squaring */
    double lr, weight_decay, grad_scale;
    double momentum, dampening; /* Momentum; RMSProp with momentum */
    double lr_decay;            /* AdaGrad */
    double beta1, beta2;        /* Adam, in [0, 1); beta2 is RMSProp's alpha */
    double eps;
    double step_size, denom_scale; /* the caller's own `step`, and `r` of Adam, or NaN */
    double clip_norm, clip_eps;    /* limit of the gradients' norm, 0: none; see scalars.c */
    double clip_value;             /* limit of each element of the gradient, 0: none */
    double ema;                    /* decay of the parameter's average */
    int clip_per_array;            /* the norm is each array's own, not that of all */
    int skip_nonfinite;            /* a gradient of this group that is not finite skips the step */
};

/* The scalars of the rules, X(name); rules.h uses them under these names. */
#define CYOPT_SCALARS(X)                                                                           \
    X(s)      /* factor of the gradient: sign, 1 / grad_scale, coefficient of clip_norm */         \
    X(limit)  /* of each element of the gradient, in size */                                       \
    X(wd)     /* coupled weight decay */                                                           \
    X(k)      /* decoupled weight decay: factor of the parameter */                                \
    X(step)   /* factor of the update: learning rate and bias correction */                        \
    X(mu)     /* decay of the velocity */                                                          \
    X(a)      /* factor of what enters the velocity */                                             \
    X(b1)     /* decay of the first moment */                                                      \
    X(c1)     /* 1 - b1 */                                                                         \
    X(b2)     /* decay of the second moment */                                                     \
    X(c2)     /* 1 - b2 */                                                                         \
    X(r)      /* factor of the root: bias correction of the second moment */                       \
    X(eps_in) /* epsilon inside the root */                                                        \
    X(eps)    /* epsilon beside the root */                                                        \
    X(e)      /* weight of the parameter in its average: 1 - ema */

/* What a rule starts with besides scaling the gradient. Coupled decay of 0 is left out, as it would
 * make NaN of an infinite parameter. */
enum cyopt_prologue { CYOPT_COUPLED = 1, CYOPT_LIMITED = 2 };

/* Kept in double; a kernel rounds each scalar to its own type once. */
struct cyopt_scalars {
    int rule;     /* enum cyopt_rule */
    int prologue; /* of enum cyopt_prologue */
    int clip_per_array, skip_nonfinite;
    double clip_norm, clip_eps;
#define CYOPT_FIELD(name) double name;
    CYOPT_SCALARS(CYOPT_FIELD)
#undef CYOPT_FIELD
};

/* One parameter. param, state and average are dense and in one element order; grad is too, or is
 * described by grad_ndim (at most 64), grad_shape and grad_strides (bytes), to be read in C order
 * of that shape. All are aligned to their numbers. Of all arrays of a step no two share memory, but
 * for gradients that are not set to zero. */
struct cyopt_array {
    ptrdiff_t size; /* elements */
    int dtype;      /* enum cyopt_dtype */
    int set;        /* index into the array of cyopt_scalars */
    void *param;
    void *grad;                   /* NULL: this array is skipped */
    void *state[CYOPT_MAX_STATE]; /* slots as in the comments of rules.h; unused ones are ignored */
    void *average;                /* of the parameter, weighted exponentially; NULL: none */
    int average_begins;           /* it becomes a copy of the parameter before this step */
    int zero_grad;                /* grad is set to zero, which nothing else does */
    int grad_dtype;               /* may be CYOPT_FLOAT64 beside a float32 parameter */
    int grad_ndim;                /* 0: grad is dense, in the parameter's element order */
    const ptrdiff_t *grad_shape, *grad_strides;
    double coefficient; /* of clip_norm: written by the step */
};

/* What a step measures. Norms are the root of the sum of squares over all arrays with a gradient:
 * of the gradients over grad_scale, the change of the parameters, and the parameters after it. */
struct cyopt_report {
    int want_norms; /* measure all three; else the first alone, and only if it is needed */
    double *sums; /* room for twice cyopt_count_chunks() numbers, or NULL if nothing is measured */
    int skipped;  /* a gradient was not finite: parameters, state, averages are as before */
    double grad_norm; /* below zero: not measured */
    double update_norm, param_norm;
};

struct cyopt_config {
    int isa;              /* index into the list of cyopt_isa_name() */
    int num_threads;      /* 0: as many as the CPUs of the affinity, at most max_threads */
    int max_threads;      /* limit for num_threads == 0, such as a cgroup's quota; 0: none */
    int flush_subnormals; /* run the loop with subnormals read and written as zero */
    ptrdiff_t grain;      /* a thread is added for each `grain` of work, at least 1: lines x cost */
    uintptr_t kernels;    /* a cyopt_kernel_finder: whose kernels run; benchmarks have others. An
                           * integer, as the binding makes a dict of this struct. */
};

/* Updates n elements of one dense parameter; state as in struct cyopt_array, then the average. */
typedef void cyopt_kernel(ptrdiff_t n, void *param, const void *grad, void *const state[],
                          const struct cyopt_scalars *scalars);

/* The kernel of an instruction set, an element type and the rule of these scalars, for a parameter
 * with or without an average. */
typedef cyopt_kernel *cyopt_kernel_finder(int isa, int dtype, const struct cyopt_scalars *scalars,
                                          int averaged);
cyopt_kernel_finder cyopt_find_kernel;

/* Widest first; the last one is the ABI's baseline and always there. NULL past the end. */
const char *cyopt_isa_name(int isa);
int cyopt_isa_available(int isa);

const char *cyopt_rule_name(int rule); /* NULL past the end */
int cyopt_has_threads(void);           /* 0: built without */
void cyopt_default_config(struct cyopt_config *config);

/* PyTorch's defaults of a rule; fields that it does not read are 0, and no option is on. */
void cyopt_default_hyper(int rule, struct cyopt_hyper *hyper);

/* The scalars of step t, which counts from 1. */
void cyopt_prepare(const struct cyopt_hyper *hyper, int64_t t, struct cyopt_scalars *scalars);

/* How many threads a step is worth: `work` is the sum of lines times their rule's cost. */
int cyopt_team_size(ptrdiff_t work, const struct cyopt_config *config);

/* Whether a step with these scalars measures its gradients. */
int cyopt_needs_norm(const struct cyopt_scalars *scalars);

/* How many chunks the sums of squares of these arrays have. */
ptrdiff_t cyopt_count_chunks(const struct cyopt_array *arrays, ptrdiff_t n_arrays);

/* The sums of squares of all chunks, for who adds them up elsewhere; whether a gradient whose set
 * has skip_nonfinite is not finite. */
int cyopt_square_sums(struct cyopt_array *arrays, ptrdiff_t n_arrays,
                      const struct cyopt_scalars *sets, const struct cyopt_config *config,
                      double *sums);

/* Updates all arrays in place; returns into how many threads' shares the work was cut. Needs 64 KiB
 * of stack. The threads that it starts stay: a library that is unloaded (dlclose) must be linked
 * with -Wl,-z,nodelete. */
int cyopt_step(struct cyopt_array *arrays, ptrdiff_t n_arrays, const struct cyopt_scalars *sets,
               const struct cyopt_config *config, struct cyopt_report *report);

/* The same for arrays that share all numbers, whose gradients are not measured (clip_norm and
 * skip_nonfinite are off): step t of `hyper`. `set` of each array becomes 0. */
int cyopt_update(struct cyopt_array *arrays, ptrdiff_t n_arrays, const struct cyopt_hyper *hyper,
                 int64_t t, const struct cyopt_config *config);

/* What a host needs as a table, for code that is not linked with it: the Python package has it in
 * the capsule cyopt._C_API. Functions are added at the end; `size` tells how many there are. */
struct cyopt_api {
    int version; /* CYOPT_API_VERSION */
    size_t size; /* bytes of this struct */
    /* As Python's functions have set it. Copy it while you hold the GIL. */
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
