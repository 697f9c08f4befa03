"""No argument is accepted and ignored: each changes the result, whether passed or assigned."""

import numpy as np
import pytest
from models import arrays, grads_at, train

import cyopt

COMMON = {
    "lr": ({}, 0.5),
    "weight_decay": ({"weight_decay": 0.0}, 0.5),
    "decoupled_weight_decay": ({"weight_decay": 0.5, "decoupled_weight_decay": False}, True),
    "weight_decay_order": ({"weight_decay": 0.5, "decoupled_weight_decay": True}, "after"),
    "maximize": ({}, True),
    "grad_scale": ({"eps": 0.1}, 3.0),
    "clip_norm": ({"eps": 0.1}, 0.5),
    "clip_scope": ({"eps": 0.1, "clip_norm": 0.5}, "array"),
    "clip_eps": ({"eps": 0.1, "clip_norm": 0.5}, 0.5),
    "clip_value": ({"eps": 0.1}, 0.25),
    "ema": ({"ema": 0.9}, 0.5),
    "ema_init": ({"ema": 0.9}, "zeros"),
}
# What acts on other gradients than these, or on the gradients: see test_one_pass.py. And what acts
# on a GPU: see test_cuda_graph.py.
ELSEWHERE = {"skip_nonfinite", "zero_grads", "cast_grads", "capturable"}
MOMENTUM = {
    "momentum": ({"momentum": 0.9}, 0.5),
    "dampening": ({"momentum": 0.9}, 0.5),
    "nesterov": ({"momentum": 0.9}, True),
}
ROOT = {"eps": ({}, 0.5), "eps_inside_sqrt": ({"eps": 0.5}, True)}
ADAM = {
    "betas": ({}, (0.5, 0.999)),
    "eps": ({}, 0.5),
    "amsgrad": ({"betas": (0.9, 0.5)}, True),
    "eps_hat": ({"eps": 0.5}, True),
    "bias_correction": ({}, False),
    "libm_pow": ({}, True),
}
EFFECTS = {
    cyopt.SGD: MOMENTUM,
    cyopt.Momentum: MOMENTUM,
    cyopt.AdaGrad: {"lr_decay": ({}, 0.5), "initial_accumulator_value": ({}, 0.5), **ROOT},
    cyopt.RMSProp: {
        "alpha": ({}, 0.5),
        "momentum": ({}, 0.3),
        "centered": ({}, True),
        "initial_square_avg": ({}, 0.5),
        **ROOT,
    },
    cyopt.Adam: ADAM,
    cyopt.AdamW: ADAM,
}
VELOCITY = (cyopt.SGD, cyopt.Momentum, cyopt.RMSProp)
ROWS = [
    *((cls, *row) for cls, own in EFFECTS.items() for row in (COMMON | own).items()),
    *((cls, "momentum_form", ({"momentum": 0.9}, "lr_inside")) for cls in VELOCITY),
    *(
        (cls, "momentum_form", ({"momentum": 0.9}, "average"))
        for cls in (cyopt.SGD, cyopt.Momentum)
    ),
    *((cls, "betas", ({}, (0.9, 0.5))) for cls in (cyopt.Adam, cyopt.AdamW)),
]


@pytest.mark.parametrize(("cls", "key", "row"), ROWS, ids=lambda x: getattr(x, "__name__", None))
def test_each_argument_changes_the_result(cls, key, row):
    """None is accepted and ignored (as by bitsandbytes)."""
    base, value = row
    base = {k: v for k, v in {"lr": 0.1, **base}.items() if k != "eps" or hasattr(cls, k)}

    def result(hypers, steps=40):
        params = arrays(np.float64)
        # The lr of a velocity is seen only when it changes.
        schedule = {"lr": lambda steps: 0.1 / (1 + steps)} if key == "momentum_form" else {}
        opt = cls(params, **{**hypers, **schedule})
        train(opt, params, steps)
        return opt.averages["w"] if "ema" in hypers else params["w"]

    assert not np.array_equal(result(base), result({**base, key: value}))
    assert np.array_equal(result(base), result(base))


@pytest.mark.parametrize("cls", cyopt.ALL)
def test_every_hyperparameter_is_in_the_table_above(cls):
    assert {key for c, key, _ in ROWS if c is cls} | ELSEWHERE == set(cls().groups[0].values())


@pytest.mark.parametrize(
    ("cls", "key", "value"),
    [
        (c, k, v)
        for c, k, (_, v) in ROWS
        if not isinstance(v, bool | str)
        and "initial" not in k
        and (c, k) != (cyopt.SGD, "momentum")
    ],
)
def test_an_assigned_number_acts(cls, key, value):
    """A value set between steps acts as one that was scheduled for it (not so in aprender)."""
    hypers = {"momentum": 0.6} if cls in (cyopt.RMSProp, cyopt.SGD) else {}
    hypers |= {"clip_norm": 3.0, "clip_value": 0.75, "ema": 0.75}
    params, untouched, scheduled = arrays(np.float64), arrays(np.float64), arrays(np.float64)
    opt, other = cls(params, **hypers), cls(untouched, **hypers)
    old = getattr(opt, key)
    if key == "betas":
        late = tuple(
            lambda steps, a=a, b=b: a if steps < 2 else b for a, b in zip(old, value, strict=True)
        )
    else:

        def late(steps):
            return old if steps < 2 else value

    third = cls(scheduled, **{**hypers, key: late})
    for step in range(4):
        if step == 2:
            setattr(opt, key, value)
        grads = grads_at(step, params)
        opt.step(grads)
        other.step(grads)
        third.step(grads)
        assert np.array_equal(params["w"], scheduled["w"])
    assert np.array_equal(opt.averages["w"], third.averages["w"])
    assert not np.array_equal(opt.averages["w"], other.averages["w"])
