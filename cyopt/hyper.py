"""Hyperparameters: what each may be, groups of them, and the numbers that a step uses."""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

Schedule = Callable[[int], float]
Number = float | Schedule


class Hyper(NamedTuple):
    """What one step of one group uses; `struct cyopt_hyper` of `src_c/cyopt.h` in Python."""

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


class Range(NamedTuple):
    """The numbers that a hyperparameter may have."""

    contains: Callable[[float], bool]
    text: str


NOT_NEGATIVE = Range(lambda x: x >= 0, "at least 0")
POSITIVE = Range(lambda x: x > 0, "above 0")
FRACTION = Range(lambda x: 0 <= x <= 1, "from 0 to 1")
DECAY_RATE = Range(lambda x: 0 <= x < 1, "at least 0 and below 1")
ANY = Range(lambda x: True, "finite")

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
}
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
}
CHOICES = {
    "weight_decay_order": ("before", "after"),
    "momentum_form": ("lr_outside", "lr_inside", "average"),
}
_PLAIN_NUMBERS = [name for name in NUMBERS if name in Hyper._fields]
_SWITCHES = [name for name in [*FLAGS, *CHOICES] if name in Hyper._fields]
# Field of Hyper that a kernel rounds -> the hyperparameter whose range it must stay in.
_ROUNDED = {
    **{name: name for name in _PLAIN_NUMBERS if name not in ("step_size", "denom_scale")},
    "beta1": "betas[0]",
    "beta2": "betas[1]",
}
# Used once, when the state is made: a schedule or a later change would have no effect.
INITIAL = ("initial_accumulator_value", "initial_square_avg")


def checked_number(name: str, value: object) -> float:
    """`value` as a float inside the range of the hyperparameter `name`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"{name} is {value!r} ({type(value).__name__}); expected a number"
            + ("" if name in INITIAL else " or a schedule, a callable of the completed steps")
        )
    number = float(value)
    allowed = NUMBERS[name]
    if not math.isfinite(number) or not allowed.contains(number):
        raise ValueError(f"{name} is {number!r}; expected a finite number {allowed.text}")
    return number


def _number_or_schedule(name: str, value: object) -> Number:
    return value if callable(value) and name not in INITIAL else checked_number(name, value)


def _checked(name: str, value: object) -> Any:
    """`value` if the hyperparameter `name` may have it."""
    if name in FLAGS:
        if not isinstance(value, bool | np.bool_):
            raise TypeError(f"{name} is {value!r}; expected True or False")
        return bool(value)
    if name in CHOICES:
        if value not in CHOICES[name]:
            expected = " or ".join(repr(choice) for choice in CHOICES[name])
            raise ValueError(f"{name} is {value!r}; expected {expected}")
        return value
    if name == "betas":
        if not isinstance(value, tuple | list) or len(value) != 2:
            raise TypeError(f"betas is {value!r}; expected two numbers, such as (0.9, 0.999)")
        return tuple(_number_or_schedule(f"betas[{i}]", beta) for i, beta in enumerate(value))
    return _number_or_schedule(name, value)


def _is_scheduled(value: object) -> bool:
    return callable(value) or (isinstance(value, tuple) and any(map(callable, value)))


def check_rounded(hyper: Hyper, dtype: np.dtype[Any]) -> None:
    """A kernel of `dtype` sees each number rounded to it: that must keep the number's meaning."""
    for name, range_name in _ROUNDED.items():
        value = getattr(hyper, name)
        with np.errstate(over="ignore", under="ignore"):
            seen = float(dtype.type(value))
            inverse = float(dtype.type(1.0 / value)) if name == "grad_scale" else 1.0
        tiny = float(np.finfo(dtype).tiny)
        if (
            math.isinf(seen)
            or not NUMBERS[range_name].contains(seen)
            or (name == "eps" and 0 < value < tiny)
            or not tiny <= inverse < math.inf
        ):
            raise ValueError(
                f"{range_name} is {value!r}, which {dtype.name} parameters cannot use: there it, or"
                f" what is computed from it, is rounded to {seen!r}; use a number within the range"
                f" of {dtype.name}, or float64 parameters"
            )


def unknown_name(name: str, known: Iterable[str]) -> str:
    """The end of an error about a name that is not known: the nearest known one, and all."""
    known = list(known)
    nearest = difflib.get_close_matches(name, known, 1, 0.6)
    return (f"; did you mean {nearest[0]!r}?" if nearest else ";") + f" known: {', '.join(known)}"


