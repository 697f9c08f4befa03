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
    """The defaults of `cyopt_default_hyper`, as a dict of the fields of `struct cyopt_hyper`."""
    cdef cyopt_hyper hyper
    cyopt_default_hyper(_RULE_IDS[rule], &hyper)
    return hyper
