"""Schedules: their values, copies and refusals, and what they do in steps."""

import copy
import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
from models import arrays, grads_at, ones

import cyopt
from cyopt import schedules

# One of each, with the text that repr must give back.
EXAMPLES = [
    (schedules.ema_warmup(0.99), "ema_warmup(limit=0.99)"),
    (schedules.constant(0.5), "constant(value=0.5)"),
    (schedules.exponential(0.1, 0.01), "exponential(initial=0.1, decay=0.01)"),
    (schedules.time_based(0.1, 0.01), "time_based(initial=0.1, decay=0.01)"),
    (schedules.step(0.1, 0.5, 10), "step(initial=0.1, factor=0.5, every=10)"),
    (
        schedules.polynomial(0.1, 0.01, 50),
        "polynomial(initial=0.1, final=0.01, steps=50, power=1.0)",
    ),
    (schedules.cosine(0.1, 50), "cosine(initial=0.1, steps=50, final=0.0)"),
    (
        schedules.one_cycle(0.1, 50),
        "one_cycle(peak=0.1, steps=50, pct_start=0.3, div_factor=25.0, final_div_factor=10000.0)",
    ),
    (schedules.linear_warmup(0, 0.1, 5), "linear_warmup(initial=0.0, final=0.1, steps=5)"),
    (
        schedules.join([schedules.constant(1), schedules.constant(2)], [3]),
        "join(schedules=(constant(value=1.0), constant(value=2.0)), boundaries=(3,))",
    ),
]
everyone = pytest.mark.parametrize(("schedule", "text"), EXAMPLES, ids=[t for _, t in EXAMPLES])


def test_every_schedule_has_an_example():
    assert {type(s).__name__ for s, _ in EXAMPLES} == set(schedules.__all__)


@everyone
def test_a_schedule_prints_compares_hashes_copies_and_pickles(schedule, text):
    assert repr(schedule) == text
    assert eval(text, vars(schedules)) == schedule
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert copy.deepcopy(schedule) == schedule
    assert hash(copy.copy(schedule)) == hash(schedule)


@everyone
def test_a_schedule_cannot_be_changed(schedule, text):
    name = next(iter(vars(schedule)))
    with pytest.raises(AttributeError):
        setattr(schedule, name, 1.0)


@everyone
def test_a_schedule_returns_a_python_float_at_every_step(schedule, text):
    values = [schedule(t) for t in range(200)]
    assert all(type(value) is float and math.isfinite(value) for value in values)


@pytest.mark.parametrize(
    ("schedule", "t", "value"),
    [
        (schedules.constant(0.25), 10**9, 0.25),
        (schedules.exponential(0.2, 0.5), 0, 0.2),
        (schedules.exponential(0.2, 0.5), 3, 0.2 * 0.22313016014842982),
        (schedules.exponential(0.2, 0.5), 10**6, 0.0),
        (schedules.time_based(0.2, 0.5), 0, 0.2),
        (schedules.time_based(0.2, 0.5), 6, 0.05),
        (schedules.step(0.2, 0.1, 30), 29, 0.2),
        (schedules.step(0.2, 0.1, 30), 30, 0.02),
        (schedules.step(0.2, 0.1, 30), 89, 0.002),
        (schedules.polynomial(1.0, 0.2, 8, power=3), 4, 0.2 + 0.8 * 0.125),
        (schedules.polynomial(1.0, 0.2, 8, power=0.5), 6, 0.2 + 0.8 * 0.5),
        (schedules.cosine(1.0, 12, final=0.2), 4, 0.2 + 0.8 * 0.75),
        (schedules.cosine(1.0, 12, final=0.2), 6, 0.2 + 0.8 * 0.5),
        (schedules.cosine(1.0, 12), 8, 0.25),
        (schedules.linear_warmup(0.1, 0.5, 4), 1, 0.2),
        (schedules.linear_warmup(0.5, 0.1, 4), 3, 0.2),
    ],
)
def test_values_of_the_formulas(schedule, t, value):
    assert schedule(t) == pytest.approx(value, rel=1e-14, abs=1e-300)


