# Included by _cpu.pyx: the path of a step from Python to `cyopt_step`.

@cython.final
cdef class Gate:
    """Lets one caller in at a time: `run` raises if another is inside.

    Compiled, so that no signal handler can run between entering, the call and leaving; in a `with`
    block of Python 3.14 one can.
    """
    cdef bint _taken
    cdef readonly int64_t entries   # how often somebody came who may change the optimizer

    def run(self, action, *args):
        """Call action(*args), which may change the optimizer, with no other caller inside."""
        if not self._taken:
            self.entries += 1
        return self.look(action, *args)

    def look(self, action, *args):
        """Call action(*args), which changes nothing, with no other caller inside."""
        if self._taken:
            raise RuntimeError(
                "this optimizer is in a step already, of another thread or from its own schedule;"
                " use one optimizer for each thread"
            )
        self._taken = True
        try:
            return action(*args)
        finally:
            self._taken = False

# A step over fewer bytes of parameters keeps the GIL: about a microsecond, less than it can take
# to get the GIL back from another thread.
cdef ptrdiff_t GIL_BYTES = 16384


cdef struct ParamInfo:
    int group, casts, copies    # its group; `cast_grads`; whether `ema_init` is not "zeros"
    ptrdiff_t range_above       # the first written range after its last gradient


cdef struct SetKey:
    int group
    int64_t count               # completed steps


