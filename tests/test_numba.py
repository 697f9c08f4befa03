"""cyopt in functions that Numba compiles: the same bits as from Python."""

import gc
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from run_python import run_python
from same_bits import same_bits

import cyopt
from cyopt import _cpu

numba = pytest.importorskip("numba")

from numba import njit  # noqa: E402

from cyopt.integrations.numba import hyper, update  # noqa: E402

EXAMPLE = Path(__file__).parents[1] / "examples" / "embed_numba" / "perceptron.py"
OPTIMIZERS = {
    "sgd": cyopt.SGD(lr=0.1, weight_decay=0.1),
    "momentum": cyopt.Momentum(lr=0.1, maximize=True),
    "nesterov": cyopt.Momentum(lr=0.1, nesterov=True),
    "adagrad": cyopt.AdaGrad(lr=0.1),
    "rmsprop": cyopt.RMSProp(lr=0.1, clip_value=0.5),
    "rmsprop_centered": cyopt.RMSProp(lr=0.1, centered=True),
    "rmsprop_momentum": cyopt.RMSProp(lr=0.1, momentum=0.9),
    "rmsprop_centered_momentum": cyopt.RMSProp(lr=0.1, centered=True, momentum=0.9),
    "adam": cyopt.Adam.like("keras", lr=0.1, weight_decay=0.1),
    "amsgrad": cyopt.Adam(lr=0.1, amsgrad=True),
}


@njit(nogil=True)
def steps(numbers, param, grads, state, first):
    for i in range(len(grads)):
        update(numbers, first + i, param, grads[i], state)


def same_as(opt, dtype=np.float32, size=37, order="C"):
    """The parameters and state of an optimizer of this kind after some steps, and in Numba."""
    rng = np.random.default_rng(0)
    shape = (size, 3)
    start = np.asarray(rng.standard_normal(shape), dtype, order)
    grads = [np.asarray(rng.standard_normal(shape), dtype, order) for _ in range(5)]
    values = opt.groups[0].values()
    twin = type(opt)([start.copy("K")], **values)
    for grad in grads:
        twin.step([grad])
    names = [name for name in cyopt.rules.RULES[opt.groups[0].rule].state if name]
    state = tuple(np.zeros_like(start) for _ in names)
    param = start.copy("K")
    steps(hyper(opt, dtype), param, numba.typed.List(grads), state, 1)
    assert same_bits(param, twin._given[0])
    for name, array in zip(names, state, strict=True):
        assert same_bits(array, twin.state["0"][name]), name
    assert not same_bits(param, start)


def test_every_rule_is_compared():
    assert {opt.groups[0].rule for opt in OPTIMIZERS.values()} == set(_cpu.RULES)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rule", OPTIMIZERS)
def test_the_bits_are_those_of_python(rule, dtype):
    same_as(OPTIMIZERS[rule], dtype)


def test_fortran_order_and_sizes_that_threads_share():
    same_as(OPTIMIZERS["adam"], order="F")
    _cpu.set_config(grain=64, num_threads=2)
    same_as(OPTIMIZERS["adam"], size=4099)


def test_settings_of_python_act():
    param, grad = np.full(4, 1e-40, np.float32), np.zeros(4, np.float32)
    numbers = hyper(cyopt.SGD(lr=0.1), np.float32)
    step = njit(lambda n, p, g: update(n, 1, p, g, ()))
    cyopt.set_subnormals("keep")
    step(numbers, param, grad)
    assert param.all()
    cyopt.set_subnormals("flush")
    step(numbers, param, grad)
    assert not param.any()


def test_every_field_of_the_numbers():
    given = hyper(cyopt.Adam(lr=0.25, betas=(0.5, 0.75), eps=1e-3), np.float64)
    assert given.dtype.itemsize == _cpu.HYPER_SIZE
    known = _cpu.default_hyper("adam")
    assert set(given.dtype.names) == set(known)
    changed = {"lr": 0.25, "beta1": 0.5, "beta2": 0.75, "eps": 1e-3}
    for name, value in {**known, **changed}.items():
        assert given[0][name] == value or value != value, name


def test_numbers_may_change_in_the_loop():
    @njit
    def halving(numbers, param, grad):
        for t in range(1, 5):
            numbers[0].lr = 0.5**t
            update(numbers, t, param, grad, ())

    param, other = np.ones(3), np.ones(3)
    halving(hyper(cyopt.SGD(), np.float64), param, np.ones(3))
    opt = cyopt.SGD([other], lr=lambda steps: 0.5 ** (steps + 1))
    for _ in range(4):
        opt.step([np.ones(3)])
    assert np.array_equal(param, other)


