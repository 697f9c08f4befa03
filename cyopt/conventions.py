"""`like()`: other frameworks' formulas and defaults, as hyperparameters of cyopt's classes.

One row for each class that a framework has; what a row does not name is PyTorch's default. The
names and what they do are explained in the classes of `cyopt.optimizers`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cyopt import schedules
from cyopt.hints import unknown_name
from cyopt.hyper import is_off, without_meaning

Row = Mapping[str, Any]

# Stands for a default that the framework does not have.
REQUIRED = object()

_EPS_HAT = {"eps_hat": True}
_DECOUPLED = {"decoupled_weight_decay": True}
_KERAS_ROOT = {"lr": 1e-3, "eps": 1e-7, "eps_inside_sqrt": True}
_TF1_RMSPROP = {"alpha": 0.9, "eps": 1e-10, "eps_inside_sqrt": True, "initial_square_avg": 1.0}
FRAMEWORKS: Mapping[str, Mapping[str, Row]] = {
    "torch": {"SGD": {}, "Momentum": {}, "RMSProp": {}, "AdaGrad": {}, "Adam": {}, "AdamW": {}},
    "keras": {
        "SGD": {"lr": 0.01, "momentum_form": "lr_inside", **_DECOUPLED},
        "Momentum": {"lr": 0.01, "momentum_form": "lr_inside", **_DECOUPLED},
        "RMSProp": {"alpha": 0.9, "momentum_form": "lr_inside", **_KERAS_ROOT, **_DECOUPLED},
        "AdaGrad": {"initial_accumulator_value": 0.1, **_KERAS_ROOT, **_DECOUPLED},
        "Adam": {"eps": 1e-7, **_EPS_HAT, **_DECOUPLED},
        "AdamW": {"eps": 1e-7, "weight_decay": 4e-3, **_EPS_HAT},
    },
    "tf1": {
        "SGD": {"lr": REQUIRED},
        "Momentum": {"lr": REQUIRED},
        "RMSProp": {"lr": REQUIRED, "momentum_form": "lr_inside", **_TF1_RMSPROP},
        "AdaGrad": {"lr": REQUIRED, "initial_accumulator_value": 0.1, "eps": 0.0},
        "Adam": _EPS_HAT,
    },
    "optax": {
        "SGD": {"lr": REQUIRED},
        "Momentum": {"lr": REQUIRED},
        "RMSProp": {
            "lr": REQUIRED,
            "alpha": 0.9,
            "eps_inside_sqrt": True,
            "momentum_form": "lr_inside",
        },
        "AdaGrad": {
            "lr": REQUIRED,
            "initial_accumulator_value": 0.1,
            "eps": 1e-7,
            "eps_inside_sqrt": True,
        },
        "Adam": {"lr": REQUIRED},
        "AdamW": {"lr": REQUIRED, "weight_decay": 1e-4},
    },
    "sklearn": {
        "SGD": {"lr": 0.1, "momentum": 0.9, "nesterov": True, "momentum_form": "lr_inside"},
        "Momentum": {"lr": 0.1, "nesterov": True, "momentum_form": "lr_inside"},
        "Adam": {"libm_pow": True, **_EPS_HAT},
    },
    "thinc": {
        "SGD": {"lr": REQUIRED, "weight_decay_order": "after", **_DECOUPLED},
        "Adam": {"weight_decay_order": "after", **_EPS_HAT, **_DECOUPLED},
    },
    "autograd": {
        "SGD": {"lr": 0.1, "momentum": 0.9, "momentum_form": "average"},
        "Momentum": {"lr": 0.1, "momentum_form": "average"},
        "RMSProp": {"lr": 0.1, "alpha": 0.9, "initial_square_avg": 1.0},
        "Adam": {},
    },
    "ema": {
        "SGD": {"momentum": 0.9, "momentum_form": "average"},
        "Momentum": {"momentum_form": "average"},
    },
}

# What all classes of a framework share. These clip to clip_norm / norm, where PyTorch adds 1e-6 to
# the norm; thinc clips each gradient and keeps averages by default.
_CLIP = {"clip_eps": 0.0}
_OF_ALL_CLASSES: Mapping[str, Row] = {
    "keras": _CLIP,
    "tf1": _CLIP,
    "optax": _CLIP,
    "thinc": {
        "clip_norm": 1.0,
        "clip_scope": "array",
        "ema": schedules.ema_warmup(),
        "ema_init": "zeros",
        **_CLIP,
    },
}

_OPTAX_ADAM = {
    "eps_root": "an epsilon inside Adam's root",
    "amsgrad": "the maximum of the bias-corrected second moment",
    "nesterov": "Nesterov's form of Adam",
}
# What a framework has but these rules cannot express exactly: refused by name.
REFUSED: Mapping[tuple[str, str], Mapping[str, str]] = {
    ("optax", "Adam"): _OPTAX_ADAM,
    ("optax", "AdamW"): _OPTAX_ADAM,
    ("optax", "RMSProp"): {"nesterov": "RMSProp with Nesterov's momentum"},
}


def defaults(framework: str, classes: Iterable[type], given: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters in `framework` that differ from PyTorch's.

    `classes` is an MRO; the row is that of its first class of cyopt's own. `given` is what the user
    passes. Raises ValueError for an unknown framework, a class that it lacks, or what cannot be
    expressed; TypeError for a missing argument that it requires.
    """
    if not isinstance(framework, str) or framework not in FRAMEWORKS:
        raise ValueError(f"framework is {framework!r}{unknown_name(str(framework), FRAMEWORKS)}")
    rows = FRAMEWORKS[framework]
    cls = _name(classes)
    if not cls:
        raise TypeError(
            "like() does not know this class: it knows the formulas of"
            f" {', '.join(FRAMEWORKS['torch'])}, and of classes derived from them"
        )
    if cls not in rows:
        raise ValueError(f"{framework!r} has no {cls}; it has {', '.join(rows)}")
    refuse(framework, classes, given)
    row = {**_OF_ALL_CLASSES.get(framework, {}), **rows[cls]}
    for name in without_meaning(given):
        row.pop(name, None)
    missing = [name for name, value in row.items() if value is REQUIRED and name not in given]
    if missing:
        raise TypeError(
            f"{framework} has no default for {', '.join(missing)} of {cls}:"
            f" pass {', '.join(f'{name}=...' for name in missing)}"
        )
    return {name: value for name, value in row.items() if name not in given}


