"""autograd's adam, which has no separate step: its loop with gradients that cost nothing."""

from __future__ import annotations

from typing import Any

import autograd.numpy as np
from autograd import grad
from autograd.misc import optimizers

from cyopt.integrations import autograd as ours

from .data import batches, digits
from .rows import Row, Side, drawn, perceptron

SHAPES = perceptron((64, 256, 128, 10))
STEPS = 20
# Another order of operations: each step rounds elsewhere.
TOLERANCE = 1e-9


def loss(params: Any, images: Any, labels: Any) -> Any:
    """The mean cross-entropy of a perceptron with tanh."""
    x = images
    for i, layer in enumerate(params):
        x = np.dot(np.tanh(x) if i else x, layer["w"]) + layer["b"]
    x = x - np.max(x, axis=1, keepdims=True)
    of_labels = x[np.arange(len(labels)), labels]
    return np.mean(np.log(np.sum(np.exp(x), axis=1)) - of_labels)


def side(adam: Any) -> Side:
    """Training and steps by one of the two functions."""
    images, labels = digits("float64")
    shown = list(batches(epochs=5))
    start, grads = layers(0), layers(1)

    def gradient(params: Any, i: int) -> Any:
        return grad(loss)(params, images[shown[i]], labels[shown[i]])

    def train() -> float:
        return float(loss(adam(gradient, start, num_iters=len(shown)), images, labels))

    return Side(train, lambda: adam(lambda params, i: grads, start, num_iters=STEPS))


def layers(seed: int) -> list[dict[str, Any]]:
    """Parameters or gradients, a dictionary for each layer."""
    arrays = drawn(SHAPES, "float64", seed)
    half = len(arrays) // 2
    return [{"w": w, "b": b} for w, b in zip(arrays[:half], arrays[half:], strict=True)]


ROWS = [
    Row("autograd", "digits, adam float64", SHAPES, TOLERANCE,
        lambda: (side(optimizers.adam), side(ours.adam)), STEPS)
]  # fmt: skip
