"""`python bench --bars`: what cyopt promises about its speed, each as a ratio within this run.

A bar is judged by the worst of up to 280 cases, of which a shared machine spoils some by chance. So
a case that breaks its bar is measured twice more, after everything else; the median counts.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from figures import (
    SIX,
    Measured,
    Value,
    busy_over_idle,
    python_threads,
    subnormal_over_normal,
)
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

import cyopt
from cyopt import _cpu
from cyopt.bench import machine
from cyopt.bench.cases import RULES
from cyopt.bench.implementations import AS_WRITTEN, Implementation
from cyopt.bench.report import count, digits, write_json
from cyopt.bench.workloads import Workload, model, one_array
from cyopt.runtime import Info


class Bar(NamedTuple):
    """What is promised: every figure is at least, or at most, `limit`."""

    text: str
    threads: int
    limit: float
    unit: str
    values: Callable[[], Iterable[Value]]
    at_most: bool = False

    def holds(self, figure: float) -> bool:
        """Whether this figure keeps the promise."""
        return figure <= self.limit if self.at_most else figure >= self.limit


class Row:
    """A bar and its figures: one for each case, or three if the first breaks the bar."""

    def __init__(self, bar: Bar) -> None:
        self.bar = bar
        self.looks: dict[str, list[float]] = {}

    def look(self) -> None:
        """Measure what was not measured yet, and what broke the bar again."""
        again = self.broken()
        for value in self.bar.values():
            if value.where in again or value.where not in self.looks:
                self.looks.setdefault(value.where, []).append(value.figure)

    def broken(self) -> dict[str, list[float]]:
        """The cases that broke the bar when they were first measured."""
        return {case: found for case, found in self.looks.items() if not self.bar.holds(found[0])}

    def worst(self) -> Value | None:
        """The figure that comes nearest to breaking the promise; None if nothing was measured."""
        values = [Value(median(found), case) for case, found in self.looks.items()]
        return (max if self.bar.at_most else min)(values, key=lambda v: v.figure, default=None)


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

    def option(name: str, streams: int, threads: int) -> Bar:
        """The streams of the option besides the seven of Adam, and 5 %."""
        limit = 1 + streams / RULES["adam"].streams + 0.05
        values = partial(m.over_plain, name, threads)
        text = f"step with {name} over a plain one, n >= 10M"
        return Bar(text, threads, limit, "x", values, at_most=True)

    def clip(threads: int) -> Iterator[Bar]:
        values = partial(m.clip_over_its_passes, threads)
        yield Bar("clip + step over step + read pass", threads, 1.15, "x", values, at_most=True)
        values = partial(m.over_clip, "torch clip + fused", threads)
        yield Bar("torch clip + fused over clip + step", threads, 1.0, "x", values)

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
        *clip(1),
        *clip(2),
        *(option("zero_grads", 1, n) for n in (1, 2)),
        *(option("ema", 2, n) for n in (1, 2)),
        Bar("subnormal over normal", 1, 1.1, "x", subnormal_over_normal, at_most=True),
        Bar("2 threads over 1, all rules", 2, 1.1, "x", m.two_threads, at_most=True),
        Bar("8 Python threads over 1 per CPU", 2, 0.9, "x", python_threads),
        Bar("small model, busy over idle machine", 2, 1.5, "x", busy_over_idle, at_most=True),
    ]


def report(
    peers: Sequence[Implementation],
    clipping: Sequence[Implementation],
    about: Mapping[str, str],
    file: Path | None,
) -> int:
    """Measure, print and save every bar; returns the exit code: 1 if a result was wrong."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    described = {**machine.describe(machine.load()), **about}
    console.print(str(Info(described)), highlight=False, markup=False)
    before = _cpu.get_config()
    measured = Measured(peers, clipping)
    rows = [Row(bar) for bar in bars(measured)]
    everything = [row for row in rows if row.bar.threads <= cyopt.get_num_threads()]
    interrupted = False
    try:
        look(everything, measured, "bars", console)
        for _ in range(2):
            broken = [row for row in everything if row.broken()]
            look(broken, measured, "again, where a bar is broken", console)
    except KeyboardInterrupt:
        interrupted = True
        console.print("Interrupted: this is what was measured before.", style="yellow")
    finally:
        _cpu.set_config(**before)
    console.print(table(rows))
    for line in (line for row in rows for line in measured_again(row)):
        console.print(line, highlight=False, markup=False)
    for wrong in measured.wrong:
        console.print(f"WRONG, not timed: {wrong}", style="red", markup=False)
    for case in measured.skipped:
        console.print(f"too large for the free memory: {case}", style="yellow")
    if file:
        save(file, described, rows, measured)
        console.print(f"saved: {file}", highlight=False, soft_wrap=True)
    return 130 if interrupted else 1 if measured.wrong else 0


def look(rows: Sequence[Row], measured: Measured, title: str, console: Console) -> None:
    """Measure each row once, its broken cases again; each with the original settings."""
    before = _cpu.get_config()
    measured.forget({case for row in rows for case in row.broken()})
    for row in track(rows, title, console=console, transient=True, auto_refresh=False):
        row.look()
        _cpu.set_config(**before)


def table(rows: Sequence[Row]) -> Table:
    """Every bar and the figure that comes nearest to it."""
    title = "What cyopt promises, and what it reached (Adam float32 unless said)"
    grid = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("", "threads", "bar", "reached", "nearest to it", ""):
        grid.add_column(heading)
    for row in rows:
        grid.add_row(*cells(row.bar, row.worst()))
    return grid


def cells(bar: Bar, value: Value | None) -> list[str]:
    """A row of the table."""
    sign = "<=" if bar.at_most else ">="
    promise = [bar.text, str(bar.threads), f"{sign} {bar.limit:.3g} {bar.unit}"]
    if value is None:
        return [*promise, "", "", "not measured"]
    verdict = "[green]holds[/]" if bar.holds(value.figure) else "[red]does not hold[/]"
    return [*promise, f"{value.figure:.3g} {bar.unit}", value.where, verdict]


def measured_again(row: Row) -> Iterator[str]:
    """The figures of each case that broke the bar when it was first measured."""
    bar = f"{row.bar.text}, {count(row.bar.threads, 'thread')}"
    for case, found in row.broken().items():
        yield f"measured again: {bar}, {case}: {', '.join(digits(figure) for figure in found)}"


def save(file: Path, about: Mapping[str, str], rows: Sequence[Row], measured: Measured) -> None:
    """JSON: the machine, each bar with its figure and case, and the records behind them."""
    kept = {
        "machine": about,
        "bars": [as_dict(row) for row in rows],
        "records": [record.as_dict() for record in measured.records],
        "skipped": measured.skipped,
    }
    write_json(file, kept)


def as_dict(row: Row) -> dict[str, Any]:
    """What is kept of a bar; `again` has the cases that were measured three times."""
    bar, value = row.bar, row.worst()
    return {
        "text": bar.text,
        "threads": bar.threads,
        "at_most" if bar.at_most else "at_least": bar.limit,
        "reached": value and value.figure,
        "where": value and value.where,
        "again": row.broken(),
    }
