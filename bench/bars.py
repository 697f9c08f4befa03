"""`python bench --bars`: what cyopt promises about its speed, each as a ratio within this run."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from signal import SIGCONT, SIGSTOP
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

import cyopt
from cyopt import _cpu
from cyopt.bench.cases import RULES, Case
from cyopt.bench.implementations import (
    AS_WRITTEN,
    TWIN,
    Implementation,
    Subject,
    cyopt_and_twin,
    numpy_as_written,
)
from cyopt.bench.run import Record, fits, run_case
from cyopt.bench.timing import FULL, median, ratio
from cyopt.bench.workloads import Workload, model, one_array

OURS = f"cyopt {_cpu.ISAS_AVAILABLE[0]}"
DTYPES = ("float32", "float64")
LARGE = (10_000_000, 40_000_000)
# Where a second thread begins to pay is somewhere between these.
AROUND_TWO_THREADS = (100_000, 200_000, 300_000, 400_000, 600_000, 800_000, 1_000_000, 1_500_000)
SMALL_MODELS = {"digits": model("digits"), "20k": one_array(20_000)}
SIX = Workload("six", [(16,)] * 6)


class Value(NamedTuple):
    """A figure, and of which case."""

    figure: float
    where: str


class Bar(NamedTuple):
    """What is promised: every figure is at least, or at most, `limit`."""

    text: str
    threads: str
    limit: float
    at_most: bool
    unit: str
    values: Callable[[], Iterable[Value]]

    def worst(self) -> Value | None:
        """The figure that comes nearest to breaking the promise; None if nothing was measured."""
        return (max if self.at_most else min)(self.values(), key=lambda v: v.figure, default=None)

    def holds(self, value: Value) -> bool:
        """Whether this figure keeps the promise."""
        return value.figure <= self.limit if self.at_most else value.figure >= self.limit


def best_cyopt(case: Case, threads: Sequence[int]) -> Iterable[Subject]:
    """Cyopt with the instruction set that it chooses by itself, and the twin."""
    return (s for s in cyopt_and_twin(case, threads) if s.name in (OURS, TWIN))


class Measured:
    """Cases, each measured once and when a bar first asks for it."""

    def __init__(self, peers: Sequence[Implementation]) -> None:
        self.peers = peers
        self.cases: dict[Any, list[Record]] = {}
        self.wrong: list[Any] = []

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
            if fits(RULES[rule], dtype, workload, len(implementations)):
                case = Case(RULES[rule], dtype, workload)
                self.cases[key], wrong = run_case(
                    case, implementations, threads, FULL, lambda: None
                )
                self.wrong += wrong
        return self.cases[key]

    def shares_of_twin(self, dtype: str, n: int) -> Iterator[Value]:
        """Twin / cyopt over large arrays, every rule."""
        for rule, size in product(RULES, LARGE):
            found = self.case(rule, dtype, one_array(size), [best_cyopt], [1, 2])
            yield from compare(found, TWIN, OURS, n)

    def against(self, peer: str, workload: Workload, n: int, rule: str = "adam") -> Iterator[Value]:
        """Peer / cyopt in float32."""
        found = self.case(rule, "float32", workload, [best_cyopt, *self.peers], [n])
        yield from compare(found, peer, OURS, n)

    def step(self, workload: Workload) -> Iterator[Value]:
        """Microseconds of a whole step of Adam in float32."""
        found = self.case("adam", "float32", workload, [best_cyopt], [1])
        for record in found:
            if record.implementation == OURS:
                yield Value(record.median * 1e6, describe(record))

    def over_numpy(self, rule: str) -> Iterator[Value]:
        """NumPy as written / cyopt in float32 from a million elements on."""
        for n in (1_000_000, *LARGE):
            implementations = [best_cyopt, numpy_as_written]
            found = self.case(rule, "float32", one_array(n), implementations, [1])
            yield from compare(found, AS_WRITTEN, OURS, 1)

    def two_threads(self) -> Iterator[Value]:
        """Two threads / one thread, every rule and dtype, where the second one begins to pay."""
        sizes = (*AROUND_TWO_THREADS, *LARGE)
        for rule, dtype, n in product(RULES, DTYPES, sizes):
            found = self.case(rule, dtype, one_array(n), [best_cyopt], [1, 2])
            one, two = (find(found, OURS, threads) for threads in (1, 2))
            if one and two:
                yield Value(ratio(two.seconds, one.seconds), describe(two))


def find(records: Iterable[Record], name: str, threads: int) -> Record | None:
    """The record of an implementation."""
    for record in records:
        if record.implementation == name and record.threads == threads:
            return record
    return None


def compare(records: list[Record], other: str, ours: str, threads: int) -> Iterator[Value]:
    """How many times as long `other` takes, if both were measured."""
    theirs, mine = find(records, other, threads), find(records, ours, threads)
    if theirs and mine:
        yield Value(ratio(theirs.seconds, mine.seconds), describe(mine))


def describe(record: Record) -> str:
    """The case of a record."""
    return f"{record.rule} {record.dtype} {record.workload}"


def subnormal_over_normal(n: int = 1_000_000, rounds: int = 41) -> Iterator[Value]:
    """A step from subnormal moments and gradients / one from normal ones."""
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
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        for name, workload in SMALL_MODELS.items():
            case = Case(RULES["adam"], "float32", workload)
            optimizer = cyopt.Adam(case.params)
            seconds: dict[int, list[float]] = {SIGSTOP: [], SIGCONT: []}
            for _ in range(rounds):
                for signal, samples in seconds.items():
                    busy.send_signal(signal)
                    time.sleep(0.01)  # until the scheduler has noticed
                    begin = time.perf_counter()
                    for _ in range(calls):
                        optimizer.step(case.grads)
                    samples.append((time.perf_counter() - begin) / calls)
            idle, beside = median(seconds[SIGSTOP]), median(seconds[SIGCONT])
            yield Value(beside / idle, f"adam float32 {name}")
    finally:
        busy.kill()
        busy.wait()


def bars(m: Measured) -> list[Bar]:
    """Every promise."""
    mnist, many, hundred = model("mnist"), model("many-small"), one_array(100)
    torch = "torch fused"
    found = []
    for dtype, limit in zip(DTYPES, (0.93, 0.85), strict=True):
        for n in (1, 2):
            found.append(
                Bar(
                    f"share of the traffic twin, every rule, n >= 10M, {dtype}",
                    str(n),
                    limit,
                    False,
                    "",
                    lambda dtype=dtype, n=n: m.shares_of_twin(dtype, n),
                )
            )

    def at_least(text: str, threads: int, limit: float, values: Any) -> None:
        found.append(Bar(text, str(threads), limit, False, "x", values))

    for n in (10_000, 100_000):
        at_least(
            f"Numba njit over cyopt, n = {n:,}",
            1,
            0.97,
            lambda n=n: m.against("Numba", one_array(n), 1),
        )
    at_least(
        "torch._fused_adam_ over cyopt, n = 10,000",
        1,
        1.3,
        lambda: m.against("torch._fused_adam_", one_array(10_000), 1),
    )
    at_least("torch fused over cyopt, n = 100", 1, 100, lambda: m.against(torch, hundred, 1))
    at_least("torch fused over cyopt, 1,000 x 1,000", 1, 7, lambda: m.against(torch, many, 1))
    at_least("torch fused over cyopt, mnist", 1, 1 / 0.6, lambda: m.against(torch, mnist, 1))
    at_least("torch fused over cyopt, mnist", 2, 1 / 0.5, lambda: m.against(torch, mnist, 2))
    for rule, limit in (("adam", 10), ("adagrad", 3.5), ("sgd", 2)):
        at_least(
            f"NumPy as written over cyopt, {rule}, n >= 1M",
            1,
            limit,
            lambda rule=rule: m.over_numpy(rule),
        )
    return [
        *found,
        Bar("opt.step([g]) in all, n = 100", "1", 0.6, True, "us", lambda: m.step(hundred)),
        Bar("opt.step of 6 arrays of 16, in all", "1", 1.0, True, "us", lambda: m.step(SIX)),
        Bar("subnormal over normal state", "1", 1.1, True, "x", subnormal_over_normal),
        Bar("2 threads over 1, every rule and size", "2", 1.1, True, "x", m.two_threads),
        Bar("small model beside a busy process", "all", 1.5, True, "x", busy_over_idle),
    ]


def report(peers: Sequence[Implementation]) -> None:
    """Measure and print every bar."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    before = _cpu.get_config()
    measured = Measured(peers)
    table = Table(title="bars, Adam float32 unless said", title_justify="left")
    for heading in ("", "threads", "bar", "reached", "worst case", ""):
        table.add_column(heading)
    for bar in track(bars(measured), "bars", console=console, transient=True, auto_refresh=False):
        sign = "<=" if bar.at_most else ">="
        value = bar.worst()
        wanted = f"{sign} {bar.limit:.3g} {bar.unit}"
        if value is None:
            table.add_row(bar.text, bar.threads, wanted, "", "", "not measured")
            continue
        verdict = "[green]holds[/]" if bar.holds(value) else "[red]does not hold[/]"
        reached = f"{value.figure:.3g} {bar.unit}"
        table.add_row(bar.text, bar.threads, wanted, reached, value.where, verdict)
        _cpu.set_config(**before)
    console.print(table)
    for wrong in measured.wrong:
        console.print(f"wrong result, not timed: {wrong}", style="red")
