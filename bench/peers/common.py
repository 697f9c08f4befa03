"""What the peers share: memory for state, numbers, and the subject that counts its own steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from cyopt.bench.cases import LR, Array, Case
from cyopt.bench.implementations import Subject
from cyopt.rules import RULES as FORMULAS

MU, BETA1, BETA2, ALPHA = 0.9, 0.9, 0.999, 0.99
EPS, ADAGRAD_EPS = 1e-8, 1e-10


def adam_scalars(t: int) -> tuple[float, float]:
    """The scalars of step t, from 1: lr / (1 - beta1^t), and 1 / sqrt(1 - beta2^t)."""
    return LR / (1 - BETA1**t), 1 / math.sqrt(1 - BETA2**t)


def flat(arrays: Sequence[Array]) -> list[Array]:
    """One-dimensional views."""
    return [array.reshape(-1) for array in arrays]


_states: WeakKeyDictionary[Case, list[list[Array]]] = WeakKeyDictionary()


def arrays(case: Case) -> list[list[Array]]:
    """Lists of flat arrays: parameters, gradients, then each state of the rule.

    The peers that take state as NumPy arrays share it, as they share parameters and gradients: a
    step takes the same time from any state, and large models fit in memory.
    """
    params = flat(case.params)
    if case not in _states:
        names = [name for name in FORMULAS[case.rule.name].state if name]
        _states[case] = [[np.zeros_like(param) for param in params] for _ in names]
    return [params, flat(case.grads), *_states[case]]


def clear(case: Case) -> None:
    """Make the state zero."""
    for state in _states[case]:
        for array in state:
            array.fill(0)


def counted(
    case: Case,
    name: str,
    statement: str,
    names: dict[str, Any],
    threads: int = 1,
    prepare: Callable[[], Any] = lambda: None,
) -> Subject:
    """A subject over `arrays(case)` whose statement takes the number of its step by `next(t)`."""

    def start() -> None:
        names["t"] = count(1)
        clear(case)

    return Subject(name, statement, names, threads, start, prepare, lambda: case.params)
