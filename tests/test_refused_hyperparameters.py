"""Which hyperparameters are refused: by which error, saying what, and with nothing changed."""

import numpy as np
import pytest
from models import Model, arrays, ones

import cyopt
from cyopt.hyper import OFF

NUMBERS = {
    "lr": (-1e-3,),
    "weight_decay": (-0.1,),
    "grad_scale": (0, -2.0),
    "momentum": (1.0, -0.1),
    "dampening": (1.5, -0.1),
    "lr_decay": (-1,),
    "alpha": (1.0, -0.1),
    "eps": (-1e-8,),
    "clip_norm": (0, -1.0),
    "clip_eps": (-1e-6,),
    "clip_value": (0, -1.0),
    "ema": (1.0, -0.1),
}
NOT_FINITE = (float("nan"), float("inf"), -float("inf"))
NO_NUMBER = ("0.1", None, True, 1j, np.ones(1))
OTHERS = [
    ("betas", (0.9, 1.0), ValueError, r"betas\[1\].*below 1"),
    ("betas", (-0.1, 0.9), ValueError, r"betas\[0\].*at least 0"),
    ("betas", (0.9, float("nan")), ValueError, r"betas\[1\].*finite"),
    ("betas", (0.9, "0.9"), TypeError, r"betas\[1\].*number"),
    ("betas", (0.9,), TypeError, "betas.*two numbers"),
    ("betas", 0.9, TypeError, "betas.*two numbers"),
    ("initial_accumulator_value", -1, ValueError, "at least 0"),
    ("initial_accumulator_value", lambda steps: 1.0, TypeError, "expected a number"),
    ("initial_square_avg", lambda steps: 1.0, TypeError, "expected a number"),
    ("momentum_form", "lr_middle", ValueError, "lr_outside"),
    ("weight_decay_order", "between", ValueError, "'before' or 'after'"),
    ("weight_decay_order", "after", ValueError, "pass decoupled_weight_decay=True"),
    *((flag, 1, TypeError, "True or False") for flag in ("nesterov", "centered", "amsgrad")),
    *((flag, "no", TypeError, "True or False") for flag in ("maximize", "eps_hat")),
]
BAD = [
    *((n, x, ValueError, f"{n}.*expected") for n, bad in NUMBERS.items() for x in bad),
    *((n, x, ValueError, f"{n}.*expected.*finite") for n in NUMBERS for x in NOT_FINITE),
    *(
        (n, x, TypeError, f"{n}.*expected a number")
        for n in NUMBERS
        for x in NO_NUMBER
        if x is not None or n not in OFF
    ),
]
BASE = {cyopt.SGD: {"momentum": 0.5}, cyopt.RMSProp: {"momentum": 0.5}, cyopt.AdamW: {}}


def base(cls, name):
    """Hyperparameters with which this one is a number that acts."""
    return {**BASE.get(cls, {}), **({name: 0.5} if name in OFF else {})}


def classes_with(name):
    return [c for c in cyopt.ALL if hasattr(c, name) and not (c is cyopt.AdamW and "decay" in name)]


HYPERS = [(c, *row) for row in [*BAD, *OTHERS] for c in classes_with(row[0])]


@pytest.mark.parametrize(("cls", "name", "value", "error", "message"), HYPERS)
def test_a_bad_hyperparameter_is_refused(cls, name, value, error, message):
    with pytest.raises(error, match=message):
        cls(arrays(), **{name: value})
    with pytest.raises(error, match=message):
        cls([{"params": arrays(), name: value}])
    model = Model(lambda params: cls(params, **base(cls, name)))
    if name.startswith("initial") and callable(value):
        return
    # A flag that is fixed may say that first.
    model.refuses(lambda: setattr(model.opt, name, value), (error, ValueError), name)
    model.refuses(lambda: model.opt.groups[0].update({"lr": 9, name: value}), Exception, name)


def test_a_number_larger_than_any_float_is_refused():
    with pytest.raises(ValueError, match=r"lr.*expected.*finite"):
        cyopt.SGD(arrays(), lr=10**400)


@pytest.mark.parametrize(
    ("cls", "name", "value"), [(c, n, x) for c, n, x, *_ in HYPERS if n in NUMBERS]
)
def test_a_bad_value_of_a_schedule_is_refused(cls, name, value):
    good = getattr(cls(**base(cls, name)), name)
    hypers = {**base(cls, name), name: lambda steps: good}
    model = Model(lambda params: cls(params, **hypers), steps=2)
    setattr(model.opt, name, lambda steps: value)
    before = model.everything()
    with pytest.raises((TypeError, ValueError), match=f"{name}.*expected"):
        model.opt.step(model.grads)
    assert model.everything() == before
    setattr(model.opt, name, lambda steps: good)
    model.step()


