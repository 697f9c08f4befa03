from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import numpy as np

from cyopt.arrays import Array, Counts, Written
from cyopt.given import GroupSpec
from cyopt.hyper import Hyper
from cyopt.parameters import ParameterList, Versions
from cyopt.trees import Node

Result = TypeVar("Result")

COMPILER: str
MAX_TEAM: int
HAS_THREADS: bool
ISAS: tuple[str, ...]
ISAS_AVAILABLE: tuple[str, ...]
RULES: tuple[str, ...]
C_API: object
API_VERSION: int
UPDATE_AS_SET: int
ARRAY_SIZE: int
ARRAY_OFFSETS: dict[str, int]

def get_config() -> dict[str, int]: ...
def set_config(**fields: int) -> None: ...
def default_hyper(rule: str) -> dict[str, Any]: ...
def hyper_record(hyper: Hyper) -> np.ndarray[Any, Any]: ...
def max_team() -> int: ...
def prepare(hyper: Hyper, t: int) -> dict[str, Any]: ...
def is_ordinary(lr: float, weight_decay: float) -> bool: ...
def square_sums(array: Array, s: float, sums: np.ndarray[Any, np.dtype[np.float64]]) -> bool: ...
def extent(array: Array) -> tuple[int, int]: ...

class Gate:
    entries: int
    def run(self, action: Callable[..., Result], *args: object) -> Result: ...
    def look(self, action: Callable[..., Result], *args: object) -> Result: ...

class Version:
    value: int
    def __init__(self, value: int = 0) -> None: ...
    def change(
        self, attributes: dict[str, Any], new: dict[str, Any], known: int | None = None
    ) -> bool: ...

def unchanged(versions: Versions) -> bool: ...
def steps_made() -> int: ...
def count(counts: Counts, given: Counts, steps: Counts, keyed: bool) -> None: ...
def perform(
    calls: list[tuple[Callable[..., Any], tuple[Any, ...]]],
    pairs: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]],
    cell: np.ndarray[Any, Any] | None = None,
    known: np.ndarray[Any, Any] | None = None,
) -> bool: ...
def at_least(counts: Counts, least: Counts) -> None: ...
def copy_into(pairs: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]) -> None: ...
def commit(
    calls: list[tuple[Callable[..., Any], tuple[Any, ...]]],
    pairs: list[tuple[Array, Array]],
    changes: list[tuple[Version, dict[str, Any], dict[str, Any]]],
    owner: object,
    waiting: dict[Any, Any],
) -> None: ...
def call_key(
    function: object,
    like: object,
    given: dict[str, Any],
    replaces: bool,
    scales: bool,
    param: object,
) -> bytes | None: ...

class Call:
    @property
    def n(self) -> int: ...
    def __init__(self, plan: Plan) -> None: ...
    def run(self, grads: Sequence[Array | None]) -> bool: ...
    def again(
        self,
        param: object,
        grad: object,
        states: tuple[Any, ...],
        average: object,
        given: dict[str, Any],
        step: object,
        step_size: object,
        denom_scale: object,
    ) -> bool | None: ...

class DLPackTable:
    @staticmethod
    def of(capsule: object) -> DLPackTable | None: ...
    def stream(self, device: int) -> int: ...
    def integers(self, tensors: list[Any]) -> list[int] | None: ...
    def count(self, tensors: list[Any]) -> bool: ...
    def arrays(self, tensors: list[Any]) -> list[np.ndarray[Any, Any]] | None: ...

def first_of_types(values: list[Any]) -> list[Any]: ...

class TorchGroups:
    def __init__(
        self,
        table: DLPackTable,
        tensor: type,
        parameter: type,
        is_negated: Callable[[Any], bool],
    ) -> None: ...
    def read(
        self,
        params: Sequence[Any],
        state: Any,
        slots: tuple[str, ...],
        on_cpu: bool,
        counted: bool,
    ) -> tuple[list[list[Any]], list[list[Any]], list[Any], int] | None: ...

def current_context(function: int) -> int: ...

class Launch:
    def __init__(
        self,
        driver: tuple[int, Callable[[int], object]],
        kernel: int,
        blocks: int,
        threads: int,
        stream: int,
        integers: Sequence[int],
        dtype: str = "float64",
        names: Sequence[str] = (),
        sets: Sequence[tuple[int, int]] = (),
    ) -> None: ...
    def scalars(self, hypers: Sequence[Hyper], counts: Counts) -> bytes: ...
    def __call__(self, scalars: bytes = b"") -> None: ...

class Places:
    addresses: Counts
    def __init__(
        self,
        values: list[Any],
        asked: Callable[[type], tuple[Any, ...]],
    ) -> None: ...
    def find(self, values: list[Any]) -> Counts | None: ...

class Plan:
    team: int
    written: Written
    def __init__(
        self,
        params: Sequence[Array],
        states: Sequence[Sequence[Array | None]],
        averages: Sequence[Array | None],
        layouts: Sequence[GroupSpec],
        group_of: Sequence[int],
        counts: Counts,
        steps: Counts,
        measured: Array,
        written: Written,
        keyed: bool = False,
    ) -> None: ...
    def set_hypers(self, hypers: Sequence[Hyper], versions: Versions | None = None) -> None: ...
    def again(
        self, gate: Gate | None, params: Any, grads: Any, node: Node | None, norms: bool
    ) -> bool | None: ...
    def same_params(self, params: Sequence[Any]) -> bool: ...
    def run(self, grads: Sequence[Array | None], norms: bool) -> bool: ...

class Stepper:
    _bound: bool
    _grouped: bool
    _given: Any
    _structure: Node | None
    _lists: dict[Hashable, ParameterList]
    _gate: Gate
    def step(
        self, grads: Any, params: Any = None, norms: bool = False, stream: Any = None
    ) -> bool | None: ...
    def update(self, key: Hashable, param: Any, grad: Any, stream: Any = None) -> Any: ...
