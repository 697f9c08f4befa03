"""Hyperparameters that change during training.

A schedule is a function of t, the number of completed steps (`opt.steps`, 0 at the first step).
Any callable will do; those here are frozen dataclasses, so that they can be compared, printed,
copied and pickled:

>>> from cyopt import schedules
>>> schedules.exponential(0.1, decay=0.01)
exponential(initial=0.1, decay=0.01)

They return Python floats and use the C library's `exp`, `cos` and `pow`, whose last bit may differ
between machines. Those with an end keep their last value after it.

Every constructor raises TypeError for an argument of the wrong type and ValueError for one out of
range.
"""

# ruff: noqa: N801  (classes that are called like functions; each class says the formula)

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from cyopt.hyper import as_float, is_real

__all__ = [
    "constant",
    "cosine",
    "ema_warmup",
    "exponential",
    "join",
    "linear_warmup",
    "one_cycle",
    "polynomial",
    "step",
    "time_based",
]


@dataclass(frozen=True)
class constant:
    """The same value at every step: value.

    >>> constant(0.1)(1000)
    0.1
    """

    value: float

    def __post_init__(self) -> None:
        _take_number(self, "value")

    def __call__(self, t: int) -> float:
        return self.value


@dataclass(frozen=True)
class ema_warmup:
    """For `ema`, a decay that grows: min(limit, (2 + t) / (11 + t)), as in thinc and TensorFlow.

    >>> ema_warmup()(0), ema_warmup()(88), ema_warmup(0.9)(1000)
    (0.18181818181818182, 0.9090909090909091, 0.9)
    """

    limit: float = 0.9999

    def __post_init__(self) -> None:
        _take_number(self, "limit", at_least=0)

    def __call__(self, t: int) -> float:
        return min(self.limit, (2.0 + t) / (11.0 + t))


@dataclass(frozen=True)
class exponential:
    """Exponential decay: initial * exp(-decay * t), with decay >= 0 per step.

    >>> round(exponential(0.1, decay=0.01)(100), 6)
    0.036788
    """

    initial: float
    decay: float

    def __post_init__(self) -> None:
        _take_number(self, "initial")
        _take_number(self, "decay", at_least=0.0)

    def __call__(self, t: int) -> float:
        return self.initial * math.exp(-self.decay * t)


@dataclass(frozen=True)
class time_based:
    """Decay by time: initial / (1 + decay * t), with decay >= 0 per step.

    torch's AdaGrad has the same formula for its `lr_decay`, TensorFlow calls it inverse time decay.

    >>> time_based(0.1, decay=0.01)(100)
    0.05
    """

    initial: float
    decay: float

    def __post_init__(self) -> None:
        _take_number(self, "initial")
        _take_number(self, "decay", at_least=0.0)

    def __call__(self, t: int) -> float:
        return self.initial / (1.0 + self.decay * t)


