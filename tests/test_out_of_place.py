"""cyopt.adam and its fellows: the functions with an underscore on a copy."""

import numpy as np
import pytest
from models import Foreign
from same_bits import same_bits

import cyopt

# name, the number of states that it needs, keyword arguments
FUNCTIONS = [
    ("sgd", 0, {"lr": 0.1, "weight_decay": 0.1}),
    ("sgd", 1, {"lr": 0.1, "momentum": 0.9}),
    ("adagrad", 1, {"lr": 0.1, "step": 3}),
    ("rmsprop", 1, {"lr": 0.1, "alpha": 0.5}),
    ("rmsprop", 2, {"lr": 0.1}),
    ("adam", 2, {"lr": 0.1, "step": 2}),
    ("adam", 3, {"lr": 0.1, "step": 2, "like": "keras"}),
]


def arrays(count, shape=(4, 3), dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    return [np.abs(rng.standard_normal(shape)).astype(dtype) for _ in range(count)]


def both(name):
    return getattr(cyopt, name), getattr(cyopt, name + "_")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "count", "hyper"), FUNCTIONS)
def test_the_result_is_that_in_place_and_the_old_array_stays(name, count, hyper, dtype):
    function, in_place = both(name)
    param, grad, *state = arrays(2 + count, dtype=dtype)
    expected, _, *expected_state = arrays(2 + count, dtype=dtype)
    in_place(expected, grad, *expected_state, **hyper)
    before = param.copy()
    param.flags.writeable = False
    result = function(param, grad, *state, **hyper)
    assert type(result) is np.ndarray
    assert same_bits(result, expected)
    assert same_bits(param, before)
    assert not np.shares_memory(result, param)
    assert all(map(same_bits, state, expected_state))


def test_lists_return_lists():
    params, grads = arrays(3), arrays(3, seed=1)
    ms, vs = [np.zeros((4, 3)) for _ in params], [np.zeros((4, 3)) for _ in params]
    results = cyopt.adam(params, grads, ms, vs, step=1, lr=0.1)
    expected = [param.copy() for param in params]
    states = [np.zeros((4, 3)) for _ in range(6)]
    cyopt.adam_(expected, grads, states[:3], states[3:], step=1, lr=0.1)
    assert isinstance(results, list)
    assert all(map(same_bits, results, expected))
    assert all(map(same_bits, [*ms, *vs], states))


def test_out_takes_the_result():
    param, grad, out = arrays(3)
    expected = cyopt.sgd(param, grad, lr=0.1)
    assert cyopt.sgd(param, grad, lr=0.1, out=out) is out
    assert same_bits(out, expected)
    assert cyopt.sgd([param], [grad], lr=0.1, out=[out])[0] is out
    assert cyopt.sgd(param, grad, lr=0.1, out=param) is param
    assert same_bits(param, expected)


def test_out_of_any_strides_takes_the_result():
    memory = np.zeros((2, 6))
    out = memory[:, ::-2]
    assert cyopt.sgd(np.ones((2, 3)), np.ones((2, 3)), lr=0.25, out=out) is out
    assert (out == 0.75).all()
    assert memory.sum() == 6 * 0.75


class Tagged(np.ndarray):
    """An ndarray with something of its own, as PennyLane's are."""


@pytest.mark.parametrize(
    "view",
    [lambda a: a[::-1], lambda a: a.T, lambda a: a[:, ::2], lambda a: a.view(Tagged), np.asarray],
    ids=["backwards", "transposed", "strided", "subclass", "plain"],
)
def test_param_may_have_any_layout_and_subclass(view):
    param = view(arrays(1, (6, 6))[0])
    grad = np.ones(param.shape)
    result = cyopt.sgd(param, grad, lr=0.25)
    assert type(result) is np.ndarray
    assert np.array_equal(result, np.asarray(param) - 0.25)


