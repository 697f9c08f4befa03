"""`python bench --bars`: what cyopt promises about its speed, each as a ratio within this run."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

import cyopt
from cyopt import _cpu
from cyopt.bench import machine
from cyopt.bench.cases import RULES, Case
from cyopt.bench.compare import DEFAULT_CYOPT, find, times_faster
from cyopt.bench.implementations import (
    AS_WRITTEN,
    TWIN,
    Implementation,
    Subject,
    cyopt_and_twin,
    numpy_as_written,
)
from cyopt.bench.report import write_json
from cyopt.bench.run import Record, fits, run_case
from cyopt.bench.selection import DTYPES
from cyopt.bench.timing import Effort, median, ratio
from cyopt.bench.workloads import Workload, model, one_array
from cyopt.runtime import Info

EFFORT = Effort(rounds=15, least=5, sample=4e-3, budget=2.5)
LARGE = (10_000_000, 40_000_000)
# Just behind where a second thread begins, by the costs of the rules, and on.
AROUND_TWO_THREADS = (105_000, 131_000, 210_000, 263_000, 350_000, 420_000, 525_000, 700_000)
BEYOND_TWO_THREADS = (875_000, 1_000_000, 2_000_000, 4_000_000, *LARGE)
SMALL_MODELS = (model("digits"), one_array(20_000))
# Next to no arithmetic: what a step over 6 arrays costs beyond it.
SIX = Workload("6 arrays of 16", [(16,)] * 6)


class Value(NamedTuple):
    """A figure, and of which case."""

    figure: float
    where: str


class Bar(NamedTuple):
    """What is promised: every figure is at least, or at most, `limit`."""

    text: str
    threads: int
    limit: float
    unit: str
    values: Callable[[], Iterable[Value]]
    at_most: bool = False

    def worst(self) -> Value | None:
        """The figure that comes nearest to breaking the promise; None if nothing was measured."""
        return (max if self.at_most else min)(self.values(), key=lambda v: v.figure, default=None)

    def holds(self, value: Value) -> bool:
        """Whether this figure keeps the promise."""
        return value.figure <= self.limit if self.at_most else value.figure >= self.limit


def best_cyopt(case: Case, threads: Sequence[int]) -> Iterable[Subject]:
    """Cyopt with the instruction set that it chooses by itself, and the twin."""
    return (s for s in cyopt_and_twin(case, threads) if s.name in (DEFAULT_CYOPT, TWIN))


class Measured:
    """Cases, each measured once and when a bar first asks for it."""

    def __init__(self, peers: Sequence[Implementation]) -> None:
        self.peers = peers
        self.cases: dict[Any, list[Record]] = {}
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
            gc.collect()  # the last case: its subjects and their closures refer to each other
            if fits(RULES[rule], dtype, workload, len(implementations)):
                case = Case(RULES[rule], dtype, workload)
                self.cases[key], wrong = run_case(
                    case, implementations, threads, EFFORT, lambda: None
                )
                self.wrong += wrong
            else:
                self.skipped.append(f"{rule} {dtype} {workload.name}")
        return self.cases[key]

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

    def two_threads(self) -> Iterator[Value]:
        """Two threads / one thread, every rule and dtype, where the second one begins to pay."""
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


def bars(m: Measured) -> list[Bar]:
    """Every promise."""
    mnist, many, hundred = model("mnist"), model("many-small"), one_array(100)

    def share(dtype: str, threads: int, limit: float) -> Bar:
        values = partial(m.shares_of_twin, dtype, threads)
        return Bar(f"share of the twin, {dtype}, all rules, n >= 10M", threads, limit, "", values)

    def over(peer: str, workload: Workload, threads: int, limit: float) -> Bar:
        values = partial(m.against, peer, workload, threads)
        return Bar(f"{peer} over cyopt, {workload.name}", threads, limit, "x", values)

    def over_numpy(rule: str, limit: float) -> Bar:
        values = partial(m.over_numpy, rule)
        return Bar(f"{AS_WRITTEN} over cyopt, {rule}, n >= 1M", 1, limit, "x", values)

    def in_all(workload: Workload, limit: float) -> Bar:
        values = partial(m.step, workload)
        return Bar(f"a step in all, {workload.name}", 1, limit, "us", values, at_most=True)

    return [
        *(share("float32", n, 0.93) for n in (1, 2)),
        *(share("float64", n, 0.85) for n in (1, 2)),
        over("Numba", one_array(10_000), 1, 0.97),
        over("Numba", one_array(100_000), 1, 0.97),
        over("torch._fused_adam_", one_array(10_000), 1, 1.3),
        over("torch fused", hundred, 1, 100),
        over("torch fused", many, 1, 7),
        over("torch fused", mnist, 1, 1 / 0.6),
        over("torch fused", mnist, 2, 1 / 0.5),
        over_numpy("adam", 10),
        over_numpy("adagrad", 3.5),
        over_numpy("sgd", 2),
        in_all(hundred, 0.6),
        in_all(SIX, 1.0),
        Bar("subnormal over normal", 1, 1.1, "x", subnormal_over_normal, at_most=True),
        Bar("2 threads over 1, all rules", 2, 1.1, "x", m.two_threads, at_most=True),
        Bar("small model, busy over idle machine", 2, 1.5, "x", busy_over_idle, at_most=True),
    ]


def report(peers: Sequence[Implementation], about: Mapping[str, str], file: Path | None) -> int:
    """Measure and print every bar; save them. Returns the exit code: 1 if a result was wrong."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    described = {**machine.describe(machine.load()), **about}
    console.print(str(Info(described)), highlight=False, markup=False)
    before = _cpu.get_config()
    measured = Measured(peers)
    rows = []
    try:
        everything = bars(measured)
        progress = track(everything, "bars", console=console, transient=True, auto_refresh=False)
        for bar in progress:
            value = bar.worst() if bar.threads <= cyopt.get_num_threads() else None
            rows.append((bar, value))
            _cpu.set_config(**before)
    except KeyboardInterrupt:
        console.print("Interrupted: this is what was measured before.", style="yellow")
    finally:
        _cpu.set_config(**before)
    console.print(table(rows))
    for wrong in measured.wrong:
        console.print(f"WRONG, not timed: {wrong}", style="red", markup=False)
    for case in measured.skipped:
        console.print(f"too large for the free memory: {case}", style="yellow")
    if file:
        save(file, described, rows, measured)
        console.print(f"saved: {file}", highlight=False, soft_wrap=True)
    return 1 if measured.wrong else 0