@dataclass(frozen=True)
class step:
    """A staircase: initial * factor**(t // every), with factor > 0.

    torch's StepLR, whose gamma is factor and whose step_size is every.

    >>> lr = step(0.1, factor=0.5, every=10)
    >>> [lr(t) for t in (0, 9, 10, 20)]
    [0.1, 0.1, 0.05, 0.025]
    """

    initial: float
    factor: float
    every: int

    def __post_init__(self) -> None:
        _take_number(self, "initial")
        _take_number(self, "factor", above=0.0)
        _take_count(self, "every")

    def __call__(self, t: int) -> float:
        return self.initial * self.factor ** (t // self.every)


@dataclass(frozen=True)
class polynomial:
    """Polynomial decay: (initial - final) * (1 - t/steps)**power + final, then final.

    optax's polynomial_schedule; torch's PolynomialLR is the case final = 0.

    >>> lr = polynomial(0.1, final=0.0, steps=100, power=2.0)
    >>> [lr(t) for t in (0, 50, 100, 1000)]
    [0.1, 0.025, 0.0, 0.0]
    """

    initial: float
    final: float
    steps: int
    power: float = 1.0

    def __post_init__(self) -> None:
        _take_number(self, "initial")
        _take_number(self, "final")
        _take_count(self, "steps")
        _take_number(self, "power", above=0.0)

    def __call__(self, t: int) -> float:
        left = 1.0 - min(t, self.steps) / self.steps
        return _between(self.final, self.initial, left**self.power)


@dataclass(frozen=True)
class cosine:
    """Half a cosine: final + (initial - final) * (1 + cos(pi*t/steps)) / 2, then final.

    Loshchilov & Hutter 2017, SGDR, equation 5, without restarts; torch's CosineAnnealingLR, whose
    T_max is steps and whose eta_min is final, up to T_max.

    >>> lr = cosine(0.1, steps=100, final=0.02)
    >>> [round(lr(t), 6) for t in (0, 50, 100, 1000)]
    [0.1, 0.06, 0.02, 0.02]
    """

    initial: float
    steps: int
    final: float = 0.0

    def __post_init__(self) -> None:
        _take_number(self, "initial")
        _take_count(self, "steps")
        _take_number(self, "final")

    def __call__(self, t: int) -> float:
        return _cosine_between(self.initial, self.final, min(t, self.steps) / self.steps)


@dataclass(frozen=True)
class one_cycle:
    """Up to the peak and down to almost nothing, each by half a cosine.

    From start = peak / div_factor at step 0 to peak at step top = pct_start*steps - 1, then to
    start / final_div_factor at step steps - 1, the last one; later steps keep that value. The top
    lies between two steps if pct_start*steps is not an integer.

    Smith & Topin 2018, Super-Convergence, in the form and with the defaults of torch's OneCycleLR
    (max_lr is peak, total_steps is steps, anneal_strategy="cos").

    >>> lr = one_cycle(0.1, steps=100)
    >>> [round(lr(t), 9) for t in (0, 29, 99, 1000)]
    [0.004, 0.1, 4e-07, 4e-07]
    """

    peak: float
    steps: int
    pct_start: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4

    def __post_init__(self) -> None:
        _take_number(self, "peak")
        _take_count(self, "steps")
        _take_number(self, "pct_start")
        _take_number(self, "div_factor", above=0.0)
        _take_number(self, "final_div_factor", above=0.0)
        if not 1.0 < self.pct_start * self.steps < self.steps:
            raise ValueError(
                f"one_cycle: pct_start is {self.pct_start!r} of steps = {self.steps}, expected"
                f" more than one step up and some steps down; take more steps or a pct_start"
                f" between 1/steps and 1"
            )

    def __call__(self, t: int) -> float:
        start = self.peak / self.div_factor
        top = self.pct_start * self.steps - 1.0
        last = self.steps - 1
        if t <= top:
            return _cosine_between(start, self.peak, t / top)
        fraction = (min(t, last) - top) / (last - top)
        return _cosine_between(self.peak, start / self.final_div_factor, fraction)


@dataclass(frozen=True)
class linear_warmup:
    """A straight line: initial + (final - initial) * t/steps, then final.

    optax's linear_schedule. `join` lets a decay follow it.

    >>> lr = linear_warmup(0.0, final=0.1, steps=4)
    >>> [lr(t) for t in (0, 1, 2, 4, 1000)]
    [0.0, 0.025, 0.05, 0.1, 0.1]
    """

    initial: float
    final: float
    steps: int

    def __post_init__(self) -> None:
        _take_number(self, "initial")
        _take_number(self, "final")
        _take_count(self, "steps")

    def __call__(self, t: int) -> float:
        return _between(self.initial, self.final, min(t, self.steps) / self.steps)


@dataclass(frozen=True)
class join:
    """One schedule after another: schedules[i] from step boundaries[i-1] on.

    There is one boundary fewer than schedules, and each schedule counts its own steps from 0, as
    in optax's join_schedules.

    >>> lr = join([linear_warmup(0.0, 0.1, steps=10), cosine(0.1, steps=90)], boundaries=[10])
    >>> [round(lr(t), 6) for t in (0, 5, 10, 55, 100)]
    [0.0, 0.05, 0.1, 0.05, 0.0]
    """

    schedules: Sequence[Callable[[int], float]]
    boundaries: Sequence[int]

    def __post_init__(self) -> None:
        _take_tuple(self, "schedules")
        _take_tuple(self, "boundaries")
        for i, schedule in enumerate(self.schedules):
            if not callable(schedule):
                raise TypeError(
                    f"join: schedules[{i}] is {schedule!r}, expected a callable of the number of"
                    f" completed steps; a fixed value is written constant({schedule!r})"
                )
        if len(self.schedules) != len(self.boundaries) + 1:
            raise ValueError(
                f"join: boundaries has {len(self.boundaries)} entries for {len(self.schedules)}"
                f" schedules, expected one boundary between each two schedules"
            )
        boundaries = tuple(_count("join", "boundaries", b) for b in self.boundaries)
        if any(a >= b for a, b in pairwise(boundaries)):
            raise ValueError(f"join: boundaries is {list(boundaries)}, expected increasing counts")
        object.__setattr__(self, "boundaries", boundaries)

    def __call__(self, t: int) -> float:
        passed = sum(boundary <= t for boundary in self.boundaries)
        start = self.boundaries[passed - 1] if passed else 0
        return self.schedules[passed](t - start)


def _between(start: float, end: float, fraction: float) -> float:
    """Linear interpolation, written so that both ends are met exactly."""
    return (1.0 - fraction) * start + fraction * end


def _cosine_between(start: float, end: float, fraction: float) -> float:
    return _between(end, start, (1.0 + math.cos(math.pi * fraction)) / 2.0)


# A frozen dataclass stores a converted argument through object.__setattr__.


def _take_number(
    schedule: object, name: str, at_least: float = -math.inf, above: float = -math.inf
) -> None:
    """Stores the argument as a float if it is a finite number within its range."""
    given, where = getattr(schedule, name), type(schedule).__name__
    if not is_real(given):
        raise TypeError(f"{where}: {name} is {given!r} ({type(given).__name__}), expected a number")
    number = as_float(given)
    if not (math.isfinite(number) and number >= at_least and number > above):
        limit = f" above {above:g}" if math.isfinite(above) else ""
        limit = f" of at least {at_least:g}" if math.isfinite(at_least) else limit
        raise ValueError(f"{where}: {name} is {given!r}, expected a finite number{limit}")
    object.__setattr__(schedule, name, number)


def _take_count(schedule: object, name: str) -> None:
    count = _count(type(schedule).__name__, name, getattr(schedule, name))
    object.__setattr__(schedule, name, count)


def _take_tuple(schedule: object, name: str) -> None:
    given, where = getattr(schedule, name), type(schedule).__name__
    if not isinstance(given, list | tuple):
        raise TypeError(f"{where}: {name} is {given!r}, expected a list or a tuple")
    object.__setattr__(schedule, name, tuple(given))


def _count(where: str, name: str, given: Any) -> int:
    if not is_real(given) or not hasattr(given, "__index__"):
        kind = type(given).__name__
        raise TypeError(
            f"{where}: {name} is {given!r} ({kind}), expected an int, a number of steps"
        )
    if not 1 <= given < 2**53:  # a float holds each of these exactly
        raise ValueError(f"{where}: {name} is {given!r}, expected at least 1 step, below 2**53")
    return operator.index(given)
