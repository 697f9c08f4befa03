"""Numba: each formula as a loop, compiled."""

# ruff: noqa: D103  (the code is the formula)

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from math import sqrt
from typing import Any

import numba
from numba import njit, prange
from numba.typed import List

from cyopt.bench.cases import LR, Array, Case
from cyopt.bench.implementations import Implementation, Subject

from .common import ADAGRAD_EPS, ALPHA, BETA1, BETA2, EPS, MU, arrays, counted

# Each takes a parameter, its gradient, its state in the order of cyopt.rules.RULES, and the step
# from 1. Scalars are cast, since a float64 would make the whole line float64. Stored values are not
# read back: that takes 2.6 times as long where arrays are not aligned to a cache line.
# `prange` is `range` unless compiled with parallel=True.


def sgd(p: Array, g: Array, t: int) -> None:
    lr = p.dtype.type(LR)
    for i in prange(p.size):
        p[i] -= lr * g[i]


def momentum(p: Array, g: Array, v: Array, t: int) -> None:
    cast = p.dtype.type
    lr, mu = cast(LR), cast(MU)
    for i in prange(p.size):
        vi = mu * v[i] + g[i]
        v[i] = vi
        p[i] -= lr * vi


def nesterov(p: Array, g: Array, v: Array, t: int) -> None:
    cast = p.dtype.type
    lr, mu = cast(LR), cast(MU)
    for i in prange(p.size):
        gi = g[i]
        vi = mu * v[i] + gi
        v[i] = vi
        p[i] -= lr * (gi + mu * vi)


def adagrad(p: Array, g: Array, h: Array, t: int) -> None:
    cast = p.dtype.type
    lr, eps = cast(LR), cast(ADAGRAD_EPS)
    for i in prange(p.size):
        gi = g[i]
        hi = h[i] + gi * gi
        h[i] = hi
        p[i] -= lr * gi / (sqrt(hi) + eps)


def rmsprop(p: Array, g: Array, v: Array, t: int) -> None:
    cast = p.dtype.type
    lr, a, b, eps = cast(LR), cast(ALPHA), cast(1 - ALPHA), cast(EPS)
    for i in prange(p.size):
        gi = g[i]
        vi = a * v[i] + b * gi * gi
        v[i] = vi
        p[i] -= lr * gi / (sqrt(vi) + eps)


def rmsprop_centered(p: Array, g: Array, v: Array, q: Array, t: int) -> None:
    cast = p.dtype.type
    lr, a, b, eps, zero = cast(LR), cast(ALPHA), cast(1 - ALPHA), cast(EPS), cast(0)
    for i in prange(p.size):
        gi = g[i]
        vi = a * v[i] + b * gi * gi
        qi = a * q[i] + b * gi
        v[i], q[i] = vi, qi
        p[i] -= lr * gi / (sqrt(max(zero, vi - qi * qi)) + eps)


def rmsprop_momentum(p: Array, g: Array, v: Array, u: Array, t: int) -> None:
    cast = p.dtype.type
    lr, mu, a, b, eps = cast(LR), cast(MU), cast(ALPHA), cast(1 - ALPHA), cast(EPS)
    for i in prange(p.size):
        gi = g[i]
        vi = a * v[i] + b * gi * gi
        ui = mu * u[i] + gi / (sqrt(vi) + eps)
        v[i], u[i] = vi, ui
        p[i] -= lr * ui


def rmsprop_centered_momentum(p: Array, g: Array, v: Array, q: Array, u: Array, t: int) -> None:
    cast = p.dtype.type
    lr, mu, a, b = cast(LR), cast(MU), cast(ALPHA), cast(1 - ALPHA)
    eps, zero = cast(EPS), cast(0)
    for i in prange(p.size):
        gi = g[i]
        vi = a * v[i] + b * gi * gi
        qi = a * q[i] + b * gi
        ui = mu * u[i] + gi / (sqrt(max(zero, vi - qi * qi)) + eps)
        v[i], q[i], u[i] = vi, qi, ui
        p[i] -= lr * ui


def adam(p: Array, g: Array, m: Array, v: Array, t: int) -> None:
    cast = p.dtype.type
    b1, c1, b2, c2, eps = cast(BETA1), cast(1 - BETA1), cast(BETA2), cast(1 - BETA2), cast(EPS)
    step, r = cast(LR / (1 - BETA1**t)), cast(1 / sqrt(1 - BETA2**t))
    for i in prange(p.size):
        gi = g[i]
        mi = b1 * m[i] + c1 * gi
        vi = b2 * v[i] + c2 * gi * gi
        m[i], v[i] = mi, vi
        p[i] -= step * mi / (sqrt(vi) * r + eps)


def amsgrad(p: Array, g: Array, m: Array, v: Array, x: Array, t: int) -> None:
    cast = p.dtype.type
    b1, c1, b2, c2, eps = cast(BETA1), cast(1 - BETA1), cast(BETA2), cast(1 - BETA2), cast(EPS)
    step, r = cast(LR / (1 - BETA1**t)), cast(1 / sqrt(1 - BETA2**t))
    for i in prange(p.size):
        gi = g[i]
        mi = b1 * m[i] + c1 * gi
        vi = b2 * v[i] + c2 * gi * gi
        xi = max(x[i], vi)
        m[i], v[i], x[i] = mi, vi, xi
        p[i] -= step * mi / (sqrt(xi) * r + eps)


FORMULAS: dict[str, Callable[..., None]] = {
    formula.__name__: formula
    for formula in (
        sgd,
        momentum,
        nesterov,
        adagrad,
        rmsprop,
        rmsprop_centered,
        rmsprop_momentum,
        rmsprop_centered_momentum,
        adam,
        amsgrad,
    )
}


@cache
def compiled(rule: str, parallel: bool) -> Any:
    """The formula. Without error_model="numpy" a division checks for zero and is not vectorised."""
    return njit(FORMULAS[rule], error_model="numpy", parallel=parallel)


@cache
def compiled_for_lists(rule: str, parallel: bool) -> Any:
    """A compiled loop over Numba's typed lists."""
    one = compiled(rule, parallel)

    @njit
    def step(lists: Any, t: int) -> None:
        for row in zip(*lists):  # noqa: B905  (Numba has no strict=)
            one(*row, t)

    return step


def loop(case: Case, threads: Sequence[int]) -> Iterable[Subject]:
    """One array: a call. More: one call with typed lists, faster from 6 arrays on.

    On several threads each array has its own parallel loop.
    """
    lists = arrays(case)
    for n in threads:
        prepare = partial(numba.set_num_threads, n)
        if len(case.params) == 1:
            step = compiled(case.rule.name, n > 1)
            names = {"step": step, "arrays": [array for (array,) in lists]}
            statement = "step(*arrays, next(t))"
        else:
            step = compiled_for_lists(case.rule.name, n > 1)
            names = {"step": step, "lists": tuple(map(List, lists))}
            statement = "step(lists, next(t))"
        yield counted(case, "Numba", statement, names, n, prepare)


PEERS: list[Implementation] = [loop]
