"""The one table of optimizers: every rule in every variant, for all tests that go over them."""

import itertools

import cyopt

# Every variant of each class's own formula.
FORMULAS = [
    (cyopt.SGD, {}),
    (cyopt.Momentum, {}),
    (cyopt.Momentum, {"dampening": 0.5}),
    (cyopt.Momentum, {"nesterov": True}),
    (cyopt.Momentum, {"momentum_form": "lr_inside"}),
    (cyopt.Momentum, {"momentum_form": "lr_inside", "nesterov": True}),
    (cyopt.Momentum, {"momentum_form": "average"}),
    (cyopt.Momentum, {"momentum_form": "average", "nesterov": True}),
    (cyopt.AdaGrad, {}),
    (cyopt.AdaGrad, {"lr_decay": 0.1, "initial_accumulator_value": 0.1}),
    (cyopt.AdaGrad, {"eps": 1e-7, "eps_inside_sqrt": True}),
    (cyopt.RMSProp, {}),
    (cyopt.RMSProp, {"initial_square_avg": 1.0, "eps_inside_sqrt": True}),
    (cyopt.RMSProp, {"centered": True}),
    (cyopt.RMSProp, {"momentum": 0.9}),
    (cyopt.RMSProp, {"momentum": 0.9, "momentum_form": "lr_inside"}),
    (cyopt.RMSProp, {"momentum": 0.9, "centered": True, "eps_inside_sqrt": True}),
    (cyopt.Adam, {}),
    (cyopt.Adam, {"amsgrad": True}),
    (cyopt.Adam, {"eps_hat": True, "libm_pow": True}),
    (cyopt.Adam, {"bias_correction": False}),
    (cyopt.AdamW, {}),
    (cyopt.AdamW, {"amsgrad": True, "eps_hat": True}),
]

# What any of them may have beside it.
MODIFIERS = [
    {},
    {"weight_decay": 0.1, "decoupled_weight_decay": False},
    {"weight_decay": 0.1, "decoupled_weight_decay": True},
    {"weight_decay": 0.1, "decoupled_weight_decay": True, "weight_decay_order": "after"},
    {"maximize": True, "grad_scale": 3.0},
]

VARIANTS = [
    (cls, {"lr": 0.05, **formula, **modifier})
    for (cls, formula), modifier in itertools.product(FORMULAS, MODIFIERS)
]


def name(variant):
    """A readable id for a test."""
    cls, kwargs = variant
    parts = [k if v is True else f"{k}={v}" for k, v in kwargs.items() if k != "lr"]
    return "-".join([cls.__name__, *parts])
