"""What a step does in the same pass: C against cyopt/rules.py, bit for bit; what it must mean."""

import itertools
import random

import numpy as np
import pytest
from same_bits import same_bits
from test_bits import HUGE, content, shifted
from variants import FORMULAS, name

import cyopt
from cyopt import _cpu

SIZES = (1, 15, 16, 17, 100, 4095, 4096, 4097, 9001, 0, 70_003)
OPTIONS = {
    "clip_norm": {"clip_norm": 0.5},
    "clip_norm per array": {"clip_norm": 0.5, "clip_scope": "array", "clip_eps": 0.0},
    "clip_value": {"clip_value": 0.3},
    "clip_value coupled": {"clip_value": 0.3, "weight_decay": 0.1, "decoupled_weight_decay": False},
    "skip_nonfinite": {"skip_nonfinite": True},
    "zero_grads": {"zero_grads": True},
    "ema": {"ema": 0.9},
    "ema from zeros": {"ema": cyopt.schedules.ema_warmup(), "ema_init": "zeros"},
    "cast_grads": {"cast_grads": True},
    "all": {
        "clip_norm": 2.0,
        "clip_value": 0.01,
        "skip_nonfinite": True,
        "zero_grads": True,
        "ema": 0.75,
        "cast_grads": True,
        "grad_scale": 3.0,
        "maximize": True,
    },
}
CONTENTS = ("normal", "huge", "zeros", "nan", "infinite", "subnormal")


def strided(array, rng):
    """The same numbers, reversed and two apart, in memory that can be written."""
    room = rng.normal(size=2 * array.size).astype(array.dtype)
    view = room[::2][::-1]
    view[...] = array
    return view


class Run:
    """A few steps of one optimizer; `everything` is all that they left behind."""

    def __init__(self, variant, dtype, kind, norms, reference=False, sizes=SIZES):
        cls, kwargs = variant
        rng = np.random.default_rng([len(kind), len(dtype), *map(ord, name(variant))])
        self.params = [
            shifted(content("normal", n, dtype, rng), i % 3) for i, n in enumerate(sizes)
        ]
        self.opt = self.make(cls, self.params, lr=0.05, **kwargs)
        if reference:
            cyopt.reference.attach(self.opt)
        self.measured, self.grads = [], []
        grad_dtype = "float64" if kwargs.get("cast_grads") else dtype
        for step in range(3):
            grads = [content(kind if step == 1 else "normal", n, dtype, rng).astype(grad_dtype)
                     for n in sizes]  # fmt: skip
            grads = [strided(g, rng) if i % 4 == 3 else shifted(g, i % 2)
                     for i, g in enumerate(grads)]  # fmt: skip
            grads[step] = None
            done = self.step(grads, norms)
            opt = self.opt
            self.measured.append((done, opt.grad_norm, opt.update_norm, opt.param_norm, opt.steps))
            self.grads.append(grads)

    def make(self, cls, params, **kwargs):
        return cls(params, **kwargs)

    def step(self, grads, norms):
        return self.opt.step(grads, norms=norms)

    def same(self, other):
        """Bit for bit; norms that are NaN are equal."""
        np.testing.assert_equal(self.measured, other.measured)
        for a, b in zip(self.arrays(), other.arrays(), strict=True):
            assert same_bits(a, b)

    def arrays(self):
        yield from self.params
        for grads in self.grads:
            yield from (grad for grad in grads if grad is not None)
        for entry in self.opt.state_dict()["state"].values():
            yield from (array for name, array in entry.items() if name != "step")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("formula", FORMULAS, ids=name)
