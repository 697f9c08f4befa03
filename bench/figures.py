"""The figures behind `python bench --bars`: cases, and ratios within them."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import product
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import psutil

import cyopt
from cyopt.bench.cases import RULES, Case
from cyopt.bench.compare import DEFAULT_CYOPT, find, times_faster
from cyopt.bench.implementations import (
    AS_WRITTEN,
    READ,
    TWIN,
    Implementation,
    Subject,
    cyopt_and_twin,
    numpy_as_written,
)
from cyopt.bench.options import named, options
from cyopt.bench.run import Record, fits, run_case
from cyopt.bench.selection import DTYPES
from cyopt.bench.timing import Effort, ratio
from cyopt.bench.workloads import Workload, model, one_array

EFFORT = Effort(rounds=15, least=5, sample=4e-3, budget=2.5)
LARGE = (10_000_000, 40_000_000)
# Just past the sizes at which a second thread starts, by the costs of the rules, and beyond.
AROUND_TWO_THREADS = (105_000, 131_000, 210_000, 263_000, 350_000, 420_000, 525_000, 700_000)
BEYOND_TWO_THREADS = (875_000, 1_050_000, 2_000_000, 4_000_000, *LARGE)
SMALL_MODELS = (model("digits"), one_array(20_000))
# Next to no arithmetic: what a step over 6 arrays costs beyond it.
SIX = Workload("6 arrays of 16", [(16,)] * 6)


class Value(NamedTuple):
    """A figure, and its case."""

    figure: float
    where: str


def best_cyopt(case: Case, threads: Sequence[int]) -> Iterable[Subject]:
    """Steps of cyopt, with the instruction set that it chooses by itself, and of the twin."""
    return (s for s in cyopt_and_twin(case, threads) if s.name in (DEFAULT_CYOPT, TWIN))


class Measured:
    """Cases, each measured when a bar first asks for it."""

    def __init__(
        self, peers: Sequence[Implementation], clipping: Sequence[Implementation] = ()
    ) -> None:
        self.peers, self.clipping = peers, clipping
        self.cases: dict[Any, list[Record]] = {}
        self.records: list[Record] = []
        self.wrong: list[Any] = []
        self.skipped: list[str] = []

    def case(
        self,
        rule: str,
        dtype: str,
        workload: Workload,
        implementations: Sequence[Implementation],
        threads: Sequence[int],
    ) -> list[Record]:
        """The records of one case; none if it does not fit into memory."""
        key = (rule, dtype, workload.name, *implementations, *threads)
        if key not in self.cases:
            self.cases[key] = []
            gc.collect()  # the last case: its subjects and their closures form cycles
            if fits(RULES[rule], dtype, workload, len(implementations)):
                case = Case(RULES[rule], dtype, workload)
                self.cases[key], wrong = run_case(
                    case, implementations, threads, EFFORT, lambda: None
                )
                self.records += self.cases[key]
                self.wrong += wrong
            else:
                self.skipped.append(f"{rule} {dtype} {workload.name}")
        return self.cases[key]

    def forget(self, where: Container[str]) -> None:
        """These cases are measured again when a bar asks for them; their records are kept."""
        for key, found in list(self.cases.items()):
            if any(describe(record) in where for record in found):
                del self.cases[key]

    def shares_of_twin(self, dtype: str, n: int) -> Iterator[Value]:
        """Twin / cyopt over large arrays, every rule."""
        for rule, size in product(RULES, LARGE):
            found = self.case(rule, dtype, one_array(size), [best_cyopt], [1, 2])
            yield from over_cyopt(found, TWIN, n)

    def against(self, peer: str, workload: Workload, n: int) -> Iterator[Value]:
        """Peer / cyopt, Adam in float32."""
        found = self.case("adam", "float32", workload, [best_cyopt, *self.peers], [n])
        yield from over_cyopt(found, peer, n)

    def step(self, workload: Workload) -> Iterator[Value]:
        """Microseconds of a whole step of Adam in float32."""
        found = self.case("adam", "float32", workload, [best_cyopt], [1])
        for record in found:
            if record.implementation == DEFAULT_CYOPT:
                yield Value(record.median * 1e6, describe(record))

    def over_numpy(self, rule: str) -> Iterator[Value]:
        """NumPy as written / cyopt in float32 from a million elements on."""
        for n in (1_000_000, *LARGE):
            implementations = [best_cyopt, numpy_as_written]
            found = self.case(rule, "float32", one_array(n), implementations, [1])
            yield from over_cyopt(found, AS_WRITTEN, 1)

    def with_option(self, option: str, n: int) -> Iterator[tuple[Record, list[Record]]]:
        """Large cases of Adam in float32: the step with an option, and all records."""
        for size in LARGE:
            implementations = [best_cyopt, options, *self.clipping]
            found = self.case("adam", "float32", one_array(size), implementations, [1, 2])
            record = find(found, named(option), n)
            if record:
                yield record, found

    def over_plain(self, option: str, n: int) -> Iterator[Value]:
        """A step with an option / a plain step."""
        for record, found in self.with_option(option, n):
            plain = find(found, DEFAULT_CYOPT, n)
            if plain:
                yield Value(ratio(record.seconds, plain.seconds), describe(record))

    def clip_over_its_passes(self, n: int) -> Iterator[Value]:
        """A step that clips / the sum of a plain step and a read-only pass over the gradients."""
        for record, found in self.with_option("clip_norm", n):
            plain, read = find(found, DEFAULT_CYOPT, n), find(found, READ, n)
            if plain and read:
                both = [a + b for a, b in zip(plain.seconds, read.seconds, strict=True)]
                yield Value(ratio(record.seconds, both), describe(record))

    def over_clip(self, peer: str, n: int) -> Iterator[Value]:
        """A peer that clips and steps / a step that clips."""
        for record, found in self.with_option("clip_norm", n):
            if times := times_faster(record, find(found, peer, n)):
                yield Value(times, describe(record))

    def two_threads(self) -> Iterator[Value]:
        """Two threads / one thread, every rule and dtype, where the second one starts to pay."""
        sizes = (*AROUND_TWO_THREADS, *BEYOND_TWO_THREADS)
        for rule, dtype, n in product(RULES, DTYPES, sizes):
            found = self.case(rule, dtype, one_array(n), [best_cyopt], [1, 2])
            one, two = (find(found, DEFAULT_CYOPT, threads) for threads in (1, 2))
            if one and two:
                yield Value(ratio(two.seconds, one.seconds), describe(two))


def over_cyopt(records: list[Record], other: str, threads: int) -> Iterator[Value]:
    """How many times as long as cyopt `other` takes, if both were measured."""
    theirs, ours = find(records, other, threads), find(records, DEFAULT_CYOPT, threads)
    if ours and (times := times_faster(ours, theirs)):
        yield Value(times, describe(ours))


def describe(record: Record) -> str:
    """The case of a record."""
    return f"{record.rule} {record.dtype} {record.workload}"


def subnormal_over_normal(n: int = 1_000_000, rounds: int = 41) -> Iterator[Value]:
    """A step from subnormal moments and gradients / one from normal ones."""
    cyopt.set_num_threads(1)
    seconds: dict[float, list[float]] = {1e-3: [], 1e-40: []}
    param = np.ones(n, np.float32)
    optimizer = cyopt.Adam([param])
    for _ in range(rounds):
        for size, samples in seconds.items():
            grads = [np.full(n, size, np.float32)]
            saved = optimizer.state_dict()
            for array in (saved["state"]["0"][name] for name in ("exp_avg", "exp_avg_sq")):
                array.fill(size)
            optimizer.load_state_dict(saved)
            begin = time.perf_counter()
            optimizer.step(grads)
            samples.append(time.perf_counter() - begin)
    yield Value(ratio(seconds[1e-40], seconds[1e-3]), f"adam float32 {n:,}")


def busy_over_idle(rounds: int = 41, calls: int = 200) -> Iterator[Value]:
    """A small model's step beside a process that takes a whole core / without it."""
    busy = psutil.Popen([sys.executable, "-c", "while True: pass"])
    try:
        for workload in SMALL_MODELS:
            case = Case(RULES["adam"], "float32", workload)
            optimizer = cyopt.Adam(case.params)
            seconds: dict[str, list[float]] = {"suspend": [], "resume": []}
            for _ in range(rounds):
                for change, samples in seconds.items():
                    getattr(busy, change)()
                    time.sleep(0.01)  # until the scheduler has noticed
                    begin = time.perf_counter()
                    for _ in range(calls):
                        optimizer.step(case.grads)
                    samples.append((time.perf_counter() - begin) / calls)
            beside, alone = median(seconds["resume"]), median(seconds["suspend"])
            yield Value(beside / alone, f"adam float32 {workload.name}")
    finally:
        busy.kill()
        busy.wait()


