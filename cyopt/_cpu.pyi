from collections.abc import Sequence
from typing import Any

import numpy as np

from cyopt.arrays import Array, Written
from cyopt.hyper import Hyper

Counts = np.ndarray[Any, np.dtype[np.int64]]

COMPILER: str
MAX_TEAM: int
HAS_THREADS: bool
ISAS: tuple[str, ...]
ISAS_AVAILABLE: tuple[str, ...]
RULES: tuple[str, ...]

def get_config() -> dict[str, int]: ...
def set_config(**fields: int) -> None: ...
def max_team() -> int: ...
def prepare(hyper: Hyper, t: int) -> dict[str, Any]: ...

class Gate:
    def __enter__(self) -> None: ...
    def __exit__(self, *exception: object) -> None: ...

class Plan:
    team: int
    def __init__(
        self,
        params: Sequence[Array],
        states: Sequence[Sequence[Array | None]],
        group_of: Sequence[int],
        counts: Counts,
        written: Written,
    ) -> None: ...
    def set_hypers(self, hypers: Sequence[Hyper]) -> None: ...
    def same_params(self, params: Sequence[Any]) -> bool: ...
    def plain_grads(self, grads: Sequence[Any]) -> bool: ...
    def run(self, grads: Sequence[Array | None], steps: Counts, now: int) -> None: ...
