"""scikit-learn's MLPClassifier on images, and on sparse text, whose gradients are dense."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, TypeVar
from warnings import catch_warnings, simplefilter

from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.neural_network import MLPClassifier
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer

from cyopt.integrations.sklearn import accelerate

from .data import digits, reviews
from .rows import Row, Shape, Side, drawn, perceptron

# float64 has the same bits, and so has "sgd". For float32 "adam", scikit-learn computes the last
# part of a step in float64, and the fits drift apart.
TOLERANCE = {("adam", "float32"): 1e-3}
OPTIMIZERS = {"adam": AdamOptimizer, "sgd": SGDOptimizer}
T = TypeVar("T")


@cache
def text(features: int, dtype: str) -> tuple[Any, Any]:
    """TF-IDF of sequences of one to three characters, and the labels."""
    texts, labels = reviews()
    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), max_features=features)
    return vectorizer.fit_transform(texts).astype(dtype), labels


def accelerated(function: Callable[[], T]) -> Callable[[], T]:
    """The same function while cyopt takes the steps."""

    def call() -> T:
        with accelerate():
            return function()

    return call


def sides(
    data: Callable[[], Any], dtype: str, shapes: Sequence[Shape], steps: int, arguments: Any
) -> tuple[Side, Side]:
    """A fit from its beginning, and steps of a new optimizer."""
    x, y = data()

    def fit() -> float:
        with catch_warnings():
            simplefilter("ignore", ConvergenceWarning)  # a few epochs are enough to time
            return float(MLPClassifier(random_state=0, **arguments).fit(x, y).loss_)

    params, grads = drawn(shapes, dtype, 0), drawn(shapes, dtype, 1)
    optimizer = OPTIMIZERS[arguments["solver"]](params)

    def step() -> None:
        for _ in range(steps):
            optimizer.update_params(params, grads)

    return Side(fit, step), Side(accelerated(fit), accelerated(step))


def row(
    task: str, data: Callable[[str], Any], widths: Sequence[int], dtype: str, steps: int,
    **arguments: Any,
) -> Row:  # fmt: skip
    """A classifier with these widths."""
    solver, shapes = arguments["solver"], perceptron(widths)
    arguments["hidden_layer_sizes"] = widths[1:-1]
    tolerance = TOLERANCE.get((solver, dtype), 0.0)
    make = partial(sides, partial(data, dtype), dtype, shapes, steps, arguments)
    return Row("scikit-learn", f"{task}, {solver} {dtype}", shapes, tolerance, make, steps)


DTYPES = ("float32", "float64")
ROWS = [
    *(
        row("digits", digits, (64, 256, 128, 10), dtype, 20, solver=solver, batch_size=64,
            max_iter=10)
        for solver in OPTIMIZERS for dtype in DTYPES
    ),
    *(
        row("reviews", partial(text, features), (features, 100, 1), dtype, 1, solver="adam",
            batch_size=200, max_iter=1)
        for features in (20_000, 60_000) for dtype in DTYPES
    ),
]  # fmt: skip