def test_a_permuted_parameter_gives_a_dense_result():
    p = np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2)
    m, v = np.zeros((3, 2, 4)), np.zeros((3, 2, 4))
    new = cyopt.adam(p, np.ones(p.shape), m, v, step=1, lr=0.5)
    assert new.flags.c_contiguous
    assert np.allclose(new, p - 0.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"param": 3.0}, "param is a float; expected a numpy.ndarray"),
        ({"param": np.ma.masked_array(np.ones((4, 3)))}, "param is a MaskedArray"),
        ({"param": np.ones((4, 3), int)}, "has dtype int64; expected float32 or float64"),
        ({"grad": np.ones((3, 4))}, "has shape"),
        ({"exp_avg": np.ma.masked_array(np.ones((4, 3)))}, "exp_avg is a masked array"),
        ({"out": 3.0}, "out is a float"),
        ({"out": [np.ones((4, 3))] * 2}, "out has 2 arrays; expected 1"),
        ({"out": np.ones((4, 3), np.float32)}, "out is float32 of shape"),
        ({"out": np.ones(12)}, r"out is float64 of shape \(12,\)"),
        ({"out": np.broadcast_to(np.ones(3), (4, 3))}, "out is read-only"),
        ({"out": "exp_avg"}, "out shares memory"),
        ({"out": "grad"}, "out shares memory"),
        ({"step": 0}, "step is 0"),
        ({"lr": -1}, "lr is -1.0"),
        ({"betas": (0.9, 2)}, "betas"),
    ],
)
def test_a_refusal_changes_nothing(change, message):
    param, grad, exp_avg, exp_avg_sq, out = arrays(5)
    given = {"param": param, "grad": grad, "exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
    given.update({"out": None if "param" in change else out, "step": 1, **change})
    if isinstance(given["out"], str):
        given["out"] = given[given["out"]]
    with pytest.raises((TypeError, ValueError), match=message):
        cyopt.adam(**given)
    assert all(map(same_bits, (param, grad, exp_avg, exp_avg_sq, out), arrays(5)))


def test_out_arrays_must_be_apart():
    params, grads = arrays(2), arrays(2)
    out = np.zeros((4, 3))
    with pytest.raises(ValueError, match="out shares memory"):
        cyopt.sgd(params, grads, lr=0.1, out=[out, out])
    assert not out.any()


def test_an_average_is_updated_and_apart_from_out():
    param, grad, average, out = arrays(4)
    hyper = {"lr": 0.1, "ema": 0.5, "step": 2}
    with pytest.raises(ValueError, match="out shares memory"):
        cyopt.sgd(param, grad, average=average, out=average, **hyper)
    assert same_bits(average, arrays(4)[2])
    result = cyopt.sgd(param, grad, average=average, out=out, **hyper)
    before = arrays(4)[2]
    assert same_bits(average, before + 0.5 * (result - before))


@pytest.mark.parametrize("written", ["exp_avg", "exp_avg_sq", "average", "grad"])
@pytest.mark.parametrize("foreign", [False, True])
def test_param_is_apart_from_what_is_written(written, foreign):
    """Else a state, an average or a gradient that is set to zero would overwrite it."""
    param, grad, exp_avg, exp_avg_sq, average = arrays(5)
    given = {"grad": grad, "exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq, "average": average}
    given[written] = Foreign(param) if foreign else param
    with pytest.raises(ValueError, match="param shares memory"):
        cyopt.adam(param, **given, step=2, ema=0.5, zero_grads=True)
    assert all(map(same_bits, (param, grad, exp_avg, exp_avg_sq, average), arrays(5)))


def test_param_may_be_the_gradient_that_is_only_read():
    (param,) = arrays(1)
    assert same_bits(cyopt.sgd(param, param, lr=0.5), param - 0.5 * param)
    twice = cyopt.sgd([param, param], [param, param], lr=0.5)
    assert all(same_bits(result, param - 0.5 * param) for result in twice)


@pytest.mark.parametrize("strides", [(0, 8), (8, 8), (16, 8)])
def test_elements_of_out_are_apart(strides):
    param, grad = arrays(2)
    out = np.lib.stride_tricks.as_strided(np.zeros(64), (4, 3), strides)
    with pytest.raises(ValueError, match="out has strides"):
        cyopt.sgd(param, grad, lr=0.1, out=out)
    assert not out.any()


def test_out_may_lie_between_the_elements_of_another():
    param, grad = (np.arange(4.0), np.ones(4))
    memory = np.zeros((4, 2))
    memory[:, 1] = grad
    cyopt.sgd(param, memory[:, 1], lr=0.5, out=memory[:, 0])
    assert np.array_equal(memory[:, 0], param - 0.5)


def test_out_is_apart_from_arrays_of_other_libraries():
    param, grad = arrays(2)
    with pytest.raises(ValueError, match="out shares memory"):
        cyopt.sgd(param, Foreign(grad), lr=0.1, out=grad)
    with pytest.raises(TypeError, match="out is a Foreign"):
        cyopt.sgd(param, grad, lr=0.1, out=Foreign(np.zeros((4, 3))))
    assert all(map(same_bits, (param, grad), arrays(2)))


def test_many_arrays_take_no_time_for_each_pair():
    params = [np.ones(2) for _ in range(3_000)]
    grads = [np.ones(2) for _ in params]
    out = [np.zeros(2) for _ in params]
    assert cyopt.sgd(params, grads, lr=0.5, out=out) is out
    assert all((array == 0.5).all() for array in out)