@pytest.mark.parametrize(
    ("schedule", "first", "last", "steps"),
    [
        (schedules.polynomial(0.7, 0.1, 33, power=1.7), 0.7, 0.1, 33),
        (schedules.cosine(0.7, 33, final=0.1), 0.7, 0.1, 33),
        (schedules.linear_warmup(0.1, 0.7, 33), 0.1, 0.7, 33),
        (schedules.one_cycle(0.75, 33), 0.75 / 25, 0.75 / 25 / 1e4, 32),
    ],
)
def test_both_ends_are_exact_and_the_last_value_stays(schedule, first, last, steps):
    assert schedule(0) == first
    assert schedule(steps) == schedule(steps + 1) == schedule(10**12) == last
    assert schedule(steps - 1) != last


def torch_cosine_annealing(initial, t_max, eta_min, t):
    """CosineAnnealingLR's closed form."""
    return eta_min + (initial - eta_min) * (1 + math.cos(math.pi * t / t_max)) / 2


def torch_one_cycle(max_lr, total_steps, t, pct_start=0.3, div_factor=25, final_div_factor=1e4):
    """OneCycleLR's two phases with anneal_strategy "cos", read from its documentation."""
    initial_lr = max_lr / div_factor
    min_lr = initial_lr / final_div_factor
    phases = [
        (0, pct_start * total_steps - 1, initial_lr, max_lr),
        (pct_start * total_steps - 1, total_steps - 1, max_lr, min_lr),
    ]
    begin, end, start, stop = phases[0] if t <= phases[0][1] else phases[1]
    return stop + (start - stop) / 2 * (1 + math.cos(math.pi * (t - begin) / (end - begin)))


def optax_polynomial(init_value, end_value, power, transition_steps, t):
    """polynomial_schedule with transition_begin = 0."""
    left = 1 - min(max(t, 0), transition_steps) / transition_steps
    return (init_value - end_value) * left**power + end_value


@pytest.mark.parametrize("steps", [7, 100, 101])
def test_values_agree_with_other_libraries(steps):
    cosine = schedules.cosine(0.3, steps, final=0.01)
    cycle = schedules.one_cycle(0.3, steps)
    steep = schedules.one_cycle(0.3, steps, pct_start=0.5, div_factor=4, final_div_factor=10)
    polynomial = schedules.polynomial(0.3, 0.01, steps, power=0.7)
    for t in range(steps):
        assert cosine(t) == pytest.approx(torch_cosine_annealing(0.3, steps, 0.01, t), rel=1e-12)
        assert cycle(t) == pytest.approx(torch_one_cycle(0.3, steps, t), rel=1e-9)
        assert steep(t) == pytest.approx(torch_one_cycle(0.3, steps, t, 0.5, 4, 10), rel=1e-12)
        expected = optax_polynomial(0.3, 0.01, 0.7, steps, t)
        assert polynomial(t) == pytest.approx(expected, rel=1e-12)


def test_join_gives_each_schedule_its_own_count():
    joined = schedules.join([lambda t: t, lambda t: 100 + t, lambda t: 200 + t], [3, 5])
    assert [joined(t) for t in range(8)] == [0, 1, 2, 100, 101, 200, 201, 202]


def test_join_of_one_is_that_one():
    assert schedules.join([schedules.step(1, 0.5, 2)], [])(4) == 0.25