class Group:
    """Hyperparameters of some parameters: attributes, checked when they are set.

    Numbers may be changed and may be schedules. What decides the formula or the state (flags,
    choices, starting values) is fixed when the optimizer is made.

    >>> import cyopt
    >>> group = cyopt.Adam(lr=1e-3).groups[0]
    >>> group.lr = 1e-4
    >>> group.lr
    0.0001
    >>> group.lr = -1
    Traceback (most recent call last):
    ValueError: lr is -1.0; expected a finite number at least 0
    """

    rule: str  # of cyopt.rules.RULES
    scheduled: bool  # a number is a schedule
    changed: bool  # since the last step
    _values: dict[str, Any]
    _rule_of: Callable[[Mapping[str, Any]], str]

    def __init__(
        self, values: Mapping[str, object], rule_of: Callable[[Mapping[str, Any]], str]
    ) -> None:
        checked = {name: _checked(name, value) for name, value in values.items()}
        _check_together(checked)
        self.__dict__.update(_rule_of=rule_of, rule=rule_of(checked))
        self._set(checked)

    def _set(self, values: dict[str, Any]) -> None:
        scheduled = any(_is_scheduled(value) for value in values.values())
        self.__dict__.update(_values=values, scheduled=scheduled, changed=True)

    def settle(self) -> None:
        """Steps have taken up the changes."""
        self.__dict__["changed"] = False

    def values(self) -> Mapping[str, Any]:
        """All hyperparameters by name."""
        return MappingProxyType(self._values)

    def __getattr__(self, name: str) -> Any:
        values = self.__dict__.get("_values", {})
        if name.startswith("__") or name not in values:
            raise AttributeError(f"no hyperparameter {name!r}{unknown_name(name, values)}")
        return values[name]

    def __setattr__(self, name: str, value: object) -> None:
        self.update({name: value})

    def update(self, changes: Mapping[str, object]) -> None:
        """Set several at once: all of them, or none if one is refused."""
        values = dict(self._values)
        for name, value in changes.items():
            old = getattr(self, name)
            values[name] = _checked(name, value)
            if (name in FLAGS or name in CHOICES or name in INITIAL) and values[name] != old:
                raise ValueError(
                    f"{name} is {old!r} since the optimizer was made and decides its formula or"
                    f" state; make a new optimizer with {name}={value!r}"
                )
        _check_together(values)
        # Momentum turned off keeps its buffer; turned on, it would need one that is not there.
        if values.get("momentum") and self._rule_of(values) != self.rule:
            raise ValueError(
                "momentum is 0 since the optimizer was made, which keeps no momentum buffer;"
                f" make a new optimizer with momentum={values['momentum']!r}"
            )
        self._set(values)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._values]

    def __repr__(self) -> str:
        return f"Group({format_values(self._values)})"

    def at(self, steps: int, dtypes: Iterable[np.dtype[Any]] = ()) -> Hyper:
        """The numbers after `steps` completed steps, all schedules evaluated and checked."""
        v = self._values

        def number(name: str, value: Any) -> float:
            return checked_number(name, value(steps)) if callable(value) else float(value)

        fields: dict[str, Any] = {n: v[n] for n in _SWITCHES if n in v}
        fields.update({n: number(n, v[n]) for n in _PLAIN_NUMBERS if n in v})
        if "betas" in v:
            fields["beta1"] = number("betas[0]", v["betas"][0])
            fields["beta2"] = number("betas[1]", v["betas"][1])
        if "alpha" in v:
            fields["beta2"] = number("alpha", v["alpha"])
        decay = v["weight_decay_order"] if v["decoupled_weight_decay"] else "coupled"
        hyper = Hyper(rule=self.rule, decay=decay, **fields)
        for dtype in dtypes:
            check_rounded(hyper, dtype)
        return hyper


def _check_together(v: Mapping[str, Any]) -> None:
    """Hyperparameters that mean nothing, or something else, beside each other."""
    if v["weight_decay_order"] == "after" and not v["decoupled_weight_decay"]:
        raise ValueError(
            "weight_decay_order is 'after', which coupled decay does not have;"
            " pass decoupled_weight_decay=True as well"
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


def format_values(values: Mapping[str, object]) -> str:
    """`name=value` of each, for a repr."""
    return ", ".join(f"{name}={value!r}" for name, value in values.items())