ROUNDED = [
    ("lr", 1e39),
    ("weight_decay", 1e39),
    ("grad_scale", 1e39),
    ("grad_scale", 1e-40),
    ("momentum", 1 - 1e-9),
    ("alpha", 1 - 1e-9),
    ("betas", (1 - 1e-9, 0.999)),
    ("betas", (0.9, 1 - 1e-9)),
    ("eps", 1e-50),
    ("clip_norm", 1e-40),
    ("clip_value", 1e-40),
    ("initial_accumulator_value", 1e39),
    ("initial_square_avg", 1e39),
]


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize(
    ("cls", "name", "value"), [(c, *r) for r in ROUNDED for c in classes_with(r[0])]
)
def test_a_number_that_float32_rounds_out_of_range_is_refused(cls, name, value):
    assert cls(arrays(np.float64), **{name: value}).step(arrays(np.float64))
    with pytest.raises(ValueError, match=f"{name}.*float32.*float64 parameters"):
        cls(arrays(), **{name: value})
    if name.startswith("initial"):
        return
    model = Model(lambda params: cls(params, **base(cls, name)))
    good = getattr(model.opt, name)
    for bad in (
        value,
        tuple(lambda steps, x=x: x for x in value) if name == "betas" else lambda steps: value,
    ):
        setattr(model.opt, name, bad)  # a group does not know what types its parameters have
        before = model.everything()
        with pytest.raises(ValueError, match=f"{name}.*float32"):
            model.opt.step(model.grads)
        assert model.everything() == before
        setattr(model.opt, name, good)
        model.step()


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [(c, *r) for r in ROUNDED if not r[0].startswith("initial") for c in classes_with(r[0])],
)
def test_a_schedule_is_refused_when_it_gets_out_of_range(cls, name, value):
    model = Model(lambda params: cls(params, **base(cls, name)))
    good, begin = getattr(model.opt, name), model.opt.steps

    def late(good, value):
        return lambda steps: good if steps < begin + 2 else value

    late_value = tuple(map(late, good, value)) if name == "betas" else late(good, value)
    setattr(model.opt, name, late_value)
    model.step()
    model.step()
    before = model.everything()
    with pytest.raises(ValueError, match=f"{name}.*float32"):
        model.opt.step(model.grads)
    assert model.everything() == before


def test_the_numbers_of_a_group_are_checked_for_its_own_dtypes():
    wide, narrow = {"params": [np.ones(2)]}, {"params": [np.ones(2, np.float32)]}
    opt = cyopt.Adam([{**wide, "eps": 1e-50}, narrow])
    assert opt.step([[np.ones(2)], [np.ones(2, np.float32)]])
    with pytest.raises(ValueError, match="eps is 1e-50, which float32"):
        cyopt.Adam([wide, {**narrow, "eps": 1e-50}])
    cyopt.AdaGrad([{**wide, "initial_accumulator_value": 1e200}, narrow])


@pytest.mark.parametrize("value", [1e-50, 1e-40, 1e39])
def test_a_starting_value_that_float32_cannot_hold_is_refused(value):
    with pytest.raises(ValueError, match=r"initial_accumulator_value.*beyond the range of float32"):
        cyopt.AdaGrad([np.ones(1, np.float32)], initial_accumulator_value=value)
    cyopt.AdaGrad([np.ones(1)], initial_accumulator_value=value)


@pytest.mark.parametrize(
    ("cls", "hypers", "name"),
    [
        (cyopt.Adam, {"lr": 1e38}, "lr"),  # lr / (1 - beta1) is infinite
        (cyopt.AdamW, {"lr": 1e30, "weight_decay": 1e30}, "lr|weight_decay"),
    ],
)
def test_a_scalar_that_float32_cannot_hold_is_refused(cls, hypers, name):
    """What is rounded are the scalars of the rules, which are made of several numbers."""
    model = Model(cls)
    for key, value in hypers.items():
        setattr(model.opt, key, value)
    before = model.everything()
    with pytest.raises(ValueError, match=f"({name}).*float32"):
        model.opt.step(model.grads)
    assert model.everything() == before


def test_an_eps_hat_factor_that_grows_beyond_float32_is_refused():
    with pytest.raises(ValueError, match=r"lr.*float32"):
        cyopt.Adam.like("keras", [ones(2)], lr=1e39, betas=(0.0, 0.9999))


def test_a_factor_that_decay_makes_too_large_for_float32_is_refused():
    """Decay after the update multiplies the factor of the update once more."""
    numbers = {"lr": 3e33, "weight_decay": 1e-28, "betas": (0.0, 0.999), "eps_hat": True}
    after = {"decoupled_weight_decay": True, "weight_decay_order": "after"}
    with pytest.raises(ValueError, match=r"weight_decay is 1e-28, which .* 9e\+38"):
        cyopt.Adam([np.zeros(1, np.float32)], **numbers, **after)
    w = np.zeros(1)
    opt = cyopt.Adam([w], **numbers, **after)
    for _ in range(155):
        opt.step([np.zeros(1)])
    assert w == 0


