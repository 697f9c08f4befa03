# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The binding to src_c: plans, pointers, the GIL. It does no array arithmetic and no checks but one:
whether everything is as it was when `cyopt.parameters` checked it in full."""

cimport cython
cimport numpy as cnp
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport PTRDIFF_MAX, int64_t, uintptr_t

cnp.import_array()

cdef extern from "cyopt.h" nogil:
    enum:
        CYOPT_MAX_TEAM
        CYOPT_FLOAT32, CYOPT_FLOAT64
        CYOPT_DECAY_COUPLED, CYOPT_DECAY_BEFORE, CYOPT_DECAY_AFTER
        CYOPT_LR_OUTSIDE, CYOPT_LR_INSIDE, CYOPT_AVERAGE

    struct cyopt_hyper:
        int rule, decay, momentum_form
        int maximize, eps_inside_sqrt, eps_hat, bias_correction, libm_pow
        double lr, weight_decay, grad_scale, momentum, dampening, lr_decay
        double beta1, beta2, eps, step_size, denom_scale

    struct cyopt_scalars:
        int rule, coupled
        double s, wd, k, step, mu, a, b1, c1, b2, c2, r, eps_in, eps

    struct cyopt_array:
        ptrdiff_t size
        int dtype, set
        void *param
        const void *grad
        void **state
        int grad_ndim
        const ptrdiff_t *grad_shape
        const ptrdiff_t *grad_strides

    struct cyopt_config:
        int isa, num_threads, max_threads, flush_subnormals
        ptrdiff_t grain

    const char *cyopt_isa_name(int isa)
    int cyopt_isa_available(int isa)
    const char *cyopt_rule_name(int rule)
    int cyopt_has_threads()
    void cyopt_default_config(cyopt_config *config)
    void cyopt_prepare(const cyopt_hyper *hyper, int64_t t, cyopt_scalars *scalars)
    int cyopt_team_size(ptrdiff_t lines, const cyopt_config *config)
    int cyopt_step(const cyopt_array *arrays, ptrdiff_t n_arrays, const cyopt_scalars *sets,
                   const cyopt_config *config)

cdef extern from *:
    """
    #if defined(__clang__)
    #define CYOPT_COMPILER "clang " __clang_version__
    #elif defined(__GNUC__)
    #define CYOPT_COMPILER "gcc " __VERSION__
    #elif defined(_MSC_VER)
    #define CYOPT_STRING_(x) #x
    #define CYOPT_STRING(x) CYOPT_STRING_(x)
    #define CYOPT_COMPILER "msvc " CYOPT_STRING(_MSC_VER)
    #else
    #define CYOPT_COMPILER "unknown"
    #endif
    """
    const char *CYOPT_COMPILER

COMPILER = CYOPT_COMPILER.decode()
MAX_TEAM = CYOPT_MAX_TEAM
HAS_THREADS = bool(cyopt_has_threads())

cdef _names(const char *(*name)(int) nogil):
    found, i = [], 0
    while name(i) != NULL:
        found.append(name(i).decode())
        i += 1
    return tuple(found)

ISAS = _names(cyopt_isa_name)
ISAS_AVAILABLE = tuple(name for i, name in enumerate(ISAS) if cyopt_isa_available(i))
RULES = _names(cyopt_rule_name)

_DECAYS = {
    "coupled": CYOPT_DECAY_COUPLED, "before": CYOPT_DECAY_BEFORE, "after": CYOPT_DECAY_AFTER,
}
_MOMENTUM_FORMS = {
    "lr_outside": CYOPT_LR_OUTSIDE, "lr_inside": CYOPT_LR_INSIDE, "average": CYOPT_AVERAGE,
}

cdef cyopt_config _config
cyopt_default_config(&_config)


def get_config():
    """How steps run, as a dict of the fields of `struct cyopt_config`."""
    return _config


def set_config(**fields):
    """Change some fields of the configuration; steps already under way keep the former one."""
    global _config
    _config = {**get_config(), **fields}


def max_team():
    """How many threads a very large step would use now."""
    return cyopt_team_size(PTRDIFF_MAX, &_config)


cdef cyopt_hyper _hyper(hyper):
    fields = hyper._asdict()
    fields["rule"] = RULES.index(hyper.rule)
    fields["decay"] = _DECAYS[hyper.decay]
    fields["momentum_form"] = _MOMENTUM_FORMS[hyper.momentum_form]
    return fields


def prepare(hyper, int64_t t):
    """The scalars of step `t`, as `cyopt.rules.prepare` gives them."""
    cdef cyopt_hyper h = _hyper(hyper)
    cdef cyopt_scalars x
    cyopt_prepare(&h, t, &x)
    cdef dict scalars = x
    scalars["rule"] = RULES[x.rule]
    scalars["coupled"] = bool(x.coupled)
    return scalars


@cython.final
cdef class Gate:
    """Lets one step in at a time: `with gate:` raises where another is inside.

    Compiled, so that no signal handler can run between entering and the `with` block.
    """
    cdef bint _taken

    def __enter__(self):
        if self._taken:
            raise RuntimeError(
                "this optimizer is in a step already, of another thread or of its own schedule;"
                " use one optimizer for each thread"
            )
        self._taken = True

    def __exit__(self, *exception):
        self._taken = False


@cython.final
cdef class Plan:
    """Addresses and sizes of a list of parameters, from which a step is one native call.

    Made from arrays that `cyopt.parameters` has checked. `counts` are the completed steps of each
    parameter, shared with the owner; `written` are the memory ranges that a step writes.
    """
    cdef cyopt_array *_arrays
    cdef cyopt_scalars *_sets
    cdef cyopt_hyper *_hypers
    cdef int64_t *_set_count        # completed steps of the parameters that use a set
    cdef int *_set_group
    cdef int *_group_of
    cdef uintptr_t *_written        # begin, end of each range, in ascending order
    cdef ptrdiff_t _n, _n_written, _n_groups
    cdef int64_t[::1] _counts
    cdef list _params
    cdef object _states
    cdef readonly int team          # how many threads the last step was cut for

    def __cinit__(self, params, states, group_of, counts, written):
        cdef ptrdiff_t i, j
        cdef cnp.ndarray param, state
        # Views: nobody else can change their shape, and they keep the memory alive.
        self._params, self._states, self._counts = [p.view() for p in params], states, counts
        self._n, self._n_written = len(params), len(written.begins)
        self._arrays = <cyopt_array *>PyMem_Calloc(self._n, sizeof(cyopt_array))
        self._sets = <cyopt_scalars *>PyMem_Calloc(self._n, sizeof(cyopt_scalars))
        self._set_count = <int64_t *>PyMem_Calloc(self._n, sizeof(int64_t))
        self._set_group = <int *>PyMem_Calloc(self._n, sizeof(int))
        self._group_of = <int *>PyMem_Calloc(self._n, sizeof(int))
        self._n_groups = max(group_of, default=-1) + 1
        self._hypers = <cyopt_hyper *>PyMem_Calloc(self._n_groups, sizeof(cyopt_hyper))
        self._written = <uintptr_t *>PyMem_Calloc(2 * self._n_written, sizeof(uintptr_t))
        if not (self._arrays and self._sets and self._set_count and self._set_group
                and self._group_of and self._hypers and self._written):
            raise MemoryError()
        for i in range(self._n):
            param = params[i]
            self._group_of[i] = group_of[i]
            self._arrays[i].size = cnp.PyArray_SIZE(param)
            self._arrays[i].dtype = (CYOPT_FLOAT64 if cnp.PyArray_TYPE(param) == cnp.NPY_FLOAT64
                                     else CYOPT_FLOAT32)
            self._arrays[i].param = cnp.PyArray_DATA(param)
            for j in range(len(states[i])):
                if states[i][j] is not None:
                    state = states[i][j]
                    self._arrays[i].state[j] = cnp.PyArray_DATA(state)
        for i in range(self._n_written):
            self._written[2 * i] = written.begins[i]
            self._written[2 * i + 1] = written.ends[i]

    def __dealloc__(self):
        PyMem_Free(self._arrays)
        PyMem_Free(self._sets)
        PyMem_Free(self._set_count)
        PyMem_Free(self._set_group)
        PyMem_Free(self._group_of)
        PyMem_Free(self._hypers)
        PyMem_Free(self._written)

    def set_hypers(self, hypers):
        """What the groups use from the next step on: one `Hyper` each; groups behind the last one
        that has a parameter do not matter."""
        cdef ptrdiff_t i
        cdef list made = [_hyper(hypers[i]) for i in range(self._n_groups)]
        for i in range(self._n_groups):
            self._hypers[i] = made[i]

    def same_params(self, params):
        """Whether the parameters lie where they did."""
        cdef ptrdiff_t i
        if len(params) != self._n:
            return False
        for i in range(self._n):
            if not self._same_param(params[i], i):
                return False
        return True

    def plain_grads(self, grads):
        """Whether each gradient can be read at once: None, or of its parameter's type, shape and
        element order, apart from all that a step writes."""
        cdef ptrdiff_t i
        if len(grads) != self._n:
            return False
        for i in range(self._n):
            if grads[i] is not None and not self._plain_grad(grads[i], i):
                return False
        return True

    cdef bint _same_param(self, object value, ptrdiff_t i):
        if type(value) is not cnp.ndarray:
            return False
        cdef cnp.ndarray param = value, known = self._params[i]
        cdef int flags = cnp.PyArray_FLAGS(param)
        return (cnp.PyArray_DATA(param) == self._arrays[i].param
                and (flags & cnp.NPY_ARRAY_BEHAVED) == cnp.NPY_ARRAY_BEHAVED
                and self._same_kind(param, known, i))

    cdef bint _plain_grad(self, object value, ptrdiff_t i):
        if type(value) is not cnp.ndarray:
            return False
        cdef cnp.ndarray grad = value, known = self._params[i]
        cdef uintptr_t begin = <uintptr_t>cnp.PyArray_DATA(grad)
        return (cnp.PyArray_ISALIGNED(grad) and self._same_kind(grad, known, i)
                and not self._is_written(begin, begin + cnp.PyArray_NBYTES(grad)))

    cdef bint _same_kind(self, cnp.ndarray a, cnp.ndarray known, ptrdiff_t i):
        """Native dtype, shape and element order of the parameter."""
        cdef int order = cnp.NPY_ARRAY_C_CONTIGUOUS | cnp.NPY_ARRAY_F_CONTIGUOUS, d
        cdef int typenum = (cnp.NPY_FLOAT64 if self._arrays[i].dtype == CYOPT_FLOAT64
                            else cnp.NPY_FLOAT32)
        if (cnp.PyArray_TYPE(a) != typenum or not cnp.PyArray_ISNOTSWAPPED(a)
                or cnp.PyArray_SIZE(a) != self._arrays[i].size
                or cnp.PyArray_NDIM(a) != cnp.PyArray_NDIM(known)
                or not (cnp.PyArray_FLAGS(a) & cnp.PyArray_FLAGS(known) & order)):
            return False
        for d in range(cnp.PyArray_NDIM(a)):
            if cnp.PyArray_DIM(a, d) != cnp.PyArray_DIM(known, d):
                return False
        return True

    cdef bint _is_written(self, uintptr_t begin, uintptr_t end):
        """Whether [begin, end) touches a range that a step writes; they are sorted, disjoint."""
        cdef ptrdiff_t low = 0, high = self._n_written, middle
        while low < high:  # the first range that ends behind `begin`
            middle = (low + high) // 2
            if self._written[2 * middle + 1] <= begin:
                low = middle + 1
            else:
                high = middle
        return low < self._n_written and self._written[2 * low] < end and begin < end

    cdef int _set_for(self, int group, int64_t count, int n_sets):
        """The set of scalars of (group, count), made if it is a new one: at index `n_sets`."""
        cdef int j
        for j in range(n_sets - 1, -1, -1):
            if self._set_group[j] == group and self._set_count[j] == count:
                return j
        self._set_group[n_sets] = group
        self._set_count[n_sets] = count
        cyopt_prepare(&self._hypers[group], count + 1, &self._sets[n_sets])
        return n_sets

    def run(self, grads, int64_t[::1] steps, int64_t now):
        """One step; None skips a parameter. The GIL is released while the arrays change.

        Counts the step: `steps[0]` becomes at least `now`.
        """
        cdef ptrdiff_t i
        cdef int n_sets = 0
        cdef cyopt_array *array
        cdef cyopt_config config = _config
        cdef cnp.ndarray param, grad
        views = []
        for i in range(self._n):
            array = &self._arrays[i]
            param = self._params[i]
            array.grad = NULL
            array.grad_ndim = 0
            if grads[i] is None:
                continue
            grad = grads[i]
            if not (cnp.PyArray_FLAGS(grad) & cnp.PyArray_FLAGS(param)
                    & (cnp.NPY_ARRAY_C_CONTIGUOUS | cnp.NPY_ARRAY_F_CONTIGUOUS)):
                # C order of the view is the element order of the parameter in memory.
                grad = grad.view() if cnp.PyArray_IS_C_CONTIGUOUS(param) else grad.T
                if cnp.PyArray_SIZE(grad) != array.size:
                    raise RuntimeError("a gradient was changed by another thread during the step")
                views.append(grad)
                array.grad_ndim = cnp.PyArray_NDIM(grad)
                array.grad_shape = <const ptrdiff_t *>cnp.PyArray_DIMS(grad)
                array.grad_strides = <const ptrdiff_t *>cnp.PyArray_STRIDES(grad)
            array.grad = cnp.PyArray_DATA(grad)
            array.set = self._set_for(self._group_of[i], self._counts[i], n_sets)
            n_sets = max(n_sets, array.set + 1)
        with nogil:
            self.team = cyopt_step(self._arrays, self._n, self._sets, &config)
        for i in range(self._n):
            if grads[i] is not None:
                self._counts[i] += 1
        steps[0] = max(steps[0], now)
