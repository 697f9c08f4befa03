"""numexpr: the formula as strings, evaluated block by block into the arrays themselves."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np

from cyopt.bench.cases import LR, Case
from cyopt.bench.implementations import Implementation, Subject

from .common import ADAGRAD_EPS, ALPHA, BETA1, BETA2, EPS, MU, adam_scalars, arrays, counted

os.environ.setdefault("NUMEXPR_MAX_THREADS", str(os.cpu_count()))  # its default is at most 16

import numexpr

SQUARES = ("v", "alpha*v + beta*g*g")
AVERAGE = ("q", "alpha*q + beta*g")
VARIANCE = "where(v > q*q, v - q*q, 0)"
MOMENTS = [("m", "b1*m + c1*g"), ("v", "b2*v + c2*g*g")]

# rule -> names of its state in the order of cyopt.rules.RULES, and (where to, expression)
FORMULAS: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "sgd": ("", [("p", "p - lr*g")]),
    "momentum": ("v", [("v", "mu*v + g"), ("p", "p - lr*v")]),
    "nesterov": ("v", [("v", "mu*v + g"), ("p", "p - lr*(g + mu*v)")]),
    "adagrad": ("h", [("h", "h + g*g"), ("p", "p - lr*g/(sqrt(h) + tiny)")]),
    "rmsprop": ("v", [SQUARES, ("p", "p - lr*g/(sqrt(v) + eps)")]),
    "rmsprop_centered": (
        "vq",
        [SQUARES, AVERAGE, ("p", f"p - lr*g/(sqrt({VARIANCE}) + eps)")],
    ),
    "rmsprop_momentum": ("vu", [SQUARES, ("u", "mu*u + g/(sqrt(v) + eps)"), ("p", "p - lr*u")]),
    "rmsprop_centered_momentum": (
        "vqu",
        [SQUARES, AVERAGE, ("u", f"mu*u + g/(sqrt({VARIANCE}) + eps)"), ("p", "p - lr*u")],
    ),
    "adam": ("mv", [*MOMENTS, ("p", "p - step*m/(sqrt(v)*r + eps)")]),
    "amsgrad": (
        "mvx",
        [*MOMENTS, ("x", "where(x > v, x, v)"), ("p", "p - step*m/(sqrt(x)*r + eps)")],
    ),
}


def in_place(case: Case, threads: Sequence[int]) -> Iterable[Subject]:
    """`numexpr.evaluate(..., out=)` for each line of the formula and each array."""
    states, lines = FORMULAS[case.rule.name]
    cast = case.dtype.type  # a Python float would make the whole expression float64
    scalars = {
        "lr": LR,
        "mu": MU,
        "alpha": ALPHA,
        "beta": 1 - ALPHA,
        "b1": BETA1,
        "c1": 1 - BETA1,
        "b2": BETA2,
        "c2": 1 - BETA2,
        "eps": EPS,
        "tiny": ADAGRAD_EPS,
    }
    h = {name: np.asarray(cast(value)) for name, value in scalars.items()}
    of_step = {"step": np.zeros((), cast), "r": np.zeros((), cast)}
    lists = [
        {**h, **of_step, **dict(zip(["p", "g", *states], row, strict=True))}
        for row in zip(*arrays(case), strict=True)
    ]

    def step(t: int) -> None:
        of_step["step"][()], of_step["r"][()] = adam_scalars(t)
        for names in lists:
            for where, expression in lines:
                numexpr.evaluate(expression, names, {}, out=names[where])

    for n in threads:
        prepare = partial(numexpr.set_num_threads, n)
        yield counted(case, "numexpr", "step(next(t))", {"step": step}, n, prepare)


PEERS: list[Implementation] = [in_place]
