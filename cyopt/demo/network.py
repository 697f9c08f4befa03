"""A multilayer perceptron in plain NumPy: ReLU layers, softmax and the mean cross-entropy.

Parameters are a dict: layer i computes activation @ w{i} + b{i}, with w{i} of shape (inputs,
outputs). Gradients are fresh arrays at every step: the formulas stay legible, it is how most NumPy
code does it, and no optimizer here needs them at a fixed address.
"""

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Arrays = dict[str, Array]


def initial_parameters(widths: list[int], dtype: str, seed: int) -> Arrays:
    """He et al. 2015: w ~ N(0, 2/inputs), b = 0."""
    random = np.random.default_rng(seed)
    params = {}
    for i, (inputs, outputs) in enumerate(pairwise(widths), start=1):
        w = random.normal(0.0, np.sqrt(2.0 / inputs), (inputs, outputs))
        params[f"w{i}"] = w.astype(dtype)
        params[f"b{i}"] = np.zeros(outputs, dtype)
    return params


def forward(params: Arrays, images: Array) -> list[Array]:
    """The images and the output of each layer; the last one holds the logits."""
    depth = len(params) // 2
    outputs = [images]
    for i in range(1, depth + 1):
        z = outputs[-1] @ params[f"w{i}"] + params[f"b{i}"]
        outputs.append(np.maximum(z, 0) if i < depth else z)
    return outputs


def loss_and_gradients(params: Arrays, images: Array, labels: Array) -> tuple[float, Arrays]:
    """Mean over the batch of -log(softmax(logits)[label]), and its gradient."""
    *inputs, logits = forward(params, images)
    rows = np.arange(len(labels))
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    loss = -float(log_p[rows, labels].mean())

    delta = np.exp(log_p)  # d loss / d logits = (softmax - one_hot) / batch
    delta[rows, labels] -= 1
    delta /= len(labels)
    grads = {}
    for i in range(len(inputs), 0, -1):
        grads[f"w{i}"] = inputs[i - 1].T @ delta
        grads[f"b{i}"] = delta.sum(axis=0)
        if i > 1:
            delta = (delta @ params[f"w{i}"].T) * (inputs[i - 1] > 0)
    return loss, grads


def accuracy(params: Arrays, images: Array, labels: Array) -> float:
    """The share of images whose largest logit is at their label."""
    return float((forward(params, images)[-1].argmax(axis=1) == labels).mean())
