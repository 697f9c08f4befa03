# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The binding to src_c: plans, pointers, the GIL. It computes nothing on parameters, gradients or
state; it only counts steps. Of a caller's arguments it checks only whether all is as it was when
`cyopt.given` checked it in full."""

cimport cython
cimport numpy as cnp
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_Clear
from cpython.long cimport PyLong_AsLongLongAndOverflow
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New
from cpython.ref cimport Py_XDECREF
from cpython.unicode cimport PyUnicode_DATA, PyUnicode_KIND
from cpython.weakref cimport PyWeakref_GetRef, PyWeakref_NewRef
from libc.stdint cimport PTRDIFF_MAX, int32_t, int64_t, uint8_t, uint16_t, uint64_t, uintptr_t
from libc.string cimport memcmp, memcpy

import numpy as np

from cyopt cimport *

cnp.import_array()

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
_RULE_IDS = {name: i for i, name in enumerate(RULES)}

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
    """Change some fields of the configuration; steps already under way keep the old one."""
    global _config
    _config = {**get_config(), **fields}


def max_team():
    """How many threads a very large step would use now."""
    return cyopt_team_size(PTRDIFF_MAX, &_config)


cdef cyopt_hyper _hyper(hyper):
    cdef cyopt_hyper h
    rule, decay, h.lr, h.weight_decay, h.grad_scale, h.maximize, form, \
        h.eps_inside_sqrt, h.eps_hat, h.bias_correction, h.libm_pow, \
        h.momentum, h.dampening, h.lr_decay, h.beta1, h.beta2, h.eps, \
        h.step_size, h.denom_scale, h.clip_norm, h.clip_eps, h.clip_value, h.ema, \
        h.clip_per_array, h.skip_nonfinite = hyper
    h.rule, h.decay, h.momentum_form = _RULE_IDS[rule], _DECAYS[decay], _MOMENTUM_FORMS[form]
    return h


def prepare(hyper, int64_t t):
    """The scalars of step `t`, as `cyopt.rules.prepare` gives them."""
    cdef cyopt_hyper h = _hyper(hyper)
    cdef cyopt_scalars x
    cyopt_prepare(&h, t, &x)
    cdef dict scalars = x
    scalars["rule"] = RULES[x.rule]
    scalars["coupled"] = bool(scalars["prologue"] & CYOPT_COUPLED)
    scalars["limited"] = bool(scalars.pop("prologue") & CYOPT_LIMITED)
    scalars["clip_per_array"] = bool(x.clip_per_array)
    scalars["skip_nonfinite"] = bool(x.skip_nonfinite)
    return scalars


cdef extern from *:
    """
    #define CYOPT_NAME(name) #name,
    static const char *const cyopt_scalar_names[] = {CYOPT_SCALARS(CYOPT_NAME) NULL};
    """
    const char *const cyopt_scalar_names[]

# In the order of the fields of cyopt_scalars, which lie one after another.
cdef dict _SCALAR_INDEX = {}
while cyopt_scalar_names[len(_SCALAR_INDEX)] != NULL:
    _SCALAR_INDEX[cyopt_scalar_names[len(_SCALAR_INDEX)].decode()] = len(_SCALAR_INDEX)


include "_atomic.pxi"
include "_look.pxi"
include "_dlpack.pxi"
include "_places.pxi"
include "_torch.pxi"
include "_launch.pxi"
include "_plan.pxi"
include "_stepper.pxi"
include "_call.pxi"
include "_sums.pxi"
include "_api.pxi"