@cython.final
cdef class Plan:
    """Addresses and sizes of a list of parameters, from which a step is one native call.

    Made from arrays that `cyopt.given` has checked. `written` are the memory ranges that a step
    writes, except gradients. Three arrays are shared with the owner: `counts` has the completed
    steps of each parameter, `steps[0]` those of the optimizer, `measured` what the last step
    measured. With `keyed`, `steps` is the largest count of any of the owner's plans.
    """
    cdef cyopt_array *_arrays
    cdef cyopt_scalars *_sets
    cdef cyopt_hyper *_hypers       # of each group, followed by room for the next ones
    cdef SetKey *_set_keys          # of each set: the parameters that use it
    cdef ParamInfo *_info           # of each parameter
    cdef uintptr_t *_written        # begin, end of each range, in ascending order
    cdef double *_sums
    cdef ptrdiff_t _n, _n_written, _n_groups, _bytes
    cdef int64_t[::1] _counts, _steps
    cdef double[::1] _measured
    cdef int _n_sets
    cdef bint _keyed, _zeroes
    cdef list _params, _versions    # of the groups: those that `_hypers` are of
    cdef object _states, _averages
    cdef readonly object written    # the argument, to check new gradients with
    cdef readonly int team          # the number of shares of the last step: for tests

    def __cinit__(self, params, states, averages, group_specs, group_of, counts, steps, measured,
                  written, bint keyed=False):
        cdef ptrdiff_t i, j
        cdef cnp.ndarray param, state
        # Views: nobody else can change their shape, and they keep the memory alive.
        # No list comprehension: Cython 3.3 frees an element twice when memory runs out.
        self._params, self._states = [], states
        for param in params:
            self._params.append(param.view())
        self._averages, self.written = averages, written
        self._counts, self._steps, self._measured, self._keyed = counts, steps, measured, keyed
        self._n, self._n_written = len(params), len(written.begins)
        self._n_groups = len(group_specs)
        self._arrays = <cyopt_array *>PyMem_Calloc(self._n, sizeof(cyopt_array))
        self._sets = <cyopt_scalars *>PyMem_Calloc(self._n, sizeof(cyopt_scalars))
        self._set_keys = <SetKey *>PyMem_Calloc(self._n, sizeof(SetKey))
        self._info = <ParamInfo *>PyMem_Calloc(self._n, sizeof(ParamInfo))
        self._hypers = <cyopt_hyper *>PyMem_Calloc(2 * self._n_groups, sizeof(cyopt_hyper))
        self._written = <uintptr_t *>PyMem_Calloc(2 * self._n_written, sizeof(uintptr_t))
        if not (self._arrays and self._sets and self._set_keys and self._info and self._hypers
                and self._written):
            raise MemoryError()
        for i in range(self._n):
            param = params[i]
            self._info[i].group = group_of[i]
            self._bytes += cnp.PyArray_NBYTES(param)
            self._arrays[i].size = cnp.PyArray_SIZE(param)
            self._arrays[i].dtype = _dtype(param)
            self._arrays[i].param = cnp.PyArray_DATA(param)
            group_spec = group_specs[group_of[i]]
            self._info[i].casts = group_spec.cast_grads
            self._info[i].copies = not group_spec.average_from_zeros
            self._arrays[i].zero_grad = group_spec.zero_grads
            self._zeroes = self._zeroes or group_spec.zero_grads
            if averages[i] is not None:
                state = averages[i]
                self._arrays[i].average = cnp.PyArray_DATA(state)
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
        PyMem_Free(self._set_keys)
        PyMem_Free(self._info)
        PyMem_Free(self._sums)
        PyMem_Free(self._hypers)
        PyMem_Free(self._written)

    def set_hypers(self, hypers, versions=None):
        """What the groups use from the next step on, one `Hyper` each. `versions` has each group's
        `Version` and its value when these were taken; None: for one step only.
        """
        cdef ptrdiff_t i
        self._versions = None
        for i in range(self._n_groups):
            self._hypers[self._n_groups + i] = _hyper(hypers[i])
        for i in range(self._n_groups):
            self._hypers[i] = self._hypers[self._n_groups + i]
        self._versions = versions

    cpdef again(self, Gate gate, params, grads, node, bint norms):
        """The fast path: one step, if these trees of the structure `node` differ from those that
        were checked only in where the gradients lie. True, or False if it was skipped; otherwise
        None, and nothing is done.

        `gate` is entered; None: the caller is inside, and has just set the hyperparameters.
        """
        if gate is None:
            return self._again(params, grads, node, norms)
        if gate._taken or self._versions is None or not unchanged(self._versions):
            return None
        gate._taken = True
        gate.entries += 1
        try:
            return self._again(params, grads, node, norms)
        finally:
            gate._taken = False

    cdef object _again(self, params, grads, node, bint norms):
        cdef list kept = []
        self._n_sets = 0
        if not self._match(params, grads, node, kept) or len(kept) != self._n:
            return None
        return self._launch(norms)

    cdef bint _match(self, params, grads, node, list kept) except -1:
        """Match the leaves of these trees with the arrays from number len(kept) on, and put the
        gradients into the plan. `kept` takes what must stay alive until the end of the step."""
        cdef ptrdiff_t i = len(kept)
        cdef tuple keys, children
        if node is None:
            return (i < self._n and self._same_param(params, i)
                    and self._match_grad(grads, i, kept))
        if not _has_form(params, node) or not _has_form(grads, node):
            return False
        keys, children = (<tuple>node)[0], (<tuple>node)[1]
        for i in range(len(keys)):
            if not self._match(_child(params, node, keys, i), _child(grads, node, keys, i),
                               children[i], kept):
                return False
        return True

    def same_params(self, params):
        """Whether the parameters lie where they did."""
        cdef ptrdiff_t i
        if len(params) != self._n:
            return False
        for i in range(self._n):
            if not self._same_param(params[i], i):
                return False
        return True

    cdef bint _same_param(self, object value, ptrdiff_t i):
        return _is_like(value, self._params[i], self._arrays[i].param)

    cdef bint _match_grad(self, object value, ptrdiff_t i, list kept) except -1:
        """Take a gradient that needs no check by `cyopt.given`: None, or of its parameter's shape
        and of a type that can be read, apart from all that a step writes. If gradients are written
        too, only a dense one at the address of the last one."""
        if value is None:
            self._set_grad(None, i, kept)
            return True
        if type(value) is not cnp.ndarray:
            return False
        cdef cnp.ndarray grad = value, param = self._params[i]
        cdef cyopt_array *array = &self._arrays[i]
        cdef int kind = cnp.PyArray_TYPE(grad)
        if kind != cnp.PyArray_TYPE(param) and not (self._info[i].casts and kind == cnp.NPY_FLOAT64):
            return False
        if not _same_shape(grad, param) or self._is_written(grad, i):
            return False
        if self._zeroes and not (
                array.grad == cnp.PyArray_DATA(grad) and array.grad_ndim == 0
                and array.grad_dtype == _dtype(grad)
                and cnp.PyArray_FLAGS(grad) & cnp.PyArray_FLAGS(param) & ORDER
                and cnp.PyArray_ISWRITEABLE(grad)):
            return False
        self._set_grad(grad, i, kept)
        return True

    cdef bint _is_written(self, cnp.ndarray grad, ptrdiff_t i):
        """Whether the extent of a gradient overlaps a range that a step writes."""
        cdef uintptr_t begin, end
        cdef ptrdiff_t low = 0, high = self._n_written, middle, above = self._info[i].range_above
        if not _extent(grad, &begin, &end):
            return False
        # Most gradients lie where the last one did: between the same two ranges.
        if not ((above == 0 or self._written[2 * above - 1] <= begin)
                and (above == self._n_written or begin < self._written[2 * above + 1])):
            while low < high:  # the first range that ends after `begin`
                middle = (low + high) // 2
                if self._written[2 * middle + 1] <= begin:
                    low = middle + 1
                else:
                    high = middle
            above = self._info[i].range_above = low
        return above < self._n_written and self._written[2 * above] < end

    cdef int _set_grad(self, cnp.ndarray grad, ptrdiff_t i, list kept) except -1:
        """Put a gradient into the plan; what must stay alive until the end of the step is kept."""
        cdef cyopt_array *array = &self._arrays[i]
        cdef cnp.ndarray param = self._params[i]
        array.grad, array.grad_ndim = NULL, 0
        array.average_begins = self._info[i].copies and self._counts[i] == 0
        if grad is not None:
            if not cnp.PyArray_FLAGS(grad) & cnp.PyArray_FLAGS(param) & ORDER:
                # C order of the view is the element order of the parameter in memory; a view,
                # because nobody else can change its shape.
                grad = grad.view() if cnp.PyArray_IS_C_CONTIGUOUS(param) else grad.T
                array.grad_ndim = cnp.PyArray_NDIM(grad)
                array.grad_shape = <const ptrdiff_t *>cnp.PyArray_DIMS(grad)
                array.grad_strides = <const ptrdiff_t *>cnp.PyArray_STRIDES(grad)
            array.grad, array.grad_dtype = cnp.PyArray_DATA(grad), _dtype(grad)
            array.set = self._set_for(self._info[i].group, self._counts[i])
        kept.append(grad)
        return 0

    cdef int _set_for(self, int group, int64_t count):
        """The set of scalars of (group, count), made if it is new."""
        cdef int j
        for j in range(self._n_sets - 1, -1, -1):
            if self._set_keys[j].group == group and self._set_keys[j].count == count:
                return j
        j = self._n_sets
        self._n_sets += 1
        self._set_keys[j] = SetKey(group, count)
        cyopt_prepare(&self._hypers[group], count + 1, &self._sets[j])
        return j

    def run(self, grads, bint norms):
        """One step with checked gradients, in any element order; None skips a parameter. False if
        the step was skipped."""
        cdef ptrdiff_t i
        cdef list kept = []
        self._n_sets = 0
        for i in range(self._n):
            self._set_grad(grads[i], i, kept)
        return self._launch(norms)

    cdef bint _needs_sums(self, bint norms):
        cdef int j
        for j in range(self._n_sets):
            norms = norms or cyopt_needs_norm(&self._sets[j])
        return norms

    cdef object _launch(self, bint norms):
        """The native call, without the GIL if large, and the counters. False if it was skipped."""
        cdef ptrdiff_t i
        cdef cyopt_config config = _config
        cdef cyopt_report report
        if self._sums == NULL and self._needs_sums(norms):
            i = max(cyopt_count_chunks(self._arrays, self._n), 1)
            self._sums = <double *>PyMem_Calloc(2 * i, sizeof(double))
            if self._sums == NULL:
                raise MemoryError()
        report.want_norms, report.sums = norms, self._sums
        if self._bytes < GIL_BYTES:
            self.team = cyopt_step(self._arrays, self._n, self._sets, &config, &report)
        else:
            with nogil:
                self.team = cyopt_step(self._arrays, self._n, self._sets, &config, &report)
        self._measured[0], self._measured[1] = report.grad_norm, report.update_norm
        self._measured[2], self._measured[3] = report.param_norm, report.skipped
        if report.skipped:
            return False
        for i in range(self._n):
            self._counts[i] += self._arrays[i].grad != NULL
        _count_step(&self._steps[0], &self._counts[0], self._keyed)
        return True
