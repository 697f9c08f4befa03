"""like(): the conventions of a framework; what it does not have is refused."""

import copy
import pickle

import numpy as np
import pytest
from models import arrays, go_on_alike

import cyopt


def test_like_sets_what_its_arguments_would():
    params, others = arrays(), arrays()
    opt = cyopt.Adam.like("keras", params, lr=0.1)
    assert type(opt) is cyopt.Adam
    assert (opt.eps, opt.eps_hat, opt.lr) == (1e-7, True, 0.1)
    other = cyopt.Adam(
        others, lr=0.1, eps=1e-7, eps_hat=True, decoupled_weight_decay=True, clip_eps=0.0
    )
    go_on_alike(opt, params, other, others)
    assert repr(opt) == repr(other)
    assert cyopt.Adam.like("keras", eps=1e-3).eps == 1e-3
    thinc = cyopt.Adam.like("thinc")
    assert (thinc.clip_norm, thinc.clip_scope, thinc.ema_init) == (1.0, "array", "zeros")
    with pytest.raises(ValueError, match="before it clips"):
        cyopt.Adam.like("thinc", weight_decay=0.1, decoupled_weight_decay=False)
    cyopt.Adam.like("thinc", weight_decay=0.1, decoupled_weight_decay=False, clip_norm=None)


@pytest.mark.parametrize(
    ("call", "error", "cure"),
    [
        (lambda: cyopt.Adam.like("kears"), ValueError, "did you mean 'keras'"),
        (lambda: cyopt.Optimizer.like("torch"), TypeError, "not know this class: .* Adam"),
        (lambda: cyopt.SGD.like("chainer"), ValueError, "'chainer'.*known: torch"),
        (lambda: cyopt.AdaGrad.like("sklearn"), ValueError, "has no AdaGrad; it has SGD"),
        (lambda: cyopt.Adam.like("optax"), TypeError, "no default for lr.*pass lr="),
        (lambda: cyopt.Adam.like("optax", lr=1, eps_root=1e-8), ValueError, "eps_root.*exactly"),
        (lambda: cyopt.Adam.like("optax", lr=1, amsgrad=True), ValueError, "amsgrad.*exactly"),
        (lambda: cyopt.RMSProp.like("optax", lr=1, nesterov=True), ValueError, "nesterov.*exactly"),
        (lambda: cyopt.Adam.like("torch", lr=-1), ValueError, "lr"),
        (lambda: cyopt.Adam.like("torch", weight_deacy=1), TypeError, "weight_deacy"),
        (lambda: cyopt.Adam.like([]), ValueError, r"framework is \[\]; known: torch"),
    ],
)
def test_like_refuses_and_names_the_cure(call, error, cure):
    with pytest.raises(error, match=cure):
        call()


@pytest.mark.parametrize("framework", ["keras", "tf1", "optax", "thinc"])
def test_only_torch_adds_to_the_norm_that_clips(framework):
    assert cyopt.Adam.like(framework, lr=0.1).clip_eps == 0.0
    assert cyopt.Adam.like("torch").clip_eps == 1e-6


def test_an_order_that_the_framework_does_not_have_is_refused():
    with pytest.raises(ValueError, match="before it clips"):
        cyopt.Adam.like("thinc", decoupled_weight_decay=False)
    with pytest.raises(ValueError, match=r"0\.9 if steps else 0"):
        cyopt.Adam.like("keras", ema=0.9)


@pytest.mark.parametrize(
    ("framework", "own", "message"),
    [
        ("optax", {"amsgrad": True}, "exactly"),
        ("keras", {"ema": 0.99}, "after the first step"),
        ("thinc", {"decoupled_weight_decay": False, "weight_decay_order": "before"}, "clips"),
    ],
)
def test_what_a_framework_lacks_is_refused_in_groups(framework, own, message):
    group = {"params": [np.ones(2)], **own}
    with pytest.raises(ValueError, match=message):
        cyopt.Adam.like(framework, [group], lr=0.1)
    opt = cyopt.Adam.like(framework, [np.ones(2)], lr=0.1)
    for same in (opt, copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        with pytest.raises(ValueError, match=message):
            same.add_group(group)
    assert len(opt.groups) == 1


@pytest.mark.parametrize(
    ("framework", "given", "name", "value"),
    [
        (
            "thinc",
            {"decoupled_weight_decay": False, "weight_decay": 0.1, "clip_norm": None},
            "clip_norm",
            1.0,
        ),
        ("keras", {"ema": lambda steps: 0.9 if steps else 0.0}, "ema", 0.9),
    ],
)
def test_what_a_framework_lacks_is_refused_when_it_is_set_or_loaded(framework, given, name, value):
    opt = cyopt.Adam.like(framework, [np.ones(2)], **given)
    state = opt.state_dict()
    for own in (opt, copy.deepcopy(opt)):
        with pytest.raises(ValueError, match=r"exactly|first step"):
            setattr(own, name, value)
    if name == "clip_norm":
        state["groups"][0][name] = value
        with pytest.raises(ValueError, match="exactly"):
            opt.load_state_dict(state)


@pytest.mark.parametrize("number", [np.float32(0.99), np.float64(0.99), 1])
def test_an_average_from_the_first_step_is_refused_as_any_type_of_number(number):
    with pytest.raises(ValueError, match="after the first step"):
        cyopt.Adam.like("keras", [np.ones(2)], ema=number)
    with pytest.raises(ValueError, match=r"your schedule\(steps\) if steps else 0"):
        cyopt.Adam.like("keras", [np.ones(2)], ema=cyopt.schedules.constant(0.99))
    cyopt.Adam.like("keras", [np.ones(2)], ema=lambda steps: 0.99 if steps else 0.0)


@pytest.mark.parametrize(
    ("framework", "own"),
    [("keras", {"bias_correction": False}), ("thinc", {"decoupled_weight_decay": False})],
)
def test_a_group_can_turn_off_what_the_framework_turns_on(framework, own):
    """What follows from it is turned off too: a group is made as an optimizer is."""
    alone = {"clip_norm": None, **own} if framework == "thinc" else own
    opt = cyopt.Adam.like(framework, [{"params": [np.ones(2)], **alone}])
    assert (
        opt.groups[0].values()
        == cyopt.Adam.like(framework, [np.ones(2)], **alone).groups[0].values()
    )


def test_like_takes_numpys_false_for_false():
    coupled = {"decoupled_weight_decay": np.False_}
    with pytest.raises(ValueError, match="before it clips"):
        cyopt.Adam.like("thinc", [np.ones(2)], **coupled)
    assert cyopt.Adam.like("thinc", clip_norm=None, **coupled).weight_decay_order == "before"


def test_a_subclass_has_the_row_of_its_base_whatever_its_name():
    momentum = type("Momentum", (cyopt.Adam,), {})
    opt = momentum.like("keras")
    assert (opt.eps, opt.eps_hat) == (1e-7, True)
    assert type(opt) is momentum