def test_temporary_arrays_live_until_the_step_is_made():
    @njit
    def descend(numbers, n, steps):
        param, m, v = np.ones(n), np.zeros(n), np.zeros(n)
        for t in range(1, steps + 1):
            update(numbers, t, param, param * 2.0 + np.ones(n), (m, v))
        return param

    numbers = hyper(cyopt.Adam(lr=0.1), np.float64)
    expected = np.ones(1000)
    opt = cyopt.Adam([expected], lr=0.1)
    for _ in range(50):
        opt.step([expected * 2.0 + np.ones(1000)])
    gc.collect()
    assert all(np.array_equal(descend(numbers, 1000, 50), expected) for _ in range(20))


def test_threads_step_at_once():
    numbers = hyper(cyopt.Momentum(lr=0.1), np.float64)
    grads = numba.typed.List([np.ones(20_000)] * 50)
    arrays = [(np.zeros(20_000), np.zeros(20_000)) for _ in range(4)]
    threads = [
        threading.Thread(target=steps, args=(numbers, param, grads, (v,), 1)) for param, v in arrays
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({param.tobytes() for param, _ in arrays}) == 1


STATE = np.zeros(3)
ADAM = OPTIMIZERS["adam"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grad": np.ones(4)}, "grad has not the shape"),
        ({"state": (STATE, np.zeros(2))}, "state has not the shape"),
        ({"state": (STATE,)}, "state has not as many"),
        ({"state": ()}, "state has not as many"),
        ({"step": 0}, "step counts from 1"),
        ({"grad": np.ones(3, np.float32)}, "type and order"),
        ({"grad": np.ones(6)[::2]}, "ascontiguousarray"),
        ({"param": np.ones(3, int)}, "float32 or float64"),
        ({"state": [STATE]}, "expected a tuple"),
        ({"numbers": np.zeros(3)}, r"hyper\(\) gives"),
        ({"param": np.broadcast_to(np.ones(3), (3,))}, "may be written|ascontiguous"),
        ({"param": np.ones((2, 3)), "grad": np.ones((2, 3), order="F")}, "type and order"),
    ],
)
def test_refusals(change, message):
    given = {
        "numbers": hyper(ADAM, np.float64),
        "step": 1,
        "param": np.ones(3),
        "grad": np.ones(3),
        "state": (np.zeros(3), np.zeros(3)),
        **change,
    }
    before = given["param"].copy()
    call = njit(lambda numbers, step, param, grad, state: update(numbers, step, param, grad, state))
    with pytest.raises((ValueError, numba.TypingError), match=message):
        call(*given.values())
    assert np.array_equal(given["param"], before)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cyopt.Adam(lr=lambda steps: 0.1), "lr is a schedule"),
        (lambda: cyopt.Adam(clip_norm=1.0), "clip_norm is 1.0"),
        (lambda: cyopt.Adam(ema=0.9), "ema is 0.9"),
        (lambda: cyopt.Adam(eps=1e-50), "eps is 1e-50"),
        (lambda: cyopt.Adam([{"params": [STATE]}, {"params": [np.ones(1)]}]), "2 groups"),
    ],
)
def test_what_cannot_be_compiled_is_refused_in_python(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        hyper(make(), np.float32)


def test_clipping_cannot_be_turned_on_later():
    numbers = hyper(cyopt.SGD(), np.float64)
    numbers["clip_norm"] = 1.0
    with pytest.raises(ValueError, match="clip_norm"):
        steps(numbers, np.ones(2), numba.typed.List([np.ones(2)]), (), 1)
    with pytest.raises(TypeError, match="from Python"):
        update(numbers, 1, np.ones(2), np.ones(2), ())


CACHED = """
    import numpy as np
    import cached
    import cyopt
    from cyopt.integrations.numba import hyper
    w = np.ones(3)
    cached.step(hyper(cyopt.SGD(lr=0.5), w.dtype), w, np.ones(3))
    print(w[0], sum(cached.step.stats.cache_hits.values()))
"""


def test_what_numba_keeps_on_disk_works_in_another_process(tmp_path):
    (tmp_path / "cached.py").write_text(
        "from numba import njit\n"
        "from cyopt.integrations.numba import update\n"
        "@njit(cache=True)\n"
        "def step(n, w, g):\n"
        "    update(n, 1, w, g, ())\n"
    )
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})"
    outputs = [run_python(CACHED, code, NUMBA_CACHE_DIR=str(tmp_path / "kept")) for _ in range(2)]
    assert [output.split() for output in outputs] == [["0.5", "0"], ["0.5", "1"]]


def test_the_example():
    pytest.importorskip("scipy")
    done = subprocess.run(
        [sys.executable, EXAMPLE], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    accuracy = float(done.stdout.split()[-2])
    assert accuracy > 90