def python_threads(
    count: int = 8, n: int = 100_000, steps: int = 400, rounds: int = 15
) -> Iterator[Value]:
    """Steps per second of Python threads with an optimizer each / those of one, times the CPUs.

    The arrays of all threads fit into the cache together: this shows whether the GIL is free.
    """
    cpus = min(count, cyopt.get_num_threads())
    cyopt.set_num_threads(1)
    rates: dict[int, list[float]] = {1: [], count: []}
    for _ in range(rounds):
        for threads, samples in rates.items():
            samples.append(steps_per_second(threads, n, steps))
    yield Value(ratio(rates[count], rates[1]) / cpus, f"adam float32 {n:,}")


def steps_per_second(threads: int, n: int, steps: int) -> float:
    """Steps per second of all threads together, from the first step to the last."""
    begin = threading.Barrier(threads + 1)

    def train() -> None:
        grads = [np.ones(n, np.float32)]
        optimizer = cyopt.Adam([np.ones(n, np.float32)])
        optimizer.step(grads)
        begin.wait()
        for _ in range(steps):
            optimizer.step(grads)

    workers = [threading.Thread(target=train) for _ in range(threads)]
    for worker in workers:
        worker.start()
    begin.wait()
    start = time.perf_counter()
    for worker in workers:
        worker.join()
    return threads * steps / (time.perf_counter() - start)
