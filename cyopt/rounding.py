"""Whether hyperparameters keep their meaning in a kernel, which rounds them to its dtype."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, NoReturn

import numpy as np

from cyopt import _cpu
from cyopt.hyper import Hyper

# Fields of Hyper that must stay below 1 when a kernel rounds them, and what users call them.
_RATES = {"momentum": "momentum", "beta1": "betas[0]", "beta2": "betas[1]"}
# Factor of a step (`cyopt.rules.prepare`) -> the hyperparameters that make it. The others are at
# most 1 or, like `limit`, mean "none" when they are rounded to infinity.
_CAUSES = {
    "s": ("grad_scale",),
    "k": ("lr", "weight_decay"),
    "a": ("lr",),
    "step": ("step_size", "lr"),
    "r": ("denom_scale", "beta2"),
    "wd": ("weight_decay",),
    "eps": ("eps",),
    "eps_in": ("eps",),
}


class Limits(NamedTuple):
    """What a double must stay below, or above, to keep its meaning when it is rounded."""

    infinite: float  # numbers from here on are rounded to infinity
    one: float  # fractions from here on are rounded to 1
    tiny: float  # the smallest normal number

    @classmethod
    def of(cls, dtype: Any) -> Limits:
        """The limits of a dtype, half a unit in the last place from its largest number and 1."""
        info = np.finfo(dtype)
        infinite = float(info.max) + 2.0 ** (info.maxexp - info.nmant - 2)
        return cls(infinite, 1 - float(info.eps) / 4, float(info.tiny))


LIMITS = {np.dtype(dtype): Limits.of(dtype) for dtype in (np.float32, np.float64)}


def check_rounded(hyper: Hyper, dtype: np.dtype[Any]) -> None:
    """Check that each number keeps its meaning when a kernel rounds it to `dtype`."""
    limits = LIMITS[dtype]
    for field, name in _RATES.items():
        value = getattr(hyper, field)
        if value >= limits.one:
            if field == "beta2" and hyper.rule.startswith("rmsprop"):
                name = "alpha"
            _refuse_rounded(f"{name} is {value!r}", "1.0", dtype)
    if 0 < hyper.eps < limits.tiny:
        _refuse_rounded(f"eps is {hyper.eps!r}", "0.0 or a subnormal", dtype)
    for name in ("clip_value", "clip_norm"):
        if 0 < getattr(hyper, name) < limits.tiny:
            _refuse_rounded(f"{name} is {getattr(hyper, name)!r}", "0.0 or a subnormal", dtype)
    # The factors that a step computes; those that change are largest in the first.
    factors = _cpu.prepare(hyper, 1)
    for factor, causes in _CAUSES.items():
        if abs(factors[factor]) >= limits.infinite:
            _refuse_factor(causes, factors[factor], hyper, dtype)
    if hyper.eps_hat:  # the factor grows with the steps, up to this
        most = hyper.lr / (1 - hyper.beta1)
        if hyper.decay == "after":
            most *= max(1.0, abs(factors["k"]))
        if most >= limits.infinite:
            _refuse_factor(("lr", "beta1", "weight_decay"), most, hyper, dtype)
    if abs(factors["s"]) < limits.tiny:
        _refuse_factor(_CAUSES["s"], factors["s"], hyper, dtype)


def _refuse_rounded(what: str, seen: str, dtype: np.dtype[Any]) -> NoReturn:
    raise ValueError(
        f"{what}, which {dtype.name} rounds to {seen}; use a number that keeps its meaning in"
        f" {dtype.name}, or float64 parameters"
    )


def _refuse_factor(
    causes: tuple[str, ...], x: float, hyper: Hyper, dtype: np.dtype[Any]
) -> NoReturn:
    given = [name for name in causes if not math.isnan(getattr(hyper, name))]
    values = " and ".join(f"{name} is {getattr(hyper, name)!r}" for name in given)
    raise ValueError(
        f"{values}, which makes a factor of the update {x:.4g}, beyond the range of {dtype.name};"
        " use numbers of ordinary size, or float64 parameters"
    )
