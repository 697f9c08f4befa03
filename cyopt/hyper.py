"""Hyperparameters: what each may be, and the numbers that a step uses."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypedDict

import numpy as np

Schedule = Callable[[int], float]
Number = float | Schedule


class Hyper(NamedTuple):
    """What one step of one group uses; `struct cyopt_hyper` of `src_c/cyopt.h` in Python.

    `_cpu.pyx` takes the fields in this order.
    """

    rule: str
    decay: str
    lr: float
    weight_decay: float
    grad_scale: float
    maximize: bool
    momentum_form: str = "lr_outside"
    eps_inside_sqrt: bool = False
    eps_hat: bool = False
    bias_correction: bool = True
    libm_pow: bool = False
    momentum: float = 0.0
    dampening: float = 0.0
    lr_decay: float = 0.0
    beta1: float = 0.0
    beta2: float = 0.0
    eps: float = 0.0
    step_size: float = math.nan
    denom_scale: float = math.nan
    clip_norm: float = 0.0  # 0: none
    clip_eps: float = 1e-6
    clip_value: float = 0.0  # 0: none
    ema: float = 0.0
    clip_per_array: bool = False
    skip_nonfinite: bool = False

    @property
    def needs_norm(self) -> bool:
        """Whether a step measures its gradients, as `cyopt_needs_norm` of `src_c`."""
        return self.skip_nonfinite or self.clip_norm != 0


class Common(TypedDict, total=False):
    """The hyperparameters that every class has besides `lr` and `weight_decay`."""

    decoupled_weight_decay: bool
    weight_decay_order: str
    maximize: bool
    grad_scale: Number
    clip_norm: Number | None
    clip_scope: str
    clip_eps: Number
    clip_value: Number | None
    skip_nonfinite: bool
    zero_grads: bool
    cast_grads: bool
    capturable: bool
    ema: Number | None
    ema_init: str


COMMON: Common = {
    "decoupled_weight_decay": False,
    "weight_decay_order": "before",
    "maximize": False,
    "grad_scale": 1.0,
    "clip_norm": None,
    "clip_scope": "all",
    "clip_eps": 1e-6,
    "clip_value": None,
    "skip_nonfinite": False,
    "zero_grads": False,
    "cast_grads": False,
    "capturable": False,
    "ema": None,
    "ema_init": "params",
}


class Range(NamedTuple):
    """The numbers that a hyperparameter may have."""

    contains: Callable[[float], bool]
    text: str


NOT_NEGATIVE = Range(lambda x: x >= 0, "at least 0")
POSITIVE = Range(lambda x: x > 0, "above 0")
FRACTION = Range(lambda x: 0 <= x <= 1, "from 0 to 1")
DECAY_RATE = Range(lambda x: 0 <= x < 1, "at least 0 and below 1")
ANY = Range(lambda x: True, "of any size")

NUMBERS = {
    "lr": NOT_NEGATIVE,
    "weight_decay": NOT_NEGATIVE,
    "grad_scale": POSITIVE,
    "momentum": DECAY_RATE,
    "dampening": FRACTION,
    "lr_decay": NOT_NEGATIVE,
    "alpha": DECAY_RATE,
    "betas[0]": DECAY_RATE,
    "betas[1]": DECAY_RATE,
    "eps": NOT_NEGATIVE,
    "initial_accumulator_value": NOT_NEGATIVE,
    "initial_square_avg": NOT_NEGATIVE,
    "step_size": ANY,
    "denom_scale": NOT_NEGATIVE,
    "clip_norm": POSITIVE,
    "clip_eps": NOT_NEGATIVE,
    "clip_value": POSITIVE,
    "ema": DECAY_RATE,
}
# Numbers that may be None, which turns something off; in `Hyper` 0 stands for it.
OFF = ("clip_norm", "clip_value", "ema")
FLAGS = {
    "decoupled_weight_decay",
    "maximize",
    "nesterov",
    "centered",
    "amsgrad",
    "eps_inside_sqrt",
    "eps_hat",
    "bias_correction",
    "libm_pow",
    "skip_nonfinite",
    "zero_grads",
    "cast_grads",
    "capturable",
}
# About where a run continues, not how: not part of what is saved.
UNSAVED = ("capturable",)
CHOICES = {
    "weight_decay_order": ("before", "after"),
    "momentum_form": ("lr_outside", "lr_inside", "average"),
    "clip_scope": ("all", "array"),
    "ema_init": ("params", "zeros"),
}
PLAIN_NUMBERS = {name for name in NUMBERS if name in Hyper._fields}
SWITCHES = [name for name in [*FLAGS, *CHOICES] if name in Hyper._fields]
# Used once, when the state is made: a schedule or a later change would have no effect.
INITIAL = ("initial_accumulator_value", "initial_square_avg")
# What decides the formula or the state, and is fixed when the optimizer is made.
FIXED = {*FLAGS, *CHOICES, *INITIAL}
_NO_SCHEDULE = (*INITIAL, "step_size", "denom_scale")


def as_float(number: Any) -> float:
    """A real number as a float; infinity for integers beyond the range of floats."""
    try:
        return float(number)
    except OverflowError:
        return math.inf


def is_real(value: object) -> bool:
    """Whether this is a real number; a flag or a time is not."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool | np.timedelta64)


