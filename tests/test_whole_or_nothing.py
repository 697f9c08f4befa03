"""What is interrupted or runs out of memory has happened whole, or not at all."""

import copy
import gc
import importlib.util
import pickle
import sys

import numpy as np
import pytest
from run_python import run_python
from test_faults import arrays, grads_at
from test_no_memory import everything

import cyopt

needs_testcapi = pytest.mark.skipif(
    not importlib.util.find_spec("_testcapi"), reason="needs CPython's own tests"
)


def stepped(steps, params=None, **hyperparameters):
    params = arrays(0) if params is None else params
    opt = cyopt.Adam(params, **hyperparameters)
    for _ in range(steps):
        opt.step(grads_at(opt.steps, params))
    return opt, params


def interrupted_at(line, act):
    """Whether act() was stopped by Ctrl-C before the line, counting from 0, that it comes to."""
    seen = 0

    def trace(frame, event, arg):
        nonlocal seen
        if event == "line":
            seen += 1
            if seen > line:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    gc.disable()  # it calls functions of others, in which an interrupt goes nowhere
    try:
        sys.settrace(trace)
        act()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
        gc.enable()
    return False


def test_load_state_dict_interrupted_at_every_line():
    saved = stepped(5, lr=0.5, ema=0.9)[0].state_dict()
    line, interrupted = 0, True
    while interrupted:
        opt, params = stepped(2, lr=0.1, ema=0.9)
        before = (*everything(opt, params), opt.lr)
        interrupted = interrupted_at(line, lambda opt=opt: opt.load_state_dict(saved))
        loaded = opt.steps == 5
        if loaded:
            assert opt.lr == 0.5
            entries = opt.state_dict()["state"]
            for name, entry in saved["state"].items():
                for key, value in entry.items():
                    assert np.array_equal(entries[name][key], value), line
        else:
            assert interrupted
            assert (*everything(opt, params), opt.lr) == before, line
        line += 1
    assert line > 100


@needs_testcapi
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="CPython itself crashes making functions")
def test_a_plan_without_memory_leaves_the_ranges_of_the_last_one():
    """Else what overlaps a parameter would be taken for a gradient: it is read while written."""
    code = """
        import numpy as np, cyopt
        from test_no_memory import failing

        failed = 0
        for start in range(150):
            memory = np.zeros(20)
            first, second = memory[:10], np.zeros(10)
            params = {"w": first}
            opt = cyopt.Adam(params)
            opt.step({"w": np.ones(10)})
            params["w"] = second
            error = failing(opt.step, start, {"w": np.ones(10)})
            failed += error is not None
            params["w"] = first
            try:
                opt.step({"w": memory[5:15]})
            except ValueError:
                continue
            raise AssertionError(f"after {start} allocations")
        assert failed > 20
    """
    run_python(code)


@pytest.mark.parametrize("take", [pickle.dumps, copy.deepcopy, cyopt.Optimizer.state_dict])
def test_a_copy_in_the_middle_of_a_step_is_refused(take):
    params = arrays(0)
    opt = cyopt.Adam(params)
    opt.lr = lambda steps: len([take(opt)])
    with pytest.raises(RuntimeError, match="in a step already"):
        opt.step(grads_at(0, params))
    assert opt.steps == 0
    opt.lr = 0.1
    opt.step(grads_at(0, params))
    assert take(opt)


@pytest.mark.parametrize("way", ["step", "update"])
def test_loaded_state_is_not_kept_twice(way):
    saved, params = stepped(3)
    grads = grads_at(3, params)
    loaded = cyopt.Adam()
    loaded.load_state_dict(saved.state_dict())
    again = {name: param.copy() for name, param in params.items()}
    saved.step(grads)
    if way == "step":
        loaded.step(grads, again)
    else:
        loaded.update("w", again["w"], grads["w"])
        assert list(loaded._waiting) == ["b"]
        assert set(loaded.state_dict()["state"]) == {"w", "b"}
        loaded.update("b", again["b"], grads["b"])
    assert loaded._waiting == {}
    for name, param in params.items():
        assert np.array_equal(again[name], param)
    assert set(loaded.state_dict()["state"]) == {"w", "b"}


def test_loaded_state_waits_on_after_a_step_that_is_refused():
    saved, params = stepped(3)
    loaded = cyopt.Adam()
    loaded.load_state_dict(saved.state_dict())
    again = {name: param.copy() for name, param in params.items()}
    with pytest.raises(TypeError, match="gradient of 'b'"):
        loaded.step({**grads_at(3, params), "b": "no"}, again)
    loaded.step(grads_at(3, params), again)
    saved.step(grads_at(3, params))
    for name, param in params.items():
        assert np.array_equal(again[name], param)


@pytest.mark.parametrize(
    "options",
    [{}, {"clip_norm": 1.0}, {"ema": 0.9}, {"weight_decay": 1e-40}, {"cast_grads": True}],
)
def test_the_reference_obeys_no_error_state(options):
    results = []
    for state in ("ignore", "raise"):
        param = np.array([1, 2, 3, 4, 1e38, 1e-40], np.float32)
        grad = np.array([1e30, -1e30, np.nan, np.inf, 0.0, 1e-45], np.float32)
        if "cast_grads" in options:
            grad = np.array([1e300, 1e-300, np.nan, np.inf, 0.0, 1.0])
        with np.errstate(all=state):
            opt = cyopt.reference.attach(cyopt.Adam([param], lr=1.0, **options))
            for _ in range(2):
                opt.step([grad], norms=True)
        results.append((param.tobytes(), repr(opt.grad_norm), repr(opt.update_norm)))
    assert results[0] == results[1]


def test_the_reference_raises_for_no_overflow_of_a_norm():
    params = [np.full(1, 1.2e154), np.full(1, 1.2e154)]
    opt = cyopt.reference.attach(cyopt.Momentum(params, lr=1e-3))
    with np.errstate(all="raise"):
        assert opt.step([np.full(1, 1e153)] * 2, norms=True)
    assert opt.param_norm == np.inf
    assert opt.steps == 1
