"""A rule over a workload in one dtype: the arrays, and the result that some steps must give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

import cyopt
from cyopt.bench.workloads import Workload
from cyopt.optimizer import Optimizer
from cyopt.rules import RULES as FORMULAS

Array = np.ndarray[Any, Any]

LR = 1e-3
# The gradients of the checked steps, as multiples of the timed ones: another sign, and a size after
# which second moments shrink. With equal gradients Adam's update is the sign of the gradient, and
# amsgrad's is Adam's.
CHECKED_STEPS = (1.0, -0.01, 0.01)
_PERIOD = 1 << 20  # numbers drawn; longer arrays repeat them
_BLOCK = 1 << 16  # elements at a time in the reference, so that its temporaries fit a cache


class Rule(NamedTuple):
    """A row of `cyopt.rules.RULES` as a user chooses it."""

    name: str
    cls: Callable[..., Optimizer]
    arguments: Mapping[str, Any]

    @property
    def streams(self) -> int:
        """Arrays read plus arrays written: parameter and state count twice."""
        return 3 + 2 * sum(1 for state in FORMULAS[self.name].state if state)

    def optimizer(self, params: Sequence[Any]) -> Optimizer:
        """A new optimizer of this rule."""
        return self.cls(params, lr=LR, **self.arguments)


RULES = {
    rule.name: rule
    for rule in (
        Rule("sgd", cyopt.SGD, {}),
        Rule("momentum", cyopt.Momentum, {}),
        Rule("nesterov", cyopt.Momentum, {"nesterov": True}),
        Rule("adagrad", cyopt.AdaGrad, {}),
        Rule("rmsprop", cyopt.RMSProp, {}),
        Rule("rmsprop_centered", cyopt.RMSProp, {"centered": True}),
        Rule("rmsprop_momentum", cyopt.RMSProp, {"momentum": 0.9}),
        Rule("rmsprop_centered_momentum", cyopt.RMSProp, {"centered": True, "momentum": 0.9}),
        Rule("adam", cyopt.Adam, {}),
        Rule("amsgrad", cyopt.Adam, {"amsgrad": True}),
    )
}


class Case:
    """Parameters and gradients that all implementations share, and the right result.

    `params` are the arrays that implementations update; `reset` gives them their first values.
    """

    def __init__(self, rule: Rule, dtype: str, workload: Workload) -> None:
        self.rule, self.dtype, self.workload = rule, np.dtype(dtype), workload
        random = np.random.default_rng(0)
        drawn = random.standard_normal((2, min(workload.elements, _PERIOD))).astype(dtype)
        # Positive: the traffic twin adds it to second moments, whose root must stay a number.
        self._start, self._gradient = drawn[0], abs(drawn[1])
        self.params = [np.empty(shape, dtype) for shape in workload.shapes]
        self.grads = [np.empty(shape, dtype) for shape in workload.shapes]
        self.reset()
        optimizer = cyopt.reference.attach(rule.optimizer(blocks(self.params)))
        for factor in CHECKED_STEPS:
            self.scale_grads(factor)
            optimizer.step(blocks(self.grads))
        self.expected = [param.copy() for param in self.params]
        self.reset()
        self._change = largest_difference(self.expected, self.params)

    def __str__(self) -> str:
        return f"{self.rule.name} {self.dtype.name} {self.workload.name}"

    def reset(self) -> None:
        """Give the parameters and gradients their first values."""
        fill(self.params, self._start)
        self.scale_grads(1.0)

    def scale_grads(self, factor: float) -> None:
        """Make the gradients `factor` times their first values."""
        fill(self.grads, self.dtype.type(factor) * self._gradient)

    @property
    def bytes(self) -> int:
        """The bytes that one step reads and writes."""
        return self.rule.streams * self.dtype.itemsize * self.workload.elements

    def error(self, params: Sequence[Array]) -> float:
        """The largest deviation from the expected parameters, relative to the largest change."""
        return largest_difference(params, self.expected) / self._change

    def same_bits(self, params: Sequence[Array]) -> bool:
        """Whether these are exactly the expected parameters."""
        return all(map(np.array_equal, params, self.expected))


def fill(arrays: Sequence[Array], values: Array) -> None:
    """Fill each array with `values`, repeated as often as needed."""
    for array in arrays:
        flat = array.reshape(-1)
        for i in range(0, flat.size, values.size):
            flat[i : i + values.size] = values[: flat.size - i]


def blocks(arrays: Sequence[Array]) -> list[Array]:
    """Views of all elements in the order of the arrays, at most `_BLOCK` each."""
    return [
        array.reshape(-1)[i : i + _BLOCK] for array in arrays for i in range(0, array.size, _BLOCK)
    ]


def largest_difference(a: Sequence[Array], b: Sequence[Array]) -> float:
    """The maximum of |a - b| over all elements; NaN if there is one."""
    pairs = zip(blocks(a), blocks(b), strict=True)
    return float(np.max([np.abs(x - y).max() for x, y in pairs]))