def test_options_have_the_bits_of_the_rules(formula, option, dtype, full):
    cyopt.set_subnormals("keep")
    _cpu.set_config(grain=1)
    cls, kwargs = formula
    variant = (cls, {**kwargs, **OPTIONS[option]})
    inputs = list(itertools.product(CONTENTS, (False, True)))
    runs = list(itertools.product(_cpu.ISAS_AVAILABLE, (1, 2, 5)))
    if not full:
        chosen = random.Random(name(variant) + dtype)
        inputs, runs = chosen.sample(inputs, 1), chosen.sample(runs, 2)
    for kind, norms in inputs:
        expected = Run(variant, dtype, kind, norms, reference=True)
        for isa, threads in runs:
            cyopt.set_isa(isa)
            cyopt.set_num_threads(threads)
            Run(variant, dtype, kind, norms).same(expected)


# --- the norm -------------------------------------------------------------------------------------


def opt_for(grads, dtype=np.float64, cls=cyopt.SGD, **kwargs):
    params = [np.ones(np.shape(g), dtype) for g in grads]
    return params, cls(params, lr=1.0, **kwargs)


def test_the_norm_is_that_of_all_gradients_after_unscaling():
    grads = [np.array([3.0, 0.0]), np.array([[4.0]])]
    params, opt = opt_for(grads, clip_norm=1.0, clip_eps=0.0)
    assert opt.grad_norm is None
    assert opt.step(grads)
    assert opt.grad_norm == 5.0
    assert np.array_equal(params[0], [1 - 3.0 * 0.2, 1.0])
    opt.grad_scale = 4.0
    opt.step([None, grads[1]])
    assert opt.grad_norm == 1.0
    assert (opt.update_norm, opt.param_norm) == (None, None)


def test_the_norm_of_each_array():
    grads = [np.array([3.0, 4.0]), np.array([0.6, 0.8])]
    params, opt = opt_for(grads, clip_norm=1.0, clip_scope="array", clip_eps=0.0)
    opt.step(grads)
    assert np.array_equal(params[0], 1 - 0.2 * grads[0])
    assert np.array_equal(params[1], 1 - grads[1])
    assert opt.grad_norm == pytest.approx(26**0.5)