def table(rows: Sequence[tuple[Bar, Value | None]]) -> Table:
    """Every bar and the figure that comes nearest to it."""
    title = "What cyopt promises, and what it reached (Adam float32 unless said)"
    grid = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("", "threads", "bar", "reached", "nearest to it", ""):
        grid.add_column(heading)
    for bar, value in rows:
        grid.add_row(*cells(bar, value))
    return grid


def cells(bar: Bar, value: Value | None) -> list[str]:
    """A row of the table."""
    sign = "<=" if bar.at_most else ">="
    promise = [bar.text, str(bar.threads), f"{sign} {bar.limit:.3g} {bar.unit}"]
    if value is None:
        return [*promise, "", "", "not measured"]
    verdict = "[green]holds[/]" if bar.holds(value) else "[red]does not hold[/]"
    return [*promise, f"{value.figure:.3g} {bar.unit}", value.where, verdict]


def save(
    file: Path,
    about: Mapping[str, str],
    rows: Sequence[tuple[Bar, Value | None]],
    measured: Measured,
) -> None:
    """JSON: the machine, each bar with its figure and case, and the records behind them."""
    kept = {
        "machine": about,
        "bars": [
            {
                "text": bar.text,
                "threads": bar.threads,
                "at_most" if bar.at_most else "at_least": bar.limit,
                "reached": value and value.figure,
                "where": value and value.where,
            }
            for bar, value in rows
        ],
        "records": [record.as_dict() for records in measured.cases.values() for record in records],
        "skipped": measured.skipped,
    }
    write_json(file, kept)
