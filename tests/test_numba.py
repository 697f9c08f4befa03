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


def test_hyper_has_every_field():
    given = hyper(cyopt.Adam(lr=0.25, betas=(0.5, 0.75), eps=1e-3), np.float64)
    known = _cpu.default_hyper("adam")
    assert set(given.dtype.names) == {*known, "itemsize"}
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


def test_threads_can_step_at_once():
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
NUMBERS = hyper(ADAM, np.float64)
# Which Numba takes for aligned when it compiles.
shifted = np.zeros(28, np.uint8)[4:].view(np.float64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grad": np.ones(4)}, "grad does not have the shape"),
        ({"state": (STATE, np.zeros(2))}, "state does not have the shape"),
        ({"state": (STATE,)}, "state does not have as many"),
        ({"state": ()}, "state does not have as many"),
        ({"step": 0}, "step counts from 1"),
        ({"step": np.uint64(2**63)}, "step counts from 1"),
        ({"step": 1.5}, "step is float64; expected an integer"),
        ({"step": True}, "step is bool"),
        ({"grad": np.ones(3, np.float32)}, "type and order"),
        ({"grad": np.ones(6)[::2]}, "ascontiguousarray"),
        ({"param": np.ones(3, int)}, "float32 or float64"),
        ({"state": [STATE]}, "expected a tuple"),
        ({"numbers": np.zeros(3)}, r"hyper\(\) gives"),
        ({"numbers": NUMBERS[:0]}, "one record"),
        ({"numbers": NUMBERS.reshape(1, 1)}, r"hyper\(\) gives"),
        ({"numbers": hyper(ADAM, np.float32)}, "another dtype"),
        ({"param": np.broadcast_to(np.ones(3), (3,))}, "may be written|ascontiguous"),
        ({"param": np.ones((2, 3)), "grad": np.ones((2, 3), order="F")}, "type and order"),
        ({"grad": shifted}, "param or grad is not aligned"),
        ({"state": (STATE, shifted)}, "state is not aligned"),
    ],
)
def test_refusals(change, message):
    given = {
        "numbers": NUMBERS,
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
    ("optimizer", "message"),
    [
        (cyopt.Adam(lr=lambda steps: 0.1), r"lr is a schedule.*numbers\[0\]\.lr"),
        (cyopt.Adam(betas=(0.9, lambda steps: 0.1)), r"betas\[1\] is a.*numbers\[0\]\.beta2"),
        (cyopt.Adam(clip_norm=1.0), "clip_norm is 1.0.*pass clip_norm=None"),
        (cyopt.Adam(ema=0.9), "ema is 0.9"),
        (cyopt.Adam(ema=0.0), "ema is 0.0"),
        (cyopt.Adam(skip_nonfinite=True), "skip_nonfinite is True.*pass skip_nonfinite=False"),
        (cyopt.Adam(zero_grads=True), "zero_grads is True"),
        (cyopt.Adam(cast_grads=True), "cast_grads is True"),
        (cyopt.RMSProp.like("autograd"), "initial_square_avg is 1.0.*initial_square_avg=0"),
        (cyopt.Adam(eps=1e-50), "eps is 1e-50"),
        (cyopt.Adam([{"params": [STATE]}, {"params": [np.ones(1)]}]), "2 groups"),
        (cyopt.Adam, "expected one, such as"),
    ],
)
def test_what_cannot_be_compiled_is_refused_in_python(optimizer, message):
    with pytest.raises((TypeError, ValueError), match=message):
        hyper(optimizer, np.float32)


@pytest.mark.parametrize("dtype", ["float16", np.int64, ">f4", "foo", None])
def test_another_type_of_parameters_is_refused(dtype):
    with pytest.raises(TypeError, match="float32 or float64"):
        hyper(ADAM, dtype)


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
    try:
        cached.step(hyper(cyopt.SGD(lr=0.5), w.dtype), w, np.ones(3))
    except RuntimeError as error:
        print(error)
    print(w[0], sum(cached.step.stats.cache_hits.values()))
"""
OTHER_VERSION = "from cyopt import _cpu; _cpu.API_VERSION -= 1"


@pytest.fixture
def run_cached(tmp_path):
    """What a function whose code Numba keeps on disk does, in a process of its own each time."""
    (tmp_path / "cached.py").write_text(
        "from numba import njit\n"
        "from cyopt.integrations.numba import update\n"
        "@njit(cache=True)\n"
        "def step(n, w, g):\n"
        "    update(n, 1, w, g, ())\n"
    )
    path = f"import sys; sys.path.insert(0, {str(tmp_path)!r})"
    kept = str(tmp_path / "kept")
    return lambda *prelude: run_python(CACHED, path, *prelude, NUMBA_CACHE_DIR=kept)


def test_what_numba_keeps_on_disk_works_in_another_process(run_cached):
    assert run_cached().split() == ["0.5", "0"]
    assert run_cached().split() == ["0.5", "1"]


def test_what_numba_keeps_of_another_version_is_refused(run_cached):
    run_cached(OTHER_VERSION)
    message, result = run_cached().splitlines()
    assert "another version of cyopt: delete Numba's cache" in message
    assert result == "1.0 1"


def test_the_example():
    pytest.importorskip("scipy")
    done = subprocess.run(
        [sys.executable, EXAMPLE], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    accuracy = float(done.stdout.split()[-2])
    assert accuracy > 90
