"""thinc's Adam with its defaults: each array is clipped to norm 1, and averages are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from thinc import api

from cyopt.integrations import thinc as ours

from .data import batches, digits
from .rows import Row, Shape, Side, drawn, perceptron

SHAPES = perceptron((64, 256, 128, 10))
STEPS = 20
# thinc rounds 1 - beta to float32, and sums the norm by its BLAS.
TOLERANCE = 1e-4


def steps_of(optimizer: Any, shapes: Sequence[Shape], steps: int) -> Callable[[], None]:
    """Steps, each after a copy of the gradients, which the optimizer sets to zero.

    Without the copy, the moments would decay to subnormal numbers while they are timed.
    """
    params, grads = drawn(shapes, "float32", 0), drawn(shapes, "float32", 1)
    lists = [
        (i, p, g, np.empty_like(g)) for i, (p, g) in enumerate(zip(params, grads, strict=True))
    ]

    def step() -> None:
        for _ in range(steps):
            for i, param, grad, given in lists:
                np.copyto(given, grad)
                optimizer((i, "W"), param, given)
            optimizer.step_schedules()

    return step


def side(adam: Any) -> Side:
    """Training and steps by one of the two classes."""
    images, labels = digits("float32")
    targets = np.eye(10, dtype="float32")[labels]

    def train() -> float:
        api.fix_random_seed(0)
        model = api.chain(api.Relu(256), api.Relu(128), api.Softmax(10))
        model.initialize(images[:5], targets[:5])
        optimizer = adam(0.001)
        for batch in batches(epochs=5):
            guess, backprop = model.begin_update(images[batch])
            backprop((guess - targets[batch]) / len(guess))
            model.finish_update(optimizer)
            optimizer.step_schedules()
        return float(((model.predict(images) - targets) ** 2).mean())

    return Side(train, steps_of(adam(0.001), SHAPES, STEPS))


ROWS = [
    Row("thinc", "digits, Adam float32", SHAPES, TOLERANCE,
        lambda: (side(api.Adam), side(ours.Adam)), STEPS)
]  # fmt: skip
