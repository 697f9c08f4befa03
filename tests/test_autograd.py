"""autograd's optimizers on cyopt's step, beside autograd's own."""

import copy
from typing import NamedTuple

import numpy as np
import pytest

pytest.importorskip("autograd")

import autograd.numpy as anp
from autograd import grad
from autograd.misc import optimizers as host

from cyopt.integrations import autograd as ours

NAMES = ["sgd", "rmsprop", "adam"]
# Another order of operations: each of up to 100 steps rounds elsewhere, and the next ones go on
# from there. Of the largest number, as others come near 0.
TOLERANCE = {"sgd": 0.0, "rmsprop": 1e-12, "adam": 1e-12}


def tree(seed=0):
    rng = np.random.default_rng(seed)
    return {"a": 1.5, "b": [rng.standard_normal(3), (rng.standard_normal((2, 3)).T,)], "c": []}


def objective(x, i):
    product = anp.dot(x["b"][0], anp.dot(x["b"][1][0], np.ones(2)))
    return (product - x["a"]) ** 2 + anp.sum(x["b"][1][0] ** 4) + anp.sum(anp.cos(x["b"][0] + i))


def leaves(x):
    if isinstance(x, dict):
        return [leaf for child in x.values() for leaf in leaves(child)]
    return [leaf for child in x for leaf in leaves(child)] if isinstance(x, list | tuple) else [x]


def close(a, b, tolerance):
    return np.abs(a - b).max(initial=0.0) <= tolerance * np.abs(b).max(initial=1.0)


def same(a, b):
    return all(map(np.array_equal, leaves(a), leaves(b)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("arguments", [{}, {"step_size": 0.01, "num_iters": 40}])
def test_results_and_callbacks_are_those_of_autograd(name, arguments):
    start, seen = tree(), {}
    results = {}
    for module in (host, ours):
        calls = seen[module] = []
        results[module] = getattr(module, name)(
            grad(objective),
            start,
            lambda x, i, g, calls=calls: calls.append((x, i, g)),
            **arguments,
        )
    assert same(start, tree())
    assert len(seen[ours]) == len(seen[host])
    for mine, theirs in [*zip(seen[ours], seen[host], strict=True), (results[ours], results[host])]:
        for a, b in zip(leaves(mine), leaves(theirs), strict=True):
            assert type(a) is type(b)
            assert np.shape(a) == np.shape(b)
            assert close(a, b, TOLERANCE[name])
    assert isinstance(results[ours]["b"][1], tuple)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("start", [1.0, np.float32(2.0), np.ones(3, np.float32), np.ones((2, 2)).T])
def test_the_start_may_be_one_array_or_number(name, start):
    mine, theirs = (
        getattr(module, name)(grad(lambda x, i: anp.sum(x**2)), start) for module in (ours, host)
    )
    assert type(mine) is np.ndarray
    assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
    # Of float32 autograd's first step is made in float32.
    narrow = np.asarray(start).dtype == np.float32
    assert close(mine, theirs, 1e-6 if narrow else TOLERANCE[name])


def test_what_a_callback_gets_may_be_kept_and_changed():
    kept, inside = [], []

    def gradient(x, i):
        inside.append(x)
        return {"w": 2 * x["w"]}

    def callback(x, i, g):
        kept.append((x, copy.deepcopy(x), g, copy.deepcopy(g)))

    result = ours.sgd(gradient, {"w": np.ones(3)}, callback, num_iters=5)
    assert all(same(x, x_then) and same(g, g_then) for x, x_then, g, g_then in kept)
    assert len({x["w"][0] for x in inside}) == 5

    def spoil(x, i, g):
        x["w"][:], g["w"][:] = 7.0, 7.0

    assert same(result, ours.sgd(gradient, {"w": np.ones(3)}, spoil, num_iters=5))


def test_parameters_that_look_like_groups_are_parameters():
    start = [{"params": np.ones(2), "lr": np.ones(1)}]
    result = ours.sgd(lambda x, i: [{"params": x[0]["params"], "lr": x[0]["lr"]}], start)
    assert same(result, host.sgd(lambda x, i: x, start))


def test_no_iterations_return_a_copy_of_the_start():
    start = {"w": np.ones(2)}
    result = ours.adam(None, start, num_iters=0)
    assert same(result, start)
    assert result["w"] is not start["w"]


@pytest.mark.parametrize(
    ("start", "gradient", "message"),
    [
        (np.ones(2) * 1j, lambda x, i: x, r"complex128.*\.view\(np\.float64\)"),
        (np.ones(2), lambda x, i: x * 1j, r"complex128.*\.view\(np\.float64\)"),
        (np.ones(2), lambda x, i: np.ones(3), "has shape"),
        ({"w": np.ones(2)}, lambda x, i: {}, "missing"),
        (np.ones(2), lambda x, i: None, "gradient is a NoneType"),
        ([np.ones(2), 1.0], lambda x, i: [None, x[1]], r"gradient\[0\] is a NoneType"),
        (np.ones(2), lambda x, i: np.ma.array(x, mask=True), "gradient is a masked array"),
    ],
)
def test_unfit_gradients_are_refused(start, gradient, message):
    with pytest.raises((TypeError, ValueError), match=message):
        ours.sgd(gradient, start, num_iters=1)


MAPPED = np.frombuffer(bytearray(24)).view(np.memmap)


class Pair(NamedTuple):
    w: float
    b: float


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("text", "x0 is a str"),
        ([np.ones(2), None], r"x0\[1\] is a NoneType"),
        ({"w": np.ma.array([1.0, 2.0], mask=[0, 1])}, r"x0\['w'\] is a masked array"),
        (Pair(np.ones(2), 2.0), r"x0 is a .*Pair"),
        pytest.param(
            np.ones(2, np.longdouble),
            "expected float32 or float64",
            marks=pytest.mark.skipif(np.longdouble(1).itemsize == 8, reason="is float64 here"),
        ),
    ],
)
def test_parameters_are_checked_before_the_gradient_is_called(start, message):
    with pytest.raises(TypeError, match=message):
        ours.adam(pytest.fail, start)


@pytest.mark.parametrize("start", [np.ones((2, 3, 4)).transpose(1, 0, 2), np.ones(6)[::2], MAPPED])
def test_the_start_may_lie_in_any_order_and_stays(start):
    before = start.copy()
    result = ours.adam(lambda x, i: 2 * x, start)
    assert close(result, host.adam(lambda x, i: 2 * x, np.array(start)), TOLERANCE["adam"])
    assert same(start, before)


def test_gradients_do_not_flow_through_the_optimizer():
    def result(of_start, of_gradient):
        return anp.sum(ours.sgd(lambda x, i: of_gradient * x, of_start, num_iters=2))

    for argnum in (0, 1):
        with pytest.raises(TypeError, match=r"ArrayBox.*use autograd\.misc"):
            grad(result, argnum)(np.ones(2), 0.5)


def test_hyperparameters_are_checked():
    with pytest.raises(ValueError, match="lr is -1"):
        ours.adam(lambda x, i: x, np.ones(2), step_size=-1.0)
