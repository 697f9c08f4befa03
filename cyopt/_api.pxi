# Included by _cpu.pyx: the table of C functions for other compiled modules, in a capsule.

cdef cyopt_api _api
_api.version, _api.size = CYOPT_API_VERSION, sizeof(cyopt_api)
_api.config = &_config
_api.isa_name, _api.isa_available = cyopt_isa_name, cyopt_isa_available
_api.rule_name, _api.has_threads = cyopt_rule_name, cyopt_has_threads
_api.default_config, _api.default_hyper = cyopt_default_config, cyopt_default_hyper
_api.prepare, _api.team_size = cyopt_prepare, cyopt_team_size
_api.needs_norm, _api.count_chunks = cyopt_needs_norm, cyopt_count_chunks
_api.step, _api.update = cyopt_step, cyopt_update

C_API = PyCapsule_New(&_api, "cyopt._C_API", NULL)


def default_hyper(str rule):
    """The defaults of `cyopt_default_hyper`, as a dict of the fields of `struct cyopt_hyper`: for
    tests."""
    cdef cyopt_hyper hyper
    cyopt_default_hyper(_RULE_IDS[rule], &hyper)
    return hyper


# For code that Numba compiles: `cyopt.integrations.numba`.

cdef int _update_as_set(int version, cyopt_array *array, const cyopt_hyper *hyper,
                        int64_t t) noexcept nogil:
    """A step of one array, with the configuration that is set from Python. Below 0 for structs of
    another version: Numba keeps compiled code on disk, whichever cyopt is installed later."""
    if version != CYOPT_API_VERSION:
        return -1
    cdef cyopt_config config = _config
    return cyopt_update(array, 1, hyper, t, &config)


cdef cyopt_array _array
API_VERSION = CYOPT_API_VERSION
UPDATE_AS_SET = <uintptr_t>&_update_as_set
ARRAY_SIZE = sizeof(cyopt_array)
ARRAY_OFFSETS = {
    "size": <uintptr_t>&_array.size - <uintptr_t>&_array,
    "dtype": <uintptr_t>&_array.dtype - <uintptr_t>&_array,
    "param": <uintptr_t>&_array.param - <uintptr_t>&_array,
    "grad": <uintptr_t>&_array.grad - <uintptr_t>&_array,
    "state": <uintptr_t>&_array.state - <uintptr_t>&_array,
    "grad_dtype": <uintptr_t>&_array.grad_dtype - <uintptr_t>&_array,
}


def hyper_record(hyper):
    """The hyperparameters of a step as an array of one `struct cyopt_hyper`."""
    cdef cyopt_hyper h = _hyper(hyper)
    return np.array(<cyopt_hyper[:1]>&h)