def test_arguments_may_be_any_real_number_and_any_integer():
    schedule = schedules.cosine(np.float32(0.5), np.int64(10), final=Fraction(1, 4))
    assert schedule == schedules.cosine(0.5, 10, final=0.25)
    assert type(schedule.initial) is float
    assert type(schedule.steps) is int


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: schedules.constant("0.1"), TypeError, "constant: value is '0.1' (str), expected"),
        (lambda: schedules.constant(True), TypeError, "value is True (bool)"),
        (lambda: schedules.constant(math.nan), ValueError, "value is nan, expected a finite"),
        (lambda: schedules.exponential(math.inf, 1), ValueError, "initial is inf"),
        (lambda: schedules.exponential(0.1, -1), ValueError, "decay is -1, expected a finite"),
        (lambda: schedules.time_based(0.1, -0.5), ValueError, "number of at least 0"),
        (lambda: schedules.step(0.1, 0, 10), ValueError, "factor is 0, expected a finite number"),
        (lambda: schedules.step(0.1, 0.5, 0), ValueError, "every is 0, expected at least 1 step"),
        (lambda: schedules.step(0.1, 0.5, 2.0), TypeError, "every is 2.0 (float), expected"),
        (lambda: schedules.polynomial(1, 0, 10, power=0), ValueError, "number above 0"),
        (lambda: schedules.polynomial(1, None, 10), TypeError, "final is None"),
        (lambda: schedules.cosine(0.1, -3), ValueError, "steps is -3"),
        (lambda: schedules.cosine(0.1, True), TypeError, "steps is True (bool)"),
        (lambda: schedules.one_cycle(0.1, 3), ValueError, "take more steps or a pct_start"),
        (lambda: schedules.one_cycle(0.1, 9, pct_start=1), ValueError, "some steps down"),
        (lambda: schedules.one_cycle(0.1, 9, div_factor=0), ValueError, "div_factor is 0"),
        (lambda: schedules.one_cycle(0.1, 9, final_div_factor=-1), ValueError, "above 0"),
        (lambda: schedules.linear_warmup(0, 0.1, 0), ValueError, "linear_warmup: steps is 0"),
        (lambda: schedules.join([], []), ValueError, "0 entries for 0 schedules"),
        (lambda: schedules.join([abs, abs], [1, 2]), ValueError, "2 entries for 2 schedules"),
        (lambda: schedules.join([0.1, abs], [5]), TypeError, "is written constant(0.1)"),
        (lambda: schedules.join([abs, abs], [0]), ValueError, "boundaries is 0"),
        (lambda: schedules.join([abs, abs, abs], [5, 5]), ValueError, "[5, 5], expected incr"),
        (lambda: schedules.join([abs, abs], [1.5]), TypeError, "boundaries is 1.5 (float)"),
        (lambda: schedules.join(abs, []), TypeError, "expected a list or a tuple"),
        (lambda: schedules.constant(np.timedelta64(1)), TypeError, "(timedelta64), expected"),
        (lambda: schedules.step(0.1, 0.5, np.array([3])), TypeError, "every is array([3])"),
        (lambda: schedules.one_cycle(0.1, 10**400), ValueError, "below 2**53"),
    ],
)
def test_wrong_arguments_are_refused(make, error, message):
    with pytest.raises(error) as caught:
        make()
    assert message in str(caught.value)


def test_a_number_beyond_all_floats_is_refused():
    for make in (cyopt.schedules.constant, lambda x: cyopt.schedules.one_cycle(x, 10)):
        with pytest.raises(ValueError, match="expected a finite number"):
            make(10**400)


# --- in steps -------------------------------------------------------------------------------------


SCHEDULED = {
    "lr": (cyopt.Adam, {}, lambda steps: 0.1 / (1 + steps)),
    "weight_decay": (cyopt.AdamW, {}, lambda steps: 0.1 * steps),
    "grad_scale": (cyopt.SGD, {}, lambda steps: 2.0**steps),
    "momentum": (cyopt.SGD, {}, lambda steps: min(0.9, 0.3 * steps)),
    "dampening": (cyopt.Momentum, {}, lambda steps: 0.5 / (1 + steps)),
    "lr_decay": (cyopt.AdaGrad, {}, lambda steps: 0.5 * steps),
    "alpha": (cyopt.RMSProp, {}, lambda steps: 0.5 + 0.1 * steps),
    "eps": (cyopt.RMSProp, {}, lambda steps: 0.1 / (1 + steps)),
}


@pytest.mark.parametrize("key", SCHEDULED)
def test_a_schedule_acts_as_the_number_set_before_each_step(key):
    """It gets the number of completed steps, 0 in the first one."""
    cls, hypers, schedule = SCHEDULED[key]
    params, by_hand = arrays(), arrays()
    opt = cls(params, **hypers, **{key: schedule})
    # Momentum 0 would keep no buffer.
    other = cls(by_hand, **hypers, **({"momentum": 0.5} if key == "momentum" else {}))
    for step in range(4):
        grads = grads_at(step, params)
        setattr(other, key, schedule(step))
        opt.step(grads)
        other.step(grads)
        assert np.array_equal(params["w"], by_hand["w"]), step
    assert getattr(opt, key) is schedule


