"""torch's AdamW: its default, which walks over the tensors in Python, and the fused one."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import torch

from cyopt.integrations import torch as ours

from .data import batches, digits
from .rows import Row, Side, perceptron

STEPS = 20
# Another order of operations: each step rounds elsewhere, in float32.
TOLERANCE = 1e-3
WIDE, DEEP = (64, 256, 128, 10), (64, *[64] * 19, 10)


def network(widths: tuple[int, ...]) -> Any:
    """A perceptron with the same weights each time."""
    torch.manual_seed(0)
    layers = [
        layer for each in pairwise(widths) for layer in (torch.nn.Linear(*each), torch.nn.ReLU())
    ]
    return torch.nn.Sequential(*layers[:-1])


def side(adamw: Any, widths: tuple[int, ...]) -> Side:
    """Training and steps by one of the classes."""
    images, labels = map(torch.from_numpy, digits("float32"))

    def train() -> float:
        model = network(widths)
        optimizer = adamw(model.parameters())
        for batch in batches(epochs=5):
            optimizer.zero_grad()
            loss(model, images[batch], labels[batch]).backward()
            optimizer.step()
        return float(loss(model, images, labels).detach())

    still = network(widths)
    loss(still, images, labels).backward()
    optimizer = adamw(still.parameters())

    def step() -> None:
        for _ in range(STEPS):
            optimizer.step()

    return Side(train, step)


def loss(model: Any, images: Any, labels: Any) -> Any:
    """The mean cross-entropy."""
    return torch.nn.functional.cross_entropy(model(images), labels)


def row(own: str, widths: tuple[int, ...], **arguments: Any) -> Row:
    """AdamW of cyopt beside that of torch with these arguments."""
    task = f"digits, {len(widths) - 1} layers, AdamW float32"
    adamw = partial(torch.optim.AdamW, **arguments)
    make = lambda: (side(adamw, widths), side(ours.AdamW, widths))  # noqa: E731
    return Row(own, task, perceptron(widths), TOLERANCE, make, STEPS)


ROWS = [
    row("torch", WIDE),
    row("torch, fused", WIDE, fused=True),
    row("torch, fused", DEEP, fused=True),
]
