"""Comparing records: which one represents cyopt, and how two of one case compare."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from cyopt import _cpu
from cyopt.bench.implementations import CYOPT, ON_GPU, TWIN
from cyopt.bench.run import Record
from cyopt.bench.timing import ratio

T = TypeVar("T")

UNSTEADY = 0.1  # the spread above which a time is marked


def unique(values: Iterable[T]) -> list[T]:
    """Each once, in the order of first appearance."""
    return list(dict.fromkeys(values))


def by_workload(records: Iterable[Record]) -> list[list[Record]]:
    """The records of one rule and dtype, a list for each workload."""
    cases: dict[str, list[Record]] = {}
    for record in records:
        cases.setdefault(record.workload, []).append(record)
    return list(cases.values())


def find(case: Iterable[Record], implementation: str, threads: int) -> Record | None:
    """The record of an implementation, if it was measured."""
    for record in case:
        if (record.implementation, record.threads) == (implementation, threads):
            return record
    return None


DEFAULT_CYOPT = f"{CYOPT} {_cpu.ISAS_AVAILABLE[0]}"


def default_cyopt(case: Sequence[Record], threads: int) -> Record | None:
    """The record of cyopt on the GPU, or with the instruction set that it chooses by itself."""
    return find(case, ON_GPU, threads) or find(case, DEFAULT_CYOPT, threads)


def times_faster(record: Record, than: Record | None) -> float | None:
    """How many times as fast `record` is as `than`; if that is a roof, a share of it."""
    return ratio(than.seconds, record.seconds) if than else None


def steadiness(records: Iterable[Record]) -> tuple[int, int]:
    """How many of the times of cyopt and the twin are unsteady, and how many there are.

    These two do the same thing every time and allocate nothing: their spread has other causes.
    """
    spreads = [r.spread for r in records if r.implementation.startswith((CYOPT, TWIN))]
    return sum(spread > UNSTEADY for spread in spreads), len(spreads)
