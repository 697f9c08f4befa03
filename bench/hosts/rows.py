"""What is compared: a training with a host's own optimizer, and the same with cyopt's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]


class Side(NamedTuple):
    """One of the two optimizers at work."""

    train: Callable[[], float]  # from the same start each time; returns the final loss
    step: Callable[[], object]  # the row's `steps` of the optimizer alone


class Row(NamedTuple):
    """A line of the table."""

    own: str  # what cyopt is compared with
    task: str
    shapes: Sequence[Shape]  # of the parameters
    tolerance: float  # how far apart the two losses may be, relative to the loss
    sides: Callable[[], tuple[Side, Side]]  # the host's own, and cyopt's
    steps: int = 20  # so many that their fixed costs do not matter

    @property
    def numbers(self) -> int:
        """The number of elements of all parameters."""
        return sum(map(prod, self.shapes))


def perceptron(widths: Sequence[int]) -> list[Shape]:
    """The shapes of a multi-layer perceptron: all weights, then all biases."""
    return [*pairwise(widths), *((width,) for width in widths[1:])]


def drawn(shapes: Sequence[Shape], dtype: str, seed: int) -> list[Array]:
    """Arrays of small random numbers: parameters, or gradients where no backward pass is timed."""
    random = np.random.default_rng(seed)
    return [(0.1 * random.standard_normal(shape)).astype(dtype) for shape in shapes]
