"""The digits, and the same training of the same network once for each implementation."""

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import fmean, median
from time import perf_counter_ns
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import cyopt
from cyopt.reference import attach

from . import as_written, in_place
from .network import Array, Arrays, accuracy, initial_parameters, loss_and_gradients

# The class, which has the same name in cyopt, as_written and in_place, and its arguments.
OPTIMIZERS: dict[str, tuple[str, dict[str, float]]] = {
    "sgd": ("SGD", {"lr": 0.2}),
    "momentum": ("Momentum", {"lr": 0.05}),
    "adagrad": ("AdaGrad", {"lr": 0.02}),
    "rmsprop": ("RMSProp", {"lr": 1e-3}),
    "adam": ("Adam", {"lr": 1e-3}),
    "adamw": ("AdamW", {"lr": 1e-3}),
}


@dataclass(frozen=True)
class Digits:
    """1,797 images of 8 x 8 pixels as rows of 64 numbers in [0, 1], and their digits."""

    train_images: Array
    test_images: Array
    train_labels: Array
    test_labels: Array


@dataclass
class Run:
    """One implementation at work, and what was measured of it."""

    label: str
    params: Arrays
    step: Callable[[Arrays], object]
    optimizer_ns: list[int] = field(default_factory=list)  # each call of step only
    loop_ns: list[int] = field(default_factory=list)  # with forward and backward pass
    epoch_losses: list[float] = field(default_factory=list)  # mean over the batches
    accuracy: float = 0.0

    @property
    def optimizer_us(self) -> float:
        """Median time of a step of the optimizer alone, in microseconds."""
        return median(self.optimizer_ns) / 1e3

    @property
    def loop_us(self) -> float:
        """Mean time of a whole step, in microseconds; a mean, so that no stall is hidden."""
        return fmean(self.loop_ns) / 1e3


@dataclass(frozen=True)
class Comparison:
    """One optimizer in its implementations, which start at the same parameters."""

    name: str
    arguments: dict[str, float]
    written: Run
    in_place: Run
    cyopt: Run
    reference: Run

    @property
    def runs(self) -> list[Run]:
        """All four, in the order of the table."""
        return [self.written, self.in_place, self.cyopt, self.reference]

    @property
    def steps(self) -> int:
        """Steps that each run made."""
        return len(self.cyopt.loop_ns)

    @property
    def same_bits(self) -> bool:
        """Whether cyopt and its rules in NumPy end at the same parameters, bit for bit."""
        mine, theirs = self.cyopt.params, self.reference.params
        return all(np.array_equal(mine[k], theirs[k]) for k in mine)


def load(dtype: str, seed: int) -> Digits:
    """One fifth is for testing, with the same share of each digit."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(dtype)
    return Digits(
        *train_test_split(images, labels, test_size=0.2, random_state=seed, stratify=labels)
    )


def prepare(name: str, widths: list[int], dtype: str, seed: int) -> Comparison:
    """Four networks with the same parameters, each with its optimizer."""
    class_name, arguments = OPTIMIZERS[name]

    def run(label: str, make: Callable[..., Any]) -> Run:
        params = initial_parameters(widths, dtype, seed)
        return Run(label, params, make(params, **arguments).step)

    cyopt_class = getattr(cyopt, class_name)
    return Comparison(
        class_name,
        arguments,
        run("NumPy as usually written", getattr(as_written, class_name)),
        run("NumPy without temporaries", getattr(in_place, class_name)),
        run("cyopt", cyopt_class),
        run(
            "cyopt's rules in NumPy",
            lambda params, **kw: attach(cyopt_class(params, **kw)),
        ),
    )


def train(
    comparison: Comparison,
    digits: Digits,
    epochs: int,
    batch: int,
    seed: int,
    advance: Callable[[], None],
) -> None:
    """Every run sees the same batches; runs take turns by epoch, each time another one first."""
    random = np.random.default_rng(seed)
    count = len(digits.train_labels)
    runs = comparison.runs
    for _ in range(epochs):
        batches = np.split(random.permutation(count), range(batch, count, batch))
        for run in runs:
            train_epoch(run, digits, batches)
            advance()
        runs.append(runs.pop(0))
    for run in runs:
        run.accuracy = accuracy(run.params, digits.test_images, digits.test_labels)


def train_epoch(run: Run, digits: Digits, batches: list[Array]) -> None:
    """One pass over the training images; the clock of the optimizer runs during its call only."""
    losses = []
    for batch in batches:
        start = perf_counter_ns()
        images, labels = digits.train_images[batch], digits.train_labels[batch]
        loss, grads = loss_and_gradients(run.params, images, labels)
        before = perf_counter_ns()
        run.step(grads)
        after = perf_counter_ns()
        run.optimizer_ns.append(after - before)
        run.loop_ns.append(after - start)
        losses.append(loss)
    run.epoch_losses.append(fmean(losses))