def _name(classes: Iterable[type]) -> str:
    """The name of the first class of cyopt's own; a subclass may have the name of another one."""
    own = (cls.__name__ for cls in classes if cls.__module__ == "cyopt.optimizers")
    return next((name for name in own if name in FRAMEWORKS["torch"]), "")


def refuse(framework: str, classes: Iterable[type], given: Mapping[str, Any]) -> None:
    """Raise ValueError for what cyopt cannot express exactly of the framework's optimizer."""
    if framework == "torch":
        return
    cls = _name(classes)
    for name, meaning in REFUSED.get((framework, cls), {}).items():
        if given.get(name):
            raise ValueError(
                f"{name}={given[name]!r} of {framework}'s {cls} is {meaning}, which cyopt's rules"
                " cannot express exactly; leave it out"
            )
    # What clips, decays or averages in another order than cyopt.
    coupled = is_off(given, "decoupled_weight_decay")
    if framework == "thinc" and coupled and given.get("clip_norm", 1.0) is not None:
        raise ValueError(
            "thinc adds coupled weight decay (L2_is_weight_decay=False) before it clips,"
            " which cyopt's rules cannot express exactly; pass clip_norm=None, or leave out"
            " decoupled_weight_decay=False"
        )
    if framework == "keras" and given.get("ema") is not None:
        ema = given["ema"]
        if (ema(0) if callable(ema) else ema) != 0:
            decay = "your schedule(steps)" if callable(ema) else ema
            raise ValueError(
                "Keras's average begins as a copy of the parameters after the first step, not"
                f" before it; pass ema=lambda steps: {decay} if steps else 0.0, which is the same"
                " except for rounding"
            )
