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

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from cyopt import rules
from cyopt.arrays import Array, Counts, Written
from cyopt.hyper import Hyper
from cyopt.measured import measurements

if TYPE_CHECKING:
    from cyopt.given import GroupSpec
    from cyopt.optimizer import Optimizer

    Opt = TypeVar("Opt", bound=Optimizer)


def attach(optimizer: Opt) -> Opt:
    """Make `optimizer` run on NumPy and `cyopt.rules`; returns it. Slow, with the same bits."""
    optimizer.use_plan(Plan)
    return optimizer


def round_scalars(scalars: dict[str, Any], dtype: np.dtype[Any]) -> SimpleNamespace:
    """The scalars as a kernel of `dtype` sees them, each rounded once."""
    real = dtype.type
    with np.errstate(all="ignore"):  # a limit beyond the dtype limits nothing
        numbers = {name: real(x) for name, x in scalars.items() if isinstance(x, float)}
    return SimpleNamespace(**numbers, zero=real(0))


def update(
    param: Array,
    grad: Array,
    state: Sequence[Array | None],
    scalars: dict[str, Any],
    average: Array | None = None,
) -> None:
    """One array, in place: load, prologue, rule, store; then its average."""
    rule = rules.RULES[scalars["rule"]]
    h = round_scalars(scalars, param.dtype)
    # A 0-d operand would be weaker than the scalars' dtype under NumPy 1.
    p, g = np.atleast_1d(param), np.atleast_1d(grad)
    slots = [None if s is None else np.atleast_1d(s) for s in state[: len(rule.state)]]
    with np.errstate(all="ignore"):
        g = rules.prologue(p, g, h, scalars["coupled"], scalars["limited"])
        new = rule.function(p, g, *slots, h, **rule.flags)
        for old, value in zip([p, *slots], new, strict=True):
            if old is not None:
                old[...] = value
        if average is not None:
            a = np.atleast_1d(average)
            a[...] = rules.average(a, p, h)


def square_sum(array: Array, param: Array, s: float = 1.0) -> float:
    """The sum of the squares of `s*array`, in the order that `param` has in memory."""
    flat = array.ravel("C" if param.flags.c_contiguous else "F")
    with np.errstate(all="ignore"):
        return rules.square_sum(array.dtype.type(s) * flat)


class Plan:
    """The plan of `cyopt._cpu`, in NumPy: what one step over a list of parameters does."""

    def __init__(
        self,
        params: Sequence[Array],
        states: Sequence[Sequence[Array | None]],
        averages: Sequence[Array | None],
        group_specs: Sequence[GroupSpec],
        group_of: Sequence[int],
        counts: Counts,
        steps: Counts,
        measured: Array,
        written: Written,
        keyed: bool = False,
    ) -> None:
        self._params, self._states, self._averages = params, states, averages
        self._group_specs, self._group_of = group_specs, group_of
        self._counts, self._steps, self._measured, self._keyed = counts, steps, measured, keyed
        self.written = written
        self._hypers: Sequence[Hyper] = ()

    def set_hypers(self, hypers: Sequence[Hyper], versions: object = None) -> None:
        """What the groups use from the next step on."""
        self._hypers = hypers

    def again(self, gate: object, params: Any, grads: Any, node: object, norms: bool) -> None:
        """Never: the reference checks everything in full at each step."""

    def same_params(self, params: Sequence[Any]) -> bool:
        """Never, likewise."""
        return False

    def run(self, grads: Sequence[Array | None], norms: bool) -> bool:
        """One step; None skips a parameter. Then the counters. False if the step was skipped."""
        now = int(self._counts[0] if self._keyed else self._steps[0]) + 1
        with np.errstate(all="ignore"):
            loaded = {
                i: grad.astype(self._params[i].dtype)
                for i, grad in enumerate(grads)
                if grad is not None
            }
        scalars = {
            i: rules.prepare(self._hypers[self._group_of[i]], int(self._counts[i]) + 1)
            for i in loaded
        }
        self._measured[:] = measurements()
        finite = self._measure(loaded, scalars, norms)
        if finite:
            before = {i: self._params[i].copy("K") for i in loaded}
            self._update(loaded, scalars)
            if norms:
                self._measure_change(before)
            for i in loaded:
                self._counts[i] += 1
            self._steps[0] = max(self._steps[0], now)
        else:
            self._measured[3] = 1.0
        for i, grad in enumerate(grads):
            if grad is not None and self._group_specs[self._group_of[i]].zero_grads:
                grad[...] = 0
        return finite

    def _measure(
        self, grads: dict[int, Array], scalars: dict[int, dict[str, Any]], norms: bool
    ) -> bool:
        """The norm of the gradients, if it is needed, and their clipping; False: skip the step."""
        if not norms and not any(
            x["skip_nonfinite"] or x["clip_norm"] != 0 for x in scalars.values()
        ):
            return True
        sums = {i: square_sum(g, self._params[i], scalars[i]["s"]) for i, g in grads.items()}
        self._measured[0] = norm = rules.norm(sums[i] for i in grads if grads[i].size)
        finite = True
        for i, grad in grads.items():
            x = scalars[i]
            with np.errstate(all="ignore"):
                scaled = np.atleast_1d(grad) * grad.dtype.type(x["s"])
            if x["skip_nonfinite"] and not np.isfinite(scaled).all():
                finite = False
            own = math.sqrt(sums[i]) if x["clip_per_array"] else norm
            x["s"] = x["s"] * rules.clip_coefficient(x, own)
        return finite

    def _update(self, grads: dict[int, Array], scalars: dict[int, dict[str, Any]]) -> None:
        for i, grad in grads.items():
            average = self._averages[i]
            from_zeros = self._group_specs[self._group_of[i]].average_from_zeros
            if average is not None and self._counts[i] == 0 and not from_zeros:
                average[...] = self._params[i]
            update(self._params[i], grad, self._states[i], scalars[i], average)

    def _measure_change(self, before: dict[int, Array]) -> None:
        """The norms of the change and of the parameters after it."""
        changes, params = [], []
        for i, old in before.items():
            new = self._params[i]
            if new.size:
                with np.errstate(all="ignore"):
                    changes.append(square_sum(np.asarray(new - old), new))
                params.append(square_sum(new, new))
        self._measured[1] = rules.norm(changes)
        self._measured[2] = rules.norm(params)