def test_clip_eps_is_added_to_the_norm_as_by_torch():
    """torch.nn.utils.clip_grad_norm_: max_norm / (norm + 1e-6)."""
    grads = [np.array([3.0, 4.0])]
    params, opt = opt_for(grads, clip_norm=1.0)
    opt.step(grads)
    assert np.array_equal(params[0], 1 - (1.0 / (5.0 + 1e-6)) * grads[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_norm_agrees_with_a_sum_in_longer_numbers(dtype):
    grads = [np.random.default_rng(n).normal(size=n).astype(dtype) for n in (10, 5000, 100_000)]
    _, opt = opt_for(grads, dtype, clip_norm=1.0)
    opt.step(grads)
    exact = np.sqrt(sum(np.sum(g.astype(np.longdouble) ** 2) for g in grads))
    # 10^5 additions in 16 lanes of 256: each sum rounds at most 256 + 4 + 5 times.
    assert abs(opt.grad_norm - exact) <= 300 * 2**-53 * exact


def test_groups_have_limits_of_their_own():
    params = [np.zeros(1), np.zeros(1), np.zeros(1)]
    groups = [
        {"params": [params[0]], "clip_norm": None},
        {"params": [params[1]]},
        {"params": [params[2]], "clip_scope": "array"},
    ]
    opt = cyopt.SGD(groups, lr=1.0, clip_norm=1.0, clip_eps=0.0)
    opt.step([[np.array([2.0])], [np.array([1.0])], [np.array([2.0])]])
    assert opt.grad_norm == 3.0
    assert [p[0] for p in params] == [-2.0, -1 / 3, -1.0]


def test_a_norm_that_is_not_finite_acts_as_in_torch():
    for bad, elsewhere in ((np.inf, 1.0), (np.nan, np.nan)):
        grads = [np.array([bad, 1.0])]
        params, opt = opt_for(grads, clip_norm=1.0)
        opt.step(grads)
        np.testing.assert_equal(params[0], [np.nan, elsewhere])
        np.testing.assert_equal(opt.grad_norm, bad)


def test_norms_of_the_change_and_of_the_parameters():
    grads = [np.array([3.0]), None, np.array([4.0])]
    params = [np.array([4.0]), np.array([100.0]), np.array([16.0])]
    opt = cyopt.SGD(params, lr=1.0)
    assert opt.step(grads, norms=True)
    assert (opt.grad_norm, opt.update_norm, opt.param_norm) == (5.0, 5.0, (1 + 144) ** 0.5)
    opt.step(grads)
    assert (opt.grad_norm, opt.update_norm, opt.param_norm) == (None, None, None)


def test_measuring_norms_changes_no_bit():
    """With norms, elements are updated chunk by chunk; without, part by part."""
    for options in ({}, {"zero_grads": True, "ema": 0.5}, {"cast_grads": True}):
        results = []
        for norms in (False, True):
            rng = np.random.default_rng(3)
            p = rng.normal(size=(97, 131)).astype(np.float32)
            opt = cyopt.Adam([p], **options)
            for _ in range(3):
                wide = np.float64 if "cast_grads" in options else np.float32
                opt.step([rng.normal(size=(131, 97)).astype(wide).T], norms=norms)
            results.append([p, *opt.state["0"].values()])
        assert all(map(same_bits, *results))


# --- skipping -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("place", [0, 4095, 4096, 9999])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_skipped_step_changes_nothing_but_the_gradients(dtype, place, bad):
    calls = []

    def lr(steps):
        calls.append(steps)
        return 0.1

    params = {"a": np.ones(10_000, dtype), "b": np.ones(3, dtype)}
    opt = cyopt.Adam(params, lr=lr, skip_nonfinite=True, zero_grads=True, ema=0.9)
    grads = {key: np.full_like(p, 0.5) for key, p in params.items()}
    assert opt.step(grads)
    assert not opt.skipped
    assert not any(g.any() for g in grads.values())
    before, copies = opt.state_dict(), {k: p.copy() for k, p in params.items()}
    for grad in grads.values():
        grad[:] = 0.5
    grads["a"][place] = bad
    assert opt.step(grads) is False
    assert opt.skipped
    assert not any(g.any() for g in grads.values())
    np.testing.assert_equal(opt.state_dict(), before)
    assert all(np.array_equal(params[k], copies[k]) for k in params)
    grads["b"][:] = 1.0
    assert opt.step(grads)
    assert (opt.steps, calls[-2:]) == (2, [1, 1])


def test_finite_squares_that_overflow_are_no_reason_to_skip():
    huge = HUGE["float64"]
    grads = [np.array([huge, 1.0])]
    params, opt = opt_for(grads, skip_nonfinite=True)
    assert opt.step(grads)
    assert opt.grad_norm == np.inf
    assert np.array_equal(params[0], [1 - huge, 0.0])


def test_what_unscaling_makes_infinite_skips():
    grads = [np.array([1e30], np.float32)]
    _, opt = opt_for(grads, np.float32, skip_nonfinite=True, grad_scale=1e-20)
    assert opt.step(grads) is False


def test_only_the_groups_that_say_so_are_tested():
    params = [np.zeros(1), np.zeros(1)]
    opt = cyopt.SGD([{"params": [params[0]]}, {"params": [params[1]], "skip_nonfinite": True}])
    bad, good = [np.array([np.nan])], [np.array([1.0])]
    assert opt.step([bad, good]) is True
    assert opt.step([good, bad]) is False


def test_options_act_on_keyed_and_unbound_parameters():
    opt = cyopt.SGD(lr=1.0, clip_norm=1.0, clip_eps=0.0, skip_nonfinite=True)
    w = np.zeros(2)
    opt.update("w", w, np.array([3.0, 4.0]))
    assert opt.grad_norm == 5.0
    assert np.array_equal(w, [-0.2 * 3.0, -0.2 * 4.0])
    opt.update("w", w, np.array([np.nan, 4.0]))
    assert opt.skipped
    assert opt.steps == 1
    assert np.array_equal(w, [-0.2 * 3.0, -0.2 * 4.0])
    opt = cyopt.SGD(lr=1.0, skip_nonfinite=True)
    assert opt.step([np.array([np.nan, 1.0])], [w]) is False
    assert opt.step([np.array([1.0, 1.0])], [w]) is True


def test_load_state_dict_forgets_what_was_measured():
    param, grad = np.ones(1), np.array([np.nan])
    opt = cyopt.SGD([param], skip_nonfinite=True)
    saved = opt.state_dict()
    opt.step([grad])
    assert opt.skipped
    opt.load_state_dict(saved)
    assert not opt.skipped
    assert opt.grad_norm is None


# --- averages -------------------------------------------------------------------------------------


def test_the_average_begins_as_the_parameter_before_its_first_step():
    params = {"w": np.array([1.0]), "late": np.array([8.0])}
    opt = cyopt.SGD(params, lr=1.0, ema=0.5)
    assert opt.averages["w"] == [1.0]
    params["w"][:], params["late"][:] = 3.0, 10.0  # weights that were loaded after it was made
    opt.step({"w": np.array([1.0]), "late": None})
    assert opt.averages["w"] == [2.5]
    params["late"][:] = 20.0
    opt.step({"w": None, "late": np.array([2.0])})
    assert opt.averages["w"] == [2.5]
    assert opt.averages["late"] == [19.0]
    assert list(opt.averages) == ["w", "late"]
    assert len(opt.averages) == 2


def test_some_groups_or_none_may_have_averages():
    params = [np.ones(1), np.ones(1)]
    opt = cyopt.SGD([{"params": [params[0]], "ema": 0.5}, {"params": [params[1]]}])
    assert list(opt.averages) == ["0.0"]
    with pytest.raises(AttributeError, match=r"ema=0\.999"):
        _ = cyopt.SGD(params).averages
    with pytest.raises(ValueError, match="ema was None when the optimizer was made"):
        opt.groups[1].ema = 0.5
    opt.groups[0].ema = 0.25
    opt.step([[np.ones(1)], [np.ones(1)]])
    assert np.array_equal(opt.averages["0.0"], 0.25 * np.ones(1) + 0.75 * params[0])


def test_averages_are_read_only():
    opt = cyopt.SGD([{"params": [np.ones(1)], "ema": 0.5}, {"params": [np.ones(1)]}])
    with pytest.raises(ValueError, match="read-only"):
        opt.averages["0.0"][:] = 7
    with pytest.raises(KeyError, match="has no average"):
        opt.averages["1.0"]
    opt.step([[np.ones(1)], [np.ones(1)]])


# --- gradients of another type --------------------------------------------------------------------


def test_float64_gradients_are_cast_to_float32():
    grads = [np.array([1e-3, 1e300, -1 / 3]), None]
    params = [np.ones(3, np.float32), np.ones(2, np.float32)]
    opt = cyopt.SGD(params, lr=1.0, cast_grads=True)
    opt.step(grads)
    with np.errstate(over="ignore"):
        rounded = grads[0].astype(np.float32)
    assert np.array_equal(params[0], np.float32(1) - rounded)
    with pytest.raises(TypeError, match="float32"):  # the other way is no cast that loses nothing
        cyopt.SGD([np.ones(2)], cast_grads=True).step([np.ones(2, np.float32)])


# --- the functional form --------------------------------------------------------------------------


def test_options_act_in_functions():
    rng = np.random.default_rng(0)
    options = {"clip_norm": 0.5, "clip_value": 0.2, "skip_nonfinite": True, "zero_grads": True}
    param = rng.normal(size=100)
    opt_param = param.copy()
    m, v, average = np.zeros(100), np.zeros(100), np.zeros(100)
    opt = cyopt.Adam([opt_param], lr=0.1, ema=0.9, **options)
    for step in (1, 2, 3):
        grad = rng.normal(size=100)
        assert opt.step([grad.copy()])
        assert cyopt.adam_(
            param, grad, m, v, step=step, lr=0.1, average=average, ema=0.9, **options
        )
        assert not grad.any()
    assert np.array_equal(param, opt_param)
    assert np.array_equal(average, opt.averages["0"])
    assert cyopt.sgd_(param, np.full(100, np.inf), skip_nonfinite=True) is False
    with pytest.raises(TypeError, match="without average"):
        cyopt.sgd_(param, param.copy(), ema=0.9)
    with pytest.raises(TypeError, match="without ema"):
        cyopt.sgd_(param, param.copy(), step=1, average=average)


def test_functions_average_as_thinc():
    param, opt_param = np.ones(3), np.ones(3)
    m, v, average = np.zeros(3), np.zeros(3), np.zeros(3)
    opt = cyopt.Adam.like("thinc", [opt_param])
    for step in (1, 2):
        grad = np.array([3.0, -4.0, 0.1]) * step
        opt.step([grad])
        cyopt.adam_(param, grad, m, v, step=step, like="thinc", average=average)
    assert np.array_equal(param, opt_param)
    assert np.array_equal(average, opt.averages["0"])


@pytest.mark.parametrize("function", ["sgd_", "rmsprop_", "adam_"])
def test_a_function_needs_the_step_beside_an_average(function):
    state = {"sgd_": 0, "rmsprop_": 1, "adam_": 2}[function]
    extra = {"step_size": 0.1} if function == "adam_" else {"lr": 0.1}
    cls = {"sgd_": cyopt.SGD, "rmsprop_": cyopt.RMSProp, "adam_": cyopt.Adam}[function]
    step_of = getattr(cyopt, function)
    param, average = np.ones(2), np.full(2, 7.0)
    arrays = [np.zeros(2) for _ in range(state)]
    grad = np.array([1.0, -2.0])
    with pytest.raises(TypeError, match="step is None"):
        step_of(param, grad, *arrays, average=average, ema=0.5, **extra)
    opt_param = np.ones(2)
    kwargs = {"lr": 0.1, "bias_correction": False} if function == "adam_" else {"lr": 0.1}
    opt = cls([opt_param], ema=0.5, **kwargs)
    for step in (1, 2, 3):
        step_of(param, grad, *arrays, step=step, average=average, ema=0.5, **extra)
        opt.step([grad])
    assert np.array_equal(param, opt_param)
    assert np.array_equal(average, opt.averages["0"])


@pytest.mark.parametrize("ema", [0.9, 0.999, 0.99999])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_average_of_a_parameter_that_rests_stays_there(ema, dtype):
    """Factors d and 1 - d, each rounded, would take it away by 1e-3 within 10,000 steps."""
    param = np.random.default_rng(0).normal(size=1000).astype(dtype)
    opt = cyopt.SGD([param], lr=0.0, ema=ema)
    for _ in range(1000):
        opt.step([np.zeros_like(param)])
    assert np.array_equal(opt.averages["0"], param)


def test_the_average_of_an_infinite_parameter_is_nan():
    opt = cyopt.SGD([np.array([1.0, -np.inf])], lr=0.0, ema=0.9)
    opt.step([np.zeros(2)])
    assert same_bits(opt.averages["0"], np.array([1.0, np.nan]))


def test_a_decay_that_float32_would_round_to_1_acts():
    """It is 1 minus the decay that is rounded."""
    param = np.ones(2, np.float32)
    opt = cyopt.SGD([param], lr=0.0, ema=1 - 2.0**-30)
    param[:] = 2.0**30
    opt.step([np.zeros(2, np.float32)])  # the average begins as a copy
    param[:] = 2.0**31
    opt.step([np.zeros(2, np.float32)])
    param[:] = -(2.0**30)
    before = opt.averages["0"].copy()
    opt.step([np.zeros(2, np.float32)])
    assert (opt.averages["0"] == before).all()  # a change of 2 is lost beside 2**30
    param[:] = 3 * 2.0**60
    opt.step([np.zeros(2, np.float32)])
    assert (opt.averages["0"] == np.float32(2.0**32)).all()
