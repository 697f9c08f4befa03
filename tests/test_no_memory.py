"""Where memory ends, a step is made and counted, or not at all; and nothing is leaked."""

import functools
import importlib.util
import sys

import numpy as np
import pytest
from run_python import run_python
from test_faults import LOOPS, arrays, grads_at

import cyopt

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and limits memory")

MEMORY = """
    import os, resource
    import numpy as np, cyopt
    from same_bits import same_bits

    def used():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * resource.getpagesize()

    def limit(more):
        unlimited = resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_AS, (used() + more if more else unlimited, unlimited))

    def refused(make):
        try:
            make()
        except MemoryError:
            return True
"""


@needs_linux
def test_no_memory_for_state():
    """Adam needs twice what the parameter has; what was made of it is given back."""
    code = """
        param, grad = np.zeros(1 << 24, np.float32), np.ones(1 << 24, np.float32)
        small, keyed, unbound = np.ones(3), cyopt.Adam(), cyopt.Adam()
        keyed.update("small", small, small.copy())
        limit(96 << 20)
        before = used()
        for _ in range(50):
            assert refused(lambda: cyopt.Adam([param], ema=0.9))
            assert refused(lambda: keyed.update("large", param, grad))
            assert refused(lambda: unbound.step([grad], [param]))
        # AddressSanitizer keeps what was freed for a while.
        assert used() - before < 4 << 20 or "libasan" in os.environ.get("LD_PRELOAD", "")
        assert not param.any() and list(keyed.state) == ["small"] and not unbound.state
        assert cyopt.SGD([param], lr=0.0).step([grad])
        limit(0)
        keyed.update("small", small, small.copy())
        keyed.update("large", param, grad)
        assert keyed.steps == 2 and keyed.state_dict()["state"]["large"]["step"] == 1
        assert unbound.step([grad], [param])
    """
    run_python(code, MEMORY)


@needs_linux
def test_no_memory_for_helpers():
    """A step whose helpers cannot be started runs on its caller."""
    code = """
        params, grad = [np.ones(100_000) for _ in range(2)], np.linspace(-1, 1, 100_000)
        one, many = (cyopt.Adam([param]) for param in params)
        cyopt.set_num_threads(1)
        one.step([grad])
        cyopt._cpu.set_config(grain=1, num_threads=8)
        limit(1 << 20)
        many.step([grad])
        assert len(os.listdir("/proc/self/task")) == 1
        limit(0)
        assert same_bits(*params)
        many.step([grad])
        one.step([grad])
        assert same_bits(*params) and len(os.listdir("/proc/self/task")) == 8
    """
    run_python(code, MEMORY, OPENBLAS_NUM_THREADS="1")


# ---- every single allocation


def update(opt, params):
    opt.update("w", params["w"], grads_at(opt.steps, params)["w"])


def with_norms(opt, params):
    opt.step(grads_at(opt.steps, params), norms=True)


def strided(opt, params):
    grads = grads_at(opt.steps, params)
    opt.step({"w": np.asfortranarray(grads["w"]), "b": grads["b"][::-1]})


@functools.cache
def other_state():
    """Of another run over such parameters, five steps on."""
    params = arrays(0)
    opt = cyopt.Adam(params, lr=0.5)
    for _ in range(5):
        opt.step(grads_at(opt.steps, params))
    return opt.state_dict()


ACTIONS = {
    kind: LOOPS[kind][:2] for kind in ("plain", "schedule", "groups", "unbound", "clip_norm")
}
ACTIONS |= {
    "keyed": (update, lambda params: cyopt.Adam(ema=0.9)),
    "norms": (with_norms, cyopt.Adam),
    "strided": (strided, lambda params: cyopt.Adam(params, ema=0.9)),
    "make": (lambda opt, params: cyopt.Adam(params, ema=0.9), cyopt.Adam),
    "state_dict": (lambda opt, params: opt.state_dict(), cyopt.Adam),
    "load_state_dict": (lambda opt, params: opt.load_state_dict(other_state()), cyopt.Adam),
}
# NumPy has other answers as well where it makes an array of a buffer.
MAKES_STATE = ("make", "keyed", "unbound")


def everything(opt, params):
    state = opt.state_dict()["state"].values()
    values = [value for entry in state for value in entry.values()]
    return opt.steps, [np.asarray(value).tobytes() for value in [*params.values(), *values]]


def failing(act, start, *args):
    """The exception of act(*args) if the allocation after `start` others fails."""
    import _testcapi

    _testcapi.set_nomemory(start, start + 1)
    try:
        act(*args)
    except Exception as error:
        return error
    finally:
        _testcapi.remove_mem_hooks()


def sweep(action, steps, stride):
    """Let each allocation of an action after some steps fail, one at a time."""
    act, make = ACTIONS[action]
    expected = (MemoryError, SystemError, ValueError) if action in MAKES_STATE else MemoryError

    def begin():
        params = arrays(0)
        opt = make(params)
        for _ in range(steps):
            act(opt, params)
        return opt, params

    model = begin()
    act(*model)
    after = everything(*model)
    failed = 0
    for start in range(0, 700, stride):
        model = begin()
        before = everything(*model)
        error = failing(act, start, *model)
        assert error is None or isinstance(error, expected), (start, error)
        assert everything(*model) == (before if error else after), (start, error)
        if error:
            failed += 1
            act(*model)
            assert everything(*model) == after, start
    assert failed > 0


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="CPython itself crashes making functions")
@pytest.mark.skipif(not importlib.util.find_spec("_testcapi"), reason="needs CPython's own tests")
@pytest.mark.parametrize("action", ACTIONS)
def test_no_memory_for_an_object(action, full):
    """In a first step, and in one that is like the last."""
    code = "from test_no_memory import sweep\n"
    code += "\n".join(f"sweep({action!r}, {steps}, {1 if full else 3})" for steps in (0, 2))
    run_python(code, PYTHONHASHSEED="0")
