"""The scalars of a step: C against Python, bit for bit, and the table of conventions."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from variants import VARIANTS, name

import cyopt
from cyopt import _cpu, rules
from cyopt.cuda.layout import SCALARS
from cyopt.hyper import Hyper

COUNTS = [1, 2, 3, 10, 999, 1000, 2**24 - 1, 2**24, 2**24 + 1, 2**31 + 1, 2**40]


@pytest.mark.parametrize("variant", VARIANTS, ids=name)
def test_c_has_the_scalars_of_the_rules(variant):
    cls, kwargs = variant
    hyper = cls(**kwargs).groups[0].at(0)
    for t in COUNTS:
        assert _cpu.prepare(hyper, t) == rules.prepare(hyper, t)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("variant", VARIANTS[::3], ids=name)
def test_scalars_for_a_gpu_are_rounded_as_by_numpy(variant, dtype):
    cls, kwargs = variant
    hyper = cls(**{**kwargs, "grad_scale": 1e-300}).groups[0].at(0)
    with np.errstate(over="ignore"):
        steps = [rules.prepare(hyper, t) for t in (3, 7)]
        expected = np.array([[step[name] for name in SCALARS] for step in steps], dtype)
    assert dtype == "float64" or np.isinf(expected).any()
    kernel = (0, None), 0, 1, 1, 1, (), dtype, SCALARS, [(0, 1), (0, 0)]
    found = _cpu.Launch(*kernel).scalars([hyper], np.array([6, 2], np.int64))
    # Each is at the start of 8 bytes.
    numbers = np.frombuffer(found, dtype)[:: 8 // expected.itemsize]
    assert np.array_equal(numbers, expected.ravel())


rates = st.floats(0, 1, exclude_max=True)
positive = st.floats(1e-30, 1e30)


@given(
    rule=st.sampled_from(_cpu.RULES),
    decay=st.sampled_from(["coupled", "before", "after"]),
    form=st.sampled_from(["lr_outside", "lr_inside", "average"]),
    flags=st.tuples(*[st.booleans()] * 5),
    numbers=st.tuples(positive, positive, positive, rates, rates, positive, rates, rates, positive),
    t=st.integers(1, 2**40),
)
def test_c_has_the_scalars_of_the_rules_for_any_numbers(rule, decay, form, flags, numbers, t):
    lr, weight_decay, scale, momentum, dampening, lr_decay, beta1, beta2, eps = numbers
    maximize, inside, hat, correction, libm = flags
    hyper = Hyper(
        rule, decay, lr, weight_decay, scale, maximize, form, inside, hat, correction, libm,
        momentum, dampening, lr_decay, beta1, beta2, eps,
    )  # fmt: skip
    ours, reference = _cpu.prepare(hyper, t), rules.prepare(hyper, t)
    assert ours.keys() == reference.keys()
    for key, value in ours.items():
        np.testing.assert_equal(value, reference[key], key)


@pytest.mark.parametrize("t", [1, 2**53 + 3, 2**61 + 1])
def test_adagrads_lr_decay_is_right_after_very_many_steps(t):
    hyper = cyopt.AdaGrad(lr=0.1, lr_decay=1e-16).groups[0].at(0)
    assert _cpu.prepare(hyper, t) == rules.prepare(hyper, t)


def test_the_two_tables_of_rules_are_one():
    assert tuple(rules.RULES) == _cpu.RULES


@pytest.mark.parametrize("dampening", [0.0, 0.25])
def test_dampening_is_left_out_of_the_first_step(dampening):
    hyper = cyopt.Momentum(dampening=dampening).groups[0].at(0)
    assert _cpu.prepare(hyper, 1)["a"] == 1.0
    assert _cpu.prepare(hyper, 2)["a"] == 1.0 - dampening


def test_dampening_is_left_out_while_momentum_is_0():
    """As in PyTorch: without momentum p = p - lr*g."""
    opt = cyopt.SGD([np.ones(1)], lr=0.1, momentum=lambda t: 0.9 * (t > 2), dampening=0.5)
    factors = [_cpu.prepare(opt.groups[0].at(t), t + 1)["a"] for t in range(5)]
    assert factors == [1, 1, 1, 0.5, 0.5]


def scalars(cls, t=3, **kwargs):
    return _cpu.prepare(cls(lr=0.5, **kwargs).groups[0].at(0), t)


# Each row of README's table of conventions, in the symbols of the rules, at t = 3.
ADAM = {"betas": (0.5, 0.5)}
LEFT = 1 - 0.5**3  # 1 - beta**t
TABLE = [
    (cyopt.SGD, {}, {"step": 0.5, "k": 1.0, "s": 1.0}),
    (cyopt.SGD, {"maximize": True, "grad_scale": 4.0}, {"s": -0.25}),
    (cyopt.SGD, {"weight_decay": 0.5}, {"wd": 0.5, "k": 1.0, "coupled": True}),
    (cyopt.Momentum, {"momentum": 0.75}, {"mu": 0.75, "a": 1.0, "step": 0.5}),
    (cyopt.Momentum, {"momentum": 0.75, "dampening": 0.25}, {"a": 0.75, "step": 0.5}),
    (cyopt.Momentum, {"momentum_form": "lr_inside"}, {"a": -0.5, "step": -1.0}),
    (
        cyopt.Momentum,
        {"momentum": 0.75, "momentum_form": "average"},
        {"mu": 0.75, "a": 0.25, "step": 0.5},
    ),
    (cyopt.AdaGrad, {"lr_decay": 0.5}, {"step": 0.25}),
    (cyopt.AdaGrad, {"eps": 0.125}, {"eps": 0.125, "eps_in": 0.0}),
    (cyopt.AdaGrad, {"eps": 0.125, "eps_inside_sqrt": True}, {"eps": 0.0, "eps_in": 0.125}),
    (cyopt.RMSProp, {"alpha": 0.75}, {"b2": 0.75, "c2": 0.25, "step": 0.5}),
    (cyopt.RMSProp, {"momentum": 0.75}, {"mu": 0.75, "a": 1.0, "step": 0.5}),
    (
        cyopt.RMSProp,
        {"momentum": 0.75, "momentum_form": "lr_inside"},
        {"mu": 0.75, "a": 0.5, "step": 1.0},
    ),
    (cyopt.Adam, ADAM, {"step": 0.5 / LEFT, "r": 1 / np.sqrt(LEFT)}),
    (
        cyopt.Adam,
        {**ADAM, "eps_hat": True},
        {"step": 0.5 * np.sqrt(LEFT) / LEFT, "r": 1.0},
    ),
    (cyopt.Adam, {**ADAM, "bias_correction": False}, {"step": 0.5, "r": 1.0}),
]


@pytest.mark.parametrize(("cls", "kwargs", "expected"), TABLE)
def test_conventions_are_scalars(cls, kwargs, expected):
    found = scalars(cls, **kwargs)
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize("cls", cyopt.ALL)
@pytest.mark.parametrize("order", ["before", "after"])
def test_decoupled_decay(cls, order):
    decay = {"weight_decay": 0.5, "decoupled_weight_decay": True, "weight_decay_order": order}
    plain, decayed = scalars(cls, weight_decay=0.0), scalars(cls, **decay)
    k = 1 - 0.5 * 0.5
    assert decayed["k"] == k
    assert not decayed["coupled"]
    assert decayed["step"] == plain["step"] * (k if order == "after" else 1.0)


def test_sklearns_powers_are_those_of_python():
    """beta**t by its operator; repeated squaring differs in the last bits of most."""
    hypers = [cls.groups[0].at(0) for cls in (cyopt.Adam.like("sklearn"), cyopt.Adam(eps_hat=True))]
    differ = 0
    for t in range(1, 2001):
        theirs = 1e-3 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        libm, squaring = (_cpu.prepare(hyper, t)["step"] for hyper in hypers)
        assert libm == theirs
        differ += squaring != theirs
    assert differ > 100


def test_arrays_of_one_group_and_count_share_their_scalars():
    """A late first gradient gets its own: dampening and bias correction by its own count."""
    params = [np.zeros(3) for _ in range(4)]
    opt, ref = cyopt.Adam(params), cyopt.reference.attach(cyopt.Adam([p.copy() for p in params]))
    grads = [np.full(3, x) for x in (1.0, -2.0, 3.0, 0.5)]
    for absent in itertools.product([True, False], repeat=4):
        step = [None if none else g for none, g in zip(absent, grads, strict=True)]
        opt.step(step)
        ref.step(step)
    for name_ in opt.state:
        for key in opt.state[name_]:
            assert np.array_equal(opt.state[name_][key], ref.state[name_][key])
