"""thinc's optimizers on cyopt's step, beside thinc's own."""

import sys
from collections.abc import Callable
from importlib import metadata, util
from typing import Any, NamedTuple

import numpy as np
import pytest

import cyopt

pytest.importorskip("thinc")

from thinc import optimizers as host
from thinc.api import Config, Linear, Relu, Softmax, chain, registry, warmup_linear

from cyopt.integrations import thinc as ours

SHAPES = [(7,), (4, 5), (3, 2, 2)]
# thinc forms the decay of averages in float32 and sums the norm by its BLAS: each step rounds
# elsewhere, by some units in the last place of the largest number.
UNITS = 40
# It forms 1 - beta2 in float32 too, by which the second moment is too small or too large: half a
# unit of 1, which is so many of 1 - beta2.
MORE_UNITS = UNITS + 0.5 / (1 - 0.999)


class Fresh(NamedTuple):
    """A schedule that is made again for each run, as some can be run through only once."""

    make: Callable[[], Any]


CASES = {
    "adam": ("Adam", {}),
    "no clipping": ("Adam", {"grad_clip": 0.0}),
    "decay": ("Adam", {"L2": 0.01}),
    "added decay": ("Adam", {"L2": 0.01, "L2_is_weight_decay": False, "grad_clip": 0.0}),
    "no averages": ("Adam", {"use_averages": False}),
    "betas": ("Adam", {"beta1": 0.5, "beta2": 0.9, "eps": 1e-4}),
    "schedule": ("Adam", {"learn_rate": Fresh(lambda: warmup_linear(0.01, 5, 30))}),
    "list": ("Adam", {"learn_rate": [0.1, 0.01, 0.001]}),
    "generator": ("Adam", {"learn_rate": Fresh(lambda: (0.1 / n for n in range(1, 99)))}),
    "sgd": ("SGD", {"learn_rate": 0.1}),
    "sgd with decay": ("SGD", {"learn_rate": 0.1, "L2": 0.01}),
}


