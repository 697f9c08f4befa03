"""What is updated: single arrays by size, and the parameter lists of real architectures."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

Shape = tuple[int, ...]

SIZES = (100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 40_000_000)


class Workload(NamedTuple):
    """A list of parameters."""

    name: str
    shapes: list[Shape]

    @property
    def elements(self) -> int:
        """The numbers in all its arrays."""
        return sum(map(math.prod, self.shapes))

    @property
    def is_model(self) -> bool:
        """Whether it is the list of an architecture, not one array."""
        return self.name in MODELS


def short(n: int) -> str:
    """A size as people write it: 100, 10k, 40M.

    >>> short(10_000), short(40_000_000)
    ('10k', '40M')
    """
    for unit, letter in ((1_000_000, "M"), (1_000, "k")):
        if n >= unit and n % unit == 0:
            return f"{n // unit}{letter}"
    return str(n)


def one_array(n: int) -> Workload:
    """A single array of n elements."""
    return Workload(short(n), [(n,)])


def mlp(*widths: int) -> list[Shape]:
    """Fully connected layers: a matrix and a bias each."""
    shapes: list[Shape] = []
    for inputs, outputs in pairwise(widths):
        shapes += [(inputs, outputs), (outputs,)]
    return shapes


def sparse_text() -> list[Shape]:
    """TF-IDF features into one hidden layer of 100, as scikit-learn's MLPClassifier has it."""
    return mlp(20_000, 100, 1)


def spacy() -> list[Shape]:
    """A spaCy tagger: HashEmbedCNN (width 96, depth 4, embed_size 2000) and a softmax of 50 tags.

    Layer: matrix of 3 maxout pieces, bias, scale and shift of the layer norm.
    """
    width, pieces = 96, 3

    def maxout(inputs: int) -> list[Shape]:
        return [(width, pieces, inputs), (width, pieces), (width,), (width,)]

    embeddings: list[Shape] = [(rows, width) for rows in (2_000, 1_000, 1_000, 1_000)]
    encoder = [shape for _ in range(4) for shape in maxout(3 * width)]
    return [*embeddings, *maxout(4 * width), *encoder, (50, width), (50,)]


def resnet50() -> list[Shape]:
    """He et al. 2016, ImageNet: 53 convolutions with two vectors each of batch norm, one matrix."""

    def convolution(inputs: int, outputs: int, size: int) -> list[Shape]:
        return [(outputs, inputs, size, size), (outputs,), (outputs,)]

    shapes = convolution(3, 64, 7)
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += convolution(inputs, width, 1)
            shapes += convolution(width, width, 3)
            shapes += convolution(width, 4 * width, 1)
            if block == 0:
                shapes += convolution(inputs, 4 * width, 1)
            inputs = 4 * width
    return [*shapes, (1000, inputs), (1000,)]


def gpt2() -> list[Shape]:
    """Radford et al. 2019, GPT-2 small: 12 layers of width 768, 50,257 tokens, context 1,024."""
    width = 768
    norm: list[Shape] = [(width,), (width,)]
    layer = [
        *norm,
        *mlp(width, 3 * width),
        *mlp(width, width),
        *norm,
        *mlp(width, 4 * width, width),
    ]
    return [(50_257, width), (1_024, width), *(shape for _ in range(12) for shape in layer), *norm]


MODELS: dict[str, Callable[[], list[Shape]]] = {
    "digits": lambda: mlp(64, 32, 10),
    "mnist": lambda: mlp(784, 256, 128, 10),
    "many-small": lambda: [(1_000,)] * 1_000,
    "sparse-text": sparse_text,
    "spacy": spacy,
    "resnet50": resnet50,
    "gpt2": gpt2,
}


def model(name: str) -> Workload:
    """The parameter list of an architecture."""
    if name not in MODELS:
        raise ValueError(f"{name!r} is no model; known: {', '.join(MODELS)}")
    return Workload(name, MODELS[name]())