def is_count(value: object) -> bool:
    """Whether this is a number of steps: an integer that fits the counters, with room above."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return whole and 0 <= value < 2**62  # type: ignore[operator]  # mypy does not follow `whole`


def checked_number(name: str, value: object) -> float:
    """`value` as a float inside the range of the hyperparameter `name`."""
    if type(value) is not float and not is_real(value):  # an abstract class is slow to check
        raise TypeError(
            f"{name} is {value!r} ({type(value).__name__}); expected a number"
            + ("" if name in _NO_SCHEDULE else " or a schedule, a callable of the completed steps")
            + (", or None" if name in OFF else "")
        )
    number = as_float(value)
    allowed = NUMBERS[name]
    if not math.isfinite(number) or not allowed.contains(number):
        cure = "; None turns it off" if name in OFF else ""
        raise ValueError(f"{name} is {number!r}; expected a finite number {allowed.text}{cure}")
    return number


def scheduled_number(name: str, schedule: Schedule, steps: int) -> float:
    """What the schedule of `name` gives after `steps` completed steps, inside the range."""
    try:
        value = schedule(steps)
    except OverflowError:  # from Python's powers
        value = math.inf
    try:
        return checked_number(name, value)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"{name} is {value!r} after {steps} steps, by its schedule; expected a finite number"
            f" {NUMBERS[name].text}"
        ) from None


def _number_or_schedule(name: str, value: object) -> Number | None:
    if value is None and name in OFF:
        return None
    return value if callable(value) and name not in INITIAL else checked_number(name, value)


def checked(name: str, value: object) -> Any:
    """`value` if the hyperparameter `name` may have it."""
    if name in FLAGS:
        if not isinstance(value, bool | np.bool_):
            raise TypeError(f"{name} is {value!r}; expected True or False")
        return bool(value)
    if name in CHOICES:
        if not isinstance(value, str) or value not in CHOICES[name]:
            expected = " or ".join(repr(choice) for choice in CHOICES[name])
            raise ValueError(f"{name} is {value!r}; expected {expected}")
        return value
    if name == "betas":
        if not isinstance(value, tuple | list) or len(value) != 2:
            raise TypeError(f"betas is {value!r}; expected two numbers, such as (0.9, 0.999)")
        return tuple(_number_or_schedule(f"betas[{i}]", beta) for i, beta in enumerate(value))
    return _number_or_schedule(name, value)


def without_meaning(v: Mapping[str, Any]) -> dict[str, Any]:
    """Options of what `v` turns off, which have no meaning then, with their neutral values."""
    found: dict[str, Any] = {}
    if v.get("ema", 0.0) is None:
        found["ema_init"] = "params"
    if is_off(v, "decoupled_weight_decay"):
        found["weight_decay_order"] = "before"
    if is_off(v, "bias_correction"):
        found.update(eps_hat=False, libm_pow=False)
    return found


def is_off(v: Mapping[str, Any], flag: str) -> bool:
    """Whether this flag is given, and False."""
    return isinstance(v.get(flag), bool | np.bool_) and not v[flag]


def check_together(v: Mapping[str, Any]) -> None:
    """Refuse hyperparameters that mean nothing, or something else, when combined."""
    if v["weight_decay_order"] == "after" and not v["decoupled_weight_decay"]:
        raise ValueError(
            "weight_decay_order is 'after', which coupled decay does not have;"
            " pass decoupled_weight_decay=True as well"
        )
    if v["ema_init"] != "params" and v["ema"] is None:
        raise ValueError(
            f"ema_init is {v['ema_init']!r}, where an average begins, but ema is None: pass ema as"
            " well, or leave ema_init out"
        )
    for name in ("eps_hat", "libm_pow"):
        if v.get(name) and not v["bias_correction"]:
            raise ValueError(
                f"{name} is True, a form of the bias correction, but bias_correction is False;"
                f" leave {name} out"
            )
    if "momentum" not in v:
        return
    momentum, form, dampening = v["momentum"], v["momentum_form"], v.get("dampening", 0.0)
    if v.get("nesterov") and (momentum == 0 or dampening != 0):
        raise ValueError(
            "nesterov is True; it needs momentum above 0 and dampening 0, but momentum is"
            f" {momentum!r} and dampening is {dampening!r}"
        )
    if dampening != 0 and (momentum == 0 or form != "lr_outside"):
        raise ValueError(
            f"dampening is {dampening!r}; it needs momentum above 0 and momentum_form 'lr_outside',"
            f" but momentum is {momentum!r} and momentum_form is {form!r}"
        )
    if "alpha" in v and form == "average":
        raise ValueError("momentum_form is 'average'; RMSProp has 'lr_outside' and 'lr_inside'")


def is_scheduled(value: object) -> bool:
    """Whether a hyperparameter is a schedule, or betas with one."""
    return callable(value) or (isinstance(value, tuple | list) and any(map(callable, value)))