def arrays(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return {i: (scale * rng.standard_normal(s)).astype(np.float32) for i, s in enumerate(SHAPES)}


def run(module, name, arguments, steps=30):
    """Parameters, and the optimizer, after some steps whose gradients are clipped or not."""
    fresh = {k: v.make() if isinstance(v, Fresh) else v for k, v in arguments.items()}
    optimizer = getattr(module, name)(**{"learn_rate": 0.01, **fresh})
    params = arrays(0)
    for step in range(steps):
        grads = arrays(1 + step, scale=0.1 + step % 3)
        for i, param in params.items():
            weights, grad = optimizer((i, "W"), param, grads[i], lr_scale=1.0 - 0.1 * i)
            assert np.shares_memory(weights, param)
            assert np.shares_memory(grad, grads[i])
            assert not grad.any()
        optimizer.step_schedules()
    return params, optimizer


def close(ours, theirs, units=UNITS):
    return np.abs(ours - theirs).max() <= units * np.finfo(np.float32).eps * np.abs(theirs).max()


@pytest.fixture
def stepped(monkeypatch):
    """How often cyopt made the step."""
    counts = {"adam_": 0, "sgd_": 0}

    def counted(name, step):
        def count(*args, **kwargs):
            counts[name] += 1
            return step(*args, **kwargs)

        return count

    for name in counts:
        monkeypatch.setattr(cyopt, name, counted(name, getattr(cyopt, name)))
    return counts


@pytest.mark.parametrize("case", CASES)
def test_steps_are_those_of_thinc(case, stepped):
    name, arguments = CASES[case]
    theirs, their_optimizer = run(host, name, arguments)
    params, optimizer = run(ours, name, arguments)
    assert sum(stepped.values()) == 30 * len(SHAPES)
    assert dict(optimizer.nr_update) == dict(their_optimizer.nr_update)
    for i in params:
        key = (i, "W")
        assert close(params[i], theirs[i]), i
        for state, units in [("mom1", UNITS), ("mom2", MORE_UNITS), ("averages", UNITS)]:
            mine, other = (getattr(o, state) or {} for o in (optimizer, their_optimizer))
            assert mine.keys() == other.keys()
            if key in mine:
                assert mine[key].shape == other[key].shape
                assert close(mine[key], other[key], units), state


@pytest.mark.parametrize(
    ("arguments", "weights"),
    [
        ({"L2": 0.01, "L2_is_weight_decay": False}, np.ones((2, 3), np.float32)),
        ({}, np.ones((3, 2), np.float32).T),
        ({}, np.ones((2, 6), np.float32)[:, ::2]),
    ],
)
def test_what_cyopt_cannot_express_is_thincs_own_step(arguments, weights, stepped):
    results = []
    for module in (host, ours):
        w = weights.copy("K") if weights.flags.forc else weights.base.copy()[:, ::2]
        optimizer = module.Adam(0.1, **arguments)
        results.append(optimizer((0, "W"), w, np.full((2, 3), 2.0, np.float32))[0])
    assert np.array_equal(*results)
    assert stepped == {"adam_": 0, "sgd_": 0}


def test_radam_is_thincs_own(stepped):
    results = []
    for module in (host, ours):
        w, optimizer = np.ones(3, np.float32), module.Optimizer(0.01, use_radam=True)
        for step in range(8):
            gradient = np.array([1.0, -0.5, 0.1], np.float32) * (step % 3 + 1)
            optimizer((0, "W"), w, gradient)
        results.append(w)
    assert np.array_equal(*results)
    assert stepped == {"adam_": 0, "sgd_": 0}


def test_a_step_that_is_refused_leaves_no_state():
    optimizer = ours.Adam(0.1)
    with pytest.raises(ValueError, match="shape"):
        optimizer((0, "W"), np.ones(3, np.float32), np.ones(4, np.float32))
    with pytest.raises(TypeError, match="float64"):
        optimizer((0, "W"), np.ones(3, np.float32), np.ones(3))
    assert not (optimizer.mom1 or optimizer.mom2 or optimizer.averages or optimizer.nr_update)


def test_an_empty_gradient_is_no_step():
    weights, gradient = np.ones((0, 3), np.float32), np.ones((0, 3), np.float32)
    optimizer = ours.Adam(0.1)
    assert optimizer((0, "W"), weights, gradient)[0] is weights
    assert not optimizer.nr_update


def train(optimizer):
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((200, 8)).astype(np.float32)
    labels = (inputs[:, 0] * inputs[:, 1] > 0).astype(int)
    model = chain(Relu(16), Linear(8), Softmax(2)).initialize(inputs[:5], np.eye(2)[labels[:5]])
    for i, node in enumerate(model.walk()):  # thinc's initial weights come from a global generator
        for name in node.param_names:
            if node.has_param(name):
                values = np.random.default_rng(i).standard_normal(node.get_param(name).shape)
                node.set_param(name, (0.3 * values).astype(np.float32))
    losses = []
    for _ in range(20):
        guess, backprop = model.begin_update(inputs)
        difference = guess - np.eye(2, dtype=np.float32)[labels]
        losses.append(float((difference**2).mean()))
        backprop(difference / len(inputs))
        model.finish_update(optimizer)
        optimizer.step_schedules()
    with model.use_params(optimizer.averages):
        losses.append(float(model.predict(inputs)[:, 0].mean()))
    return losses


def test_a_model_trains_alike(stepped):
    theirs = train(host.Adam(0.01))
    mine = train(ours.Adam(0.01))
    assert stepped["adam_"] == 20 * 6
    assert mine[19] < mine[0]
    assert np.round(mine, 4) == pytest.approx(np.round(theirs, 4), abs=1.01e-4)


def test_the_adam_of_ops_agrees():
    theirs, mine = (
        [*arrays(0).values()][:1] + [x[0] for x in map(arrays, (1, 2, 3))] for _ in "ab"
    )
    theirs[3], mine[3] = np.abs(theirs[3]), np.abs(mine[3])
    numbers = (0.9, 0.99, 1e-6, 0.1)
    expected = host.get_array_ops(theirs[0]).adam(*theirs, *numbers)
    got = ours.Ops().adam(*mine, *numbers)
    assert all(a is b for a, b in zip(got, mine, strict=True))
    assert all(close(a, b, MORE_UNITS) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("name", ["Adam", "SGD"])
def test_a_configuration_names_it(name):
    if not any(
        e.name == f"cyopt.{name}.v1" for e in metadata.entry_points(group="thinc_optimizers")
    ):
        pytest.fail("cyopt was installed without its entry points: install it again")
    config = {"optimizer": {"@optimizers": f"cyopt.{name}.v1", "learn_rate": 0.5}}
    optimizer = registry.resolve(Config(config))["optimizer"]
    assert type(optimizer) is ours.Optimizer


def test_thincs_own_tests_of_optimizers(monkeypatch):
    """With the names that thinc's test module imported bound to cyopt's."""
    spec = util.find_spec("thinc.tests.test_optimizers")
    if spec is None:
        pytest.skip("this thinc ships no tests")
    monkeypatch.setattr(host, "Optimizer", ours.Optimizer)
    monkeypatch.setattr("thinc.api.Optimizer", ours.Optimizer)
    for name in ("Adam", "SGD"):
        monkeypatch.setattr(f"thinc.api.{name}", getattr(ours, name))
    monkeypatch.delitem(sys.modules, spec.name, raising=False)
    assert pytest.main(["-q", "-p", "no:cacheprovider", "-W", "default", spec.origin]) == 0


def test_arrays_that_are_not_alike_are_left_to_thinc():
    average = np.zeros((2, 2), np.float32, order="F")
    stepped = []
    for module in (host, ours):
        optimizer = module.Adam(0.1)
        optimizer.averages[(0, "W")] = average.copy(order="F")
        for _ in range(3):
            optimizer((0, "W"), np.ones((2, 2), np.float32), np.ones((2, 2), np.float32))
        stepped.append(optimizer.averages[(0, "W")])
    assert (stepped[0] != 0).all()
    assert close(stepped[1], stepped[0], MORE_UNITS)
    weights = np.ones((2, 3), np.float32)
    with pytest.raises(ValueError, match="broadcast"):
        ours.SGD(0.1)((0, "W"), weights, np.ones((3, 2), np.float32))
    assert (weights == 1).all()


def test_errors_name_the_key():
    with pytest.raises(ValueError, match=r"^\(0, 'W'\): lr is -1.0"):
        ours.Adam(-1.0)((0, "W"), np.ones(2, np.float32), np.ones(2, np.float32))


def interrupted(monkeypatch, name, when):
    """Let an interrupt come right before or right after a native step."""
    function = getattr(cyopt, name)

    def step(*arrays, **numbers):
        if when == "after":
            function(*arrays, **numbers)
        raise KeyboardInterrupt

    monkeypatch.setattr(cyopt, name, step)


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", ["Adam", "SGD"])
def test_an_interrupt_leaves_a_step_whole(name, when, steps, monkeypatch):
    stepped_, twin = (getattr(ours, name)(0.01) for _ in range(2))
    (w, other), key = np.ones((2, 3), np.float32), ("layer", "W")

    def step(optimizer, weights):
        optimizer(key, weights, np.full(3, 0.5, np.float32))

    def held(optimizer):
        kept = (optimizer.mom1, optimizer.mom2, optimizer.averages, optimizer.nr_update)
        return [{key: np.copy(value) for key, value in entries.items()} for entries in kept]

    for _ in range(steps):
        step(stepped_, w), step(twin, other)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupted(patch, f"{name.lower()}_", when)
        step(stepped_, w)
    if when == "after":
        step(twin, other)
    for _ in range(2):
        assert np.array_equal(w, other)
        for mine, theirs in zip(held(stepped_), held(twin), strict=True):
            assert mine.keys() == theirs.keys()
            assert all(np.array_equal(mine[key], theirs[key]) for key in mine)
        step(stepped_, w), step(twin, other)
