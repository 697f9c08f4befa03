# cython: language_level=3
"""`cimport cyopt`: the C interface, documented in cyopt.h. Compile with cyopt.get_include().

Another package calls the functions in the table that `cyopt_import()` returns; the functions by
name are for code that is linked with src_c.
"""
from libc.stdint cimport int64_t, uintptr_t

cdef extern from "cyopt.h" nogil:
    enum:
        CYOPT_API_VERSION
        CYOPT_MAX_TEAM
        CYOPT_FLOAT32, CYOPT_FLOAT64
        CYOPT_DECAY_COUPLED, CYOPT_DECAY_BEFORE, CYOPT_DECAY_AFTER
        CYOPT_LR_OUTSIDE, CYOPT_LR_INSIDE, CYOPT_AVERAGE
        CYOPT_COUPLED, CYOPT_LIMITED

    enum cyopt_rule:
        CYOPT_RULE_sgd
        CYOPT_RULE_momentum, CYOPT_RULE_nesterov
        CYOPT_RULE_adagrad
        CYOPT_RULE_rmsprop, CYOPT_RULE_rmsprop_centered
        CYOPT_RULE_rmsprop_momentum, CYOPT_RULE_rmsprop_centered_momentum
        CYOPT_RULE_adam, CYOPT_RULE_amsgrad

    struct cyopt_hyper:
        int rule, decay, momentum_form
        int maximize, eps_inside_sqrt, eps_hat, bias_correction, libm_pow
        double lr, weight_decay, grad_scale, momentum, dampening, lr_decay
        double beta1, beta2, eps, step_size, denom_scale
        double clip_norm, clip_eps, clip_value, ema
        int clip_per_array, skip_nonfinite

    struct cyopt_scalars:
        int rule, prologue, clip_per_array, skip_nonfinite
        double clip_norm, clip_eps
        double s, limit, wd, k, step, mu, a, b1, c1, b2, c2, r, eps_in, eps, e

    struct cyopt_array:
        ptrdiff_t size
        int dtype, set
        void *param
        void *grad
        void *state[3]
        void *average
        int average_begins, zero_grad
        int grad_dtype, grad_ndim
        const ptrdiff_t *grad_shape
        const ptrdiff_t *grad_strides

    struct cyopt_report:
        int want_norms
        double *sums
        int skipped
        double grad_norm, update_norm, param_norm

    struct cyopt_config:
        int isa, num_threads, max_threads, flush_subnormals
        ptrdiff_t grain
        uintptr_t kernels

    const char *cyopt_isa_name(int isa)
    int cyopt_isa_available(int isa)
    const char *cyopt_rule_name(int rule)
    int cyopt_has_threads()
    void cyopt_default_config(cyopt_config *config)
    void cyopt_default_hyper(int rule, cyopt_hyper *hyper)
    void cyopt_prepare(const cyopt_hyper *hyper, int64_t t, cyopt_scalars *scalars)
    int cyopt_team_size(ptrdiff_t work, const cyopt_config *config)
    int cyopt_needs_norm(const cyopt_scalars *scalars)
    ptrdiff_t cyopt_count_chunks(const cyopt_array *arrays, ptrdiff_t n_arrays)
    int cyopt_square_sums(cyopt_array *arrays, ptrdiff_t n_arrays, const cyopt_scalars *sets,
                          const cyopt_config *config, double *sums)
    int cyopt_step(cyopt_array *arrays, ptrdiff_t n_arrays, const cyopt_scalars *sets,
                   const cyopt_config *config, cyopt_report *report)
    int cyopt_update(cyopt_array *arrays, ptrdiff_t n_arrays, const cyopt_hyper *hyper, int64_t t,
                     const cyopt_config *config)

    struct cyopt_api:
        int version
        size_t size
        const cyopt_config *config
        const char *(*isa_name)(int isa) noexcept nogil
        int (*isa_available)(int isa) noexcept nogil
        const char *(*rule_name)(int rule) noexcept nogil
        int (*has_threads)() noexcept nogil
        void (*default_config)(cyopt_config *config) noexcept nogil
        void (*default_hyper)(int rule, cyopt_hyper *hyper) noexcept nogil
        void (*prepare)(const cyopt_hyper *hyper, int64_t t, cyopt_scalars *scalars) noexcept nogil
        int (*team_size)(ptrdiff_t work, const cyopt_config *config) noexcept nogil
        int (*needs_norm)(const cyopt_scalars *scalars) noexcept nogil
        ptrdiff_t (*count_chunks)(const cyopt_array *arrays, ptrdiff_t n_arrays) noexcept nogil
        int (*step)(cyopt_array *arrays, ptrdiff_t n_arrays, const cyopt_scalars *sets,
                    const cyopt_config *config, cyopt_report *report) noexcept nogil
        int (*update)(cyopt_array *arrays, ptrdiff_t n_arrays, const cyopt_hyper *hyper, int64_t t,
                      const cyopt_config *config) noexcept nogil

cdef extern from "cyopt_python.h":
    const cyopt_api *cyopt_import() except NULL
