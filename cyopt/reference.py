"""The rules of `cyopt.rules` run by NumPy: what the C kernels are compared with.

>>> import numpy as np, cyopt
>>> w, dw = np.ones(3), np.array([1.0, -2.0, 0.5])
>>> opt = cyopt.reference.attach(cyopt.Adam([w], lr=0.1))
>>> opt.step([dw])
True
>>> w
array([0.9, 1.1, 0.9])
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from cyopt import rules
from cyopt.arrays import Array, Written
from cyopt.hyper import Hyper

Counts = np.ndarray[Any, np.dtype[np.int64]]

if TYPE_CHECKING:
    from cyopt.optimizer import Optimizer

    Opt = TypeVar("Opt", bound=Optimizer)


def attach(optimizer: Opt) -> Opt:
    """Make `optimizer` run on NumPy and `cyopt.rules`; returns it. Slow, and the same bits."""
    optimizer.use_plan(Plan)
    return optimizer


def round_scalars(scalars: dict[str, Any], dtype: np.dtype[Any]) -> SimpleNamespace:
    """The scalars as a kernel of `dtype` sees them, each rounded once."""
    real = dtype.type
    numbers = {name: real(x) for name, x in scalars.items() if name not in ("rule", "coupled")}
    return SimpleNamespace(**numbers, zero=real(0))


def update(
    param: Array, grad: Array, state: Sequence[Array | None], scalars: dict[str, Any]
) -> None:
    """One array, in place: load, prologue, rule, store."""
    rule = rules.RULES[scalars["rule"]]
    h = round_scalars(scalars, param.dtype)
    # A 0-d operand would be weaker than the scalars' dtype under NumPy 1.
    p, g = np.atleast_1d(param), np.atleast_1d(grad)
    slots = [None if s is None else np.atleast_1d(s) for s in state[: len(rule.state)]]
    with np.errstate(all="ignore"):
        g = rules.prologue(p, g, h, scalars["coupled"])
        new = rule.function(p, g, *slots, h, **rule.flags)
    for old, value in zip([p, *slots], new, strict=True):
        if old is not None:
            old[...] = value


class Plan:
    """The plan of `cyopt._cpu`, in NumPy: what one step over a list of parameters does."""

    team = 1

    def __init__(
        self,
        params: Sequence[Array],
        states: Sequence[Sequence[Array | None]],
        group_of: Sequence[int],
        counts: Counts,
        steps: Counts,
        written: Written,
        keyed: bool = False,
    ) -> None:
        self._params, self._states, self._group_of = params, states, group_of
        self._counts, self._steps, self._keyed = counts, steps, keyed
        self._hypers: Sequence[Hyper] = ()

    def set_hypers(self, hypers: Sequence[Hyper], versions: object = None) -> None:
        """What the groups use from the next step on."""
        self._hypers = hypers

    def again(self, gate: object, params: Any, grads: Any, node: object) -> bool:
        """Never: for the reference everything is checked in full at each step."""
        return False

    def same_params(self, params: Sequence[Any]) -> bool:
        """Never, likewise."""
        return False

    def run(self, grads: Sequence[Array | None]) -> None:
        """One step; None skips a parameter. Then the counters."""
        now = int(self._counts[0] if self._keyed else self._steps[0]) + 1
        for i, grad in enumerate(grads):
            if grad is None:
                continue
            scalars = rules.prepare(self._hypers[self._group_of[i]], int(self._counts[i]) + 1)
            update(self._params[i], grad, self._states[i], scalars)
        for i, grad in enumerate(grads):
            self._counts[i] += grad is not None
        self._steps[0] = max(self._steps[0], now)
