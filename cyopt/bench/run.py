"""One case after another: make, check, time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from timeit import Timer
from typing import Any, NamedTuple

import numpy as np
import psutil

from cyopt.bench.cases import CHECKED_STEPS, Case, Rule
from cyopt.bench.implementations import ROOF_BYTES, ROOFS, Implementation, Subject
from cyopt.bench.timing import Effort, measure, spread
from cyopt.bench.workloads import Workload
from cyopt.cgroup import cgroup_memory

# An update agrees with the reference if no parameter is off by more than this part of the largest
# change. A different order of operations, with parameters a thousand times the change, gives up to
# 1e-4 in float32; Adam instead of amsgrad, the nearest wrong formula, is off by 5e-4.
TOLERANCE = {"float32": 2e-4, "float64": 1e-9}


@dataclass(frozen=True)
class Record:
    """One implementation in one case. `seconds` has a step's time in each round."""

    rule: str
    dtype: str
    workload: str
    arrays: int
    elements: int
    bytes: int
    implementation: str
    threads: int
    statement: str
    error: float | None  # largest deviation, as a part of the largest change; None: not checked
    same_bits: bool | None
    seconds: list[float]

    @property
    def median(self) -> float:
        """Seconds of one step."""
        return median(self.seconds)

    @property
    def spread(self) -> float:
        """The distance of the quartiles of `seconds`, as a part of the median."""
        return spread(self.seconds)

    @property
    def ns_per_element(self) -> float:
        """The median time, shared among the elements."""
        return self.median / self.elements * 1e9

    @property
    def gigabytes_per_second(self) -> float:
        """The bytes that the rule must move, over the median time."""
        return self.bytes / self.median / 1e9

    def as_dict(self) -> dict[str, Any]:
        """For JSON, with what can be computed from the rest; times in 4 digits."""
        computed = {
            "median": self.median,
            "spread": self.spread,
            "ns_per_element": self.ns_per_element,
            "gigabytes_per_second": self.gigabytes_per_second,
        }
        rounded = {name: float(f"{value:.4g}") for name, value in computed.items()}
        return {**asdict(self), **rounded, "seconds": [float(f"{s:.4g}") for s in self.seconds]}


class Wrong(NamedTuple):
    """An implementation whose result was not the reference's, or that failed: it is not timed."""

    case: str
    implementation: str
    error: float  # largest deviation, as a part of the largest change
    message: str  # of an exception, or ""


def fits(rule: Rule, dtype: str, workload: Workload, implementations: int) -> bool:
    """Whether there is memory for a case and for what all implementations keep of it.

    Three arrays are the case's and three are temporaries. Each implementation has state arrays,
    which are two streams each (read and written), except the roof, which has a fixed size. One may
    keep its own parameters and state for another number of threads: four arrays at most.
    """
    arrays = 10 + (implementations - 1) * (rule.streams - 3) / 2
    needed = workload.elements * np.dtype(dtype).itemsize * arrays + ROOF_BYTES
    of_group, of_machine = cgroup_memory(), psutil.virtual_memory().available
    return bool(needed < (of_machine if of_group is None else min(of_group, of_machine)))


def run_case(
    case: Case,
    implementations: Iterable[Implementation],
    threads: Sequence[int],
    effort: Effort,
    advance: Callable[[], None],
) -> tuple[list[Record], list[Wrong]]:
    """The records of all implementations that give the right result, and those that do not."""
    right: list[tuple[Subject, float | None, bool | None]] = []
    wrong = []
    for implementation in implementations:
        name = getattr(implementation, "__name__", str(implementation))
        try:
            for subject in implementation(case, threads):
                name = subject.name
                error, same_bits = _check(subject, case)
                if error is None or same_bits or error <= _tolerance(subject, case):
                    right.append((subject, error, same_bits))
                else:
                    wrong.append(Wrong(str(case), name, error, ""))
        except Exception as e:  # of another library: the others are measured all the same
            wrong.append(Wrong(str(case), name, math.nan, f"{type(e).__name__}: {e}"))
    subjects = [subject for subject, _, _ in right]
    seconds = measure(subjects, effort, advance)
    records = []
    for (subject, error, same_bits), samples in zip(right, seconds, strict=True):
        if subject.results is not None and not _works(subject, case):
            wrong.append(Wrong(str(case), subject.name, 1.0, "changed nothing after it was timed"))
        else:
            records.append(_record(case, subject, error, same_bits, samples))
    return records, wrong


def _check(subject: Subject, case: Case) -> tuple[float | None, bool | None]:
    """The error after some steps from the start, and whether the bits are the same."""
    case.reset()
    subject.start()
    if subject.results is None:
        if subject.name not in ROOFS:
            raise TypeError("it has no results to check")
        return None, None
    subject.prepare()
    timer = Timer(subject.statement, globals=subject.namespace)
    for factor in CHECKED_STEPS:
        case.scale_grads(factor)
        subject.read_grads()
        timer.timeit(1)
    results = subject.results()
    checked = case.error(results), case.same_bits(results)
    case.scale_grads(1.0)
    subject.read_grads()
    return checked


def _works(subject: Subject, case: Case) -> bool:
    """Whether a step still changes the parameters."""
    assert subject.results
    case.reset()
    subject.prepare()
    before = subject.results()[0].reshape(-1)[:1000].copy()
    Timer(subject.statement, globals=subject.namespace).timeit(1)
    return not np.array_equal(before, subject.results()[0].reshape(-1)[:1000])


def _tolerance(subject: Subject, case: Case) -> float:
    return 0.0 if subject.exact else TOLERANCE[case.dtype.name]


def _record(
    case: Case,
    subject: Subject,
    error: float | None,
    same_bits: bool | None,
    seconds: list[float],
) -> Record:
    return Record(
        rule=case.rule.name,
        dtype=case.dtype.name,
        workload=case.workload.name,
        arrays=len(case.workload.shapes),
        elements=case.workload.elements,
        bytes=case.bytes,
        implementation=subject.name,
        threads=subject.threads,
        statement=subject.statement,
        error=error,
        same_bits=same_bits,
        seconds=seconds,
    )