@pytest.mark.parametrize("cls", cyopt.ALL)
def test_an_unknown_name_is_refused(cls):
    with pytest.raises(TypeError, match="weight_deacy"):
        cls(arrays(), weight_deacy=0.1)
    with pytest.raises(TypeError, match="'weight_deacy'; did you mean 'weight_decay'"):
        cls([{"params": arrays(), "weight_deacy": 0.1}])
    model = Model(cls)
    for call in (
        lambda: setattr(model.opt.groups[0], "weight_deacy", 0.1),
        lambda: model.opt.groups[0].update({"lr": 0.5, "weight_deacy": 0.1}),
        lambda: model.opt.groups[0].weight_deacy,
    ):
        model.refuses(call, AttributeError, "'weight_deacy'; did you mean 'weight_decay'")


def test_a_misspelt_name_is_answered_with_the_right_one():
    with pytest.raises(TypeError, match="did you mean 'momentum'"):
        cyopt.SGD.like("keras", momentun=0.9)
    with pytest.raises(AttributeError):
        cyopt.SGD().learning_rate = 0.1


def test_names_of_other_libraries_are_answered_with_ours():
    for cls, name, ours in [
        (cyopt.Adam, "learning_rate", "lr"),
        (cyopt.Adam, "beta_1", "betas"),
        (cyopt.Momentum, "mu", "momentum"),
        (cyopt.RMSProp, "rho", "alpha"),
    ]:
        with pytest.raises(TypeError, match=f"no hyperparameter '{name}'; did you mean '{ours}'"):
            cls(**{name: 0.1})
    with pytest.raises(ValueError, match="did you mean 'keras'"):
        cyopt.Adam.like("tensorflow")
    with pytest.raises(AttributeError, match=r"did you mean cyopt\.adam_\?"):
        _ = cyopt.adamw_


@pytest.mark.parametrize(
    ("cls", "hypers", "changes", "cure"),
    [
        (cyopt.SGD, {"momentum": 0.0}, {"momentum": 0.9}, "new optimizer"),
        (cyopt.RMSProp, {}, {"centered": True}, "new optimizer"),
        (cyopt.Adam, {}, {"amsgrad": True}, "new optimizer"),
        (cyopt.Adam, {}, {"lr": 0.5, "eps_hat": True}, "new optimizer"),
        (cyopt.AdaGrad, {}, {"initial_accumulator_value": 1.0}, "new optimizer"),
        (cyopt.Momentum, {"nesterov": True}, {"momentum": 0.0}, "nesterov.*momentum above 0"),
        (cyopt.Momentum, {"nesterov": True}, {"dampening": 0.5}, "dampening 0"),
        (cyopt.Momentum, {"momentum_form": "average"}, {"dampening": 0.5}, "'lr_outside'"),
    ],
)
def test_what_decides_the_formula_is_fixed(cls, hypers, changes, cure):
    model = Model(lambda params: cls(params, **hypers))
    model.refuses(lambda: model.opt.groups[0].update(changes), ValueError, cure)


@pytest.mark.parametrize(
    ("cls", "hypers", "cure"),
    [
        (cyopt.SGD, {"nesterov": True}, "momentum above 0"),
        (cyopt.SGD, {"dampening": 0.5}, "momentum above 0"),
        (cyopt.Momentum, {"nesterov": True, "dampening": 0.5}, "dampening 0"),
        (cyopt.Momentum, {"dampening": 0.5, "momentum_form": "lr_inside"}, "'lr_outside'"),
        (cyopt.RMSProp, {"momentum": 0.9, "momentum_form": "average"}, "'lr_inside'"),
        (cyopt.Adam, {"weight_decay_order": "after"}, "decoupled_weight_decay=True"),
    ],
)
def test_what_has_no_meaning_together_is_refused(cls, hypers, cure):
    with pytest.raises(ValueError, match=cure):
        cls(arrays(), **hypers)


@pytest.mark.parametrize(
    "together", [{"weight_decay_order": "after"}, {"bias_correction": False, "eps_hat": True}]
)
def test_what_has_no_meaning_together_is_refused_for_groups(together):
    for params in ([np.ones(2)], [{"params": [np.ones(2)]}]):
        with pytest.raises(ValueError, match=r"weight_decay_order is|eps_hat is"):
            cyopt.Adam(params, **together)


def test_a_form_of_bias_correction_needs_bias_correction():
    for name in ("eps_hat", "libm_pow"):
        with pytest.raises(ValueError, match=f"{name} is True, a form of the bias correction"):
            cyopt.Adam(bias_correction=False, **{name: True})
    assert not cyopt.Adam.like("sklearn", bias_correction=False).eps_hat


def test_ema_init_needs_ema():
    with pytest.raises(ValueError, match=r"ema_init is 'zeros'.*ema is None"):
        cyopt.Adam(ema_init="zeros")
    groups = [{"params": [np.ones(2)], "ema": 0.5}, {"params": [np.ones(2)]}]
    first, second = cyopt.Adam(groups, ema_init="zeros").groups
    assert (first.ema_init, second.ema_init) == ("zeros", "params")
