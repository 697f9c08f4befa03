"""What every framework is run on, and how one run is described.

Start values, gradients and learning rates are exact in float32, so that a float32 and a float64 run
begin with the same numbers. `make.py trajectory` made them once; they are kept because NumPy does
not promise that a generator's stream stays the same.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent
FILE = FOLDER / "trajectory.json"
SHAPES = ((2, 2), (2,))
STEPS = 50
RECORDED = (1, 2, 3, 5, 10, 20, 30, 40, 50)


@dataclass(frozen=True)
class Case:
    """One configuration: as cyopt spells it (`lr="schedule"`: LR, one per step) and `make`, which
    builds the framework's own optimizer (what it takes is the framework module's affair)."""

    name: str
    cls: str
    kwargs: dict[str, Any]
    make: Callable[..., Any]

    @property
    def scheduled(self) -> bool:
        return self.kwargs.get("lr") == "schedule"


def make_trajectory() -> dict[str, list]:
    rng = np.random.default_rng(20)
    size = sum(int(np.prod(shape)) for shape in SHAPES)
    start = rng.choice([-1, 1], size) * rng.uniform(1, 5, size)
    grads = rng.choice([-1, 1], (STEPS, size)) * 10 ** rng.uniform(-4, 1, (STEPS, size))
    grads[[0, 7, 8, 20, 33, 49], [1, 0, 0, 5, 3, 2]] = 0
    lr = 0.0625 * 0.5 ** (np.arange(STEPS) // 5)
    return {
        "start": start.astype("f4").tolist(),
        "grads": grads.astype("f4").tolist(),
        "lr": lr.tolist(),
    }


def split(values: list[float], dtype: str) -> list[np.ndarray]:
    """The parameters as a list of fresh arrays of SHAPES."""
    sizes = np.cumsum([np.prod(shape) for shape in SHAPES])[:-1]
    parts = np.split(np.array(values, dtype), sizes)
    return [part.reshape(shape).copy() for part, shape in zip(parts, SHAPES, strict=True)]


def read() -> dict[str, list]:
    return json.loads(FILE.read_text())


LR: list[float] = read()["lr"] if FILE.exists() else []
