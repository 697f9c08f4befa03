"""A training loop that Numba compiles: with an Adam that is a loop, and with cyopt's update."""

from __future__ import annotations

from functools import partial
from math import sqrt
from typing import Any

import numpy as np
from numba import njit

import cyopt
from cyopt.integrations.numba import hyper, update

from .data import BATCH, digits
from .rows import Array, Row, Side, drawn, perceptron

HIDDEN = 256
SHAPES = perceptron((64, HIDDEN, 10))
STEPS, EPOCHS = 20, 5
LR, BETA1, BETA2, EPS = 1e-3, 0.9, 0.999, 1e-8
# Another order of operations: each step rounds elsewhere.
TOLERANCE = {"float32": 1e-3, "float64": 1e-9}


@njit(error_model="numpy")
def loop(numbers: Any, t: int, param: Array, grad: Array, state: tuple[Array, Array]) -> None:
    """Adam over the elements. Stored values are not read back from the array: that is slower."""
    p, g, m, v = param.ravel(), grad.ravel(), state[0].ravel(), state[1].ravel()
    cast = p.dtype.type  # a float64 would make the whole line float64
    b1, c1, b2, c2, eps = cast(BETA1), cast(1 - BETA1), cast(BETA2), cast(1 - BETA2), cast(EPS)
    step, r = cast(LR / (1 - BETA1**t)), cast(1 / sqrt(1 - BETA2**t))
    for i in range(p.size):
        gi = g[i]
        mi = b1 * m[i] + c1 * gi
        vi = b2 * v[i] + c2 * gi * gi
        m[i], v[i] = mi, vi
        p[i] -= step * mi / (sqrt(vi) * r + eps)


@njit
def cyopts(numbers: Any, t: int, param: Array, grad: Array, state: tuple[Array, Array]) -> None:
    """The same by cyopt."""
    update(numbers, t, param, grad, state)


def compiled(adam: Any) -> tuple[Any, Any]:
    """A training and some steps, with one of the two."""

    @njit(error_model="numpy")
    def train(x, y, params, states, numbers):  # type: ignore[no-untyped-def]
        w1, w2, b1, b2 = params
        of_w1, of_w2, of_b1, of_b2 = states
        loss, t = 0.0, 0
        for _ in range(EPOCHS):
            loss = 0.0
            for first in range(0, len(x) - BATCH + 1, BATCH):
                batch, labels = x[first : first + BATCH], y[first : first + BATCH]
                hidden = np.maximum(np.dot(batch, w1) + b1, 0).astype(x.dtype)
                error = np.exp(np.dot(hidden, w2) + b2)
                for i in range(BATCH):
                    error[i] /= error[i].sum()
                    loss -= np.log(error[i, labels[i]])
                    error[i, labels[i]] -= 1
                error /= error.dtype.type(BATCH)
                back = np.dot(error, w2.T) * (hidden > 0)
                t += 1
                adam(numbers, t, w1, np.dot(batch.T, back), of_w1)
                adam(numbers, t, b1, back.sum(axis=0), of_b1)
                adam(numbers, t, w2, np.dot(hidden.T, error), of_w2)
                adam(numbers, t, b2, error.sum(axis=0), of_b2)
        return loss / len(x)

    @njit
    def step(params, grads, states, numbers):  # type: ignore[no-untyped-def]
        for t in range(1, STEPS + 1):
            adam(numbers, t, params[0], grads[0], states[0])
            adam(numbers, t, params[1], grads[1], states[1])
            adam(numbers, t, params[2], grads[2], states[2])
            adam(numbers, t, params[3], grads[3], states[3])

    return train, step


def side(adam: Any, dtype: str) -> Side:
    """Training and steps by one of the two."""
    train, step = compiled(adam)
    images, labels = digits(dtype)
    numbers = hyper(cyopt.Adam(lr=LR, betas=(BETA1, BETA2), eps=EPS), dtype)

    def fresh() -> Any:
        params = tuple(drawn(SHAPES, dtype, 0))
        return params, tuple((np.zeros_like(p), np.zeros_like(p)) for p in params)

    def fit() -> float:
        params, states = fresh()
        return float(train(images, labels, params, states, numbers))

    params, states = fresh()
    grads = tuple(drawn(SHAPES, dtype, 1))
    return Side(fit, lambda: step(params, grads, states, numbers))


def sides(dtype: str) -> tuple[Side, Side]:
    """The loop, and cyopt."""
    return side(loop, dtype), side(cyopts, dtype)


ROWS = [
    Row("Numba, a loop", f"digits, Adam {dtype}", SHAPES, TOLERANCE[dtype], partial(sides, dtype),
        STEPS)
    for dtype in ("float32", "float64")
]  # fmt: skip