@pytest.mark.parametrize("i", [0, 1])
def test_a_scheduled_beta_acts_as_the_number_set_before_each_step(i):
    def schedule(steps):
        return 0.5 + 0.1 * steps

    params, by_hand = arrays(), arrays()
    fixed = [0.9, 0.999]
    opt, other = (
        cyopt.Adam(params, betas=(*fixed[:i], schedule, *fixed[i + 1 :])),
        cyopt.Adam(by_hand),
    )
    for step in range(3):
        other.betas = (*fixed[:i], schedule(step), *fixed[i + 1 :])
        grads = grads_at(step, params)
        opt.step(grads)
        other.step(grads)
        assert np.array_equal(params["w"], by_hand["w"])


def test_the_schedule_of_a_new_key_begins_at_0():
    def made():
        return cyopt.SGD(lr=lambda t: [0.1, 0.2][t], momentum=0.9)

    opt, ones = made(), np.ones(1)
    for key in "aab":
        opt.update(key, np.ones(1), ones)
    other = made()
    other.load_state_dict(opt.state_dict())
    assert np.array_equal(other.update("b", np.ones(1), ones), opt.update("b", np.ones(1), ones))
    with pytest.raises(IndexError):  # the schedule's own, at the third step of this key
        opt.update("b", np.ones(1), ones)
    assert opt.state_dict()["state"]["b"]["step"] == 2


def test_a_number_that_a_schedule_sets_in_its_place_counts_from_the_next_step():
    w = ones(1, dtype=np.float64)
    opt = cyopt.SGD([w], lr=0.5)

    def schedule(steps):
        if steps == 1:
            opt.lr = 0.0
        return 1.0

    opt.lr = schedule
    seen = []
    for _ in range(4):
        opt.step([np.ones(1)])
        seen.append(w[0])
    assert seen == [0.0, -1.0, -1.0, -1.0]


def test_a_parameter_that_a_schedule_rebinds_is_the_one_stepped():
    params = {"w": np.zeros(1)}
    old = params["w"]
    opt = cyopt.SGD(params, lr=lambda steps: params.update(w=np.zeros(1)) or 1.0)
    opt.step({"w": np.ones(1)})
    assert old[0] == 0
    assert params["w"][0] == -1


def test_a_number_that_a_schedule_sets_is_checked():
    """float32 does not hold it: unchecked it would make infinities."""
    w = np.ones(3, np.float32)

    def schedule(steps):
        opt.lr = 1e39
        return 0.5

    opt = cyopt.SGD([w], lr=0.5)
    opt.lr = schedule
    opt.step([np.ones(3, np.float32)])
    with pytest.raises(ValueError, match="lr"):
        opt.step([np.ones(3, np.float32)])
    assert w.tolist() == [0.5] * 3


@pytest.mark.parametrize("params", [[[]], [[np.zeros(1)], []]])
def test_a_schedule_of_a_last_group_without_parameters_is_checked(params):
    opt = cyopt.SGD([{"params": group} for group in params])
    grads = [[np.ones(1) for _ in group] for group in params]
    assert opt.step(grads)
    opt.groups[-1].lr = lambda steps: float("nan")
    with pytest.raises(ValueError, match="lr is nan"):
        opt.step(grads)
    assert opt.steps == 1


@pytest.mark.parametrize("value", [None, 0.0, "x", 10**400])
def test_an_error_names_what_a_schedule_returned(value):
    opt = cyopt.SGD([np.ones(1)], clip_norm=lambda steps: value if steps else 1.0)
    opt.step([np.ones(1)])
    text = rf"clip_norm is {value!r} after 1 steps, by its schedule; expected a finite"
    with pytest.raises((TypeError, ValueError), match=text):
        opt.step([np.ones(1)])


def test_a_schedule_whose_power_overflows_returns_infinity():
    opt = cyopt.SGD([np.ones(1)], lr=cyopt.schedules.step(1.0, factor=2.0**600, every=1))
    opt.step([np.zeros(1)])
    with pytest.raises(ValueError, match="lr is inf after 2 steps, by its schedule"):
        for _ in range(2):
            opt.step([np.zeros(1)])
