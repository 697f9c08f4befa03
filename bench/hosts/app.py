"""Checks, measures, prints and saves the rows of some hosts."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from cyopt.bench import machine
from cyopt.bench.compare import UNSTEADY
from cyopt.bench.implementations import Subject
from cyopt.bench.report import amount, digits, duration, write_json
from cyopt.bench.timing import Effort, measure, ratio, spread
from cyopt.runtime import Info

from . import HOSTS
from .rows import Row

STEP = Effort(rounds=11, least=5, sample=20e-3, budget=1.0)
TRAINING = Effort(rounds=11, least=5, sample=20e-3, budget=3.0)

HOW_TO_READ = (
    "The time of one step of the optimizer, and of a whole training, with the host's own optimizer"
    f" and with cyopt's: medians of interleaved rounds; ~ marks one whose quartiles are more than"
    f" {UNSTEADY:.0%} of it apart. Both trainings reach the same loss, as near as the row allows."
)


class Times(NamedTuple):
    """Seconds in each round, of the host's own optimizer and of cyopt's."""

    own: list[float]
    cyopt: list[float]

    def cells(self) -> list[str]:
        """Both medians and how many times cyopt is as fast."""
        medians = [duration(median(t)) + "~" * (spread(t) > UNSTEADY) for t in self]
        return [*medians, f"{digits(ratio(self.own, self.cyopt))} x"]

    def as_dict(self) -> dict[str, Any]:
        """For JSON, in 4 digits."""
        rounds = {name: list(map(rounded, times)) for name, times in self._asdict().items()}
        spreads = {f"{name}_spread": rounded(spread(times)) for name, times in rounds.items()}
        return {"ratio": rounded(ratio(self.own, self.cyopt)), **spreads, **rounds}


def rounded(x: float) -> float:
    """To 4 digits."""
    return float(f"{x:.4g}")


class Result(NamedTuple):
    """A row that was measured."""

    row: Row
    losses: tuple[float, float]
    step: Times
    training: Times

    def cells(self) -> list[str]:
        """A line of the table."""
        row = self.row
        return [row.own, row.task, amount(row.numbers), *self.step.cells(), *self.training.cells()]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        named = {name: getattr(self.row, name) for name in ("own", "task", "numbers", "tolerance")}
        times = {"step": self.step.as_dict(), "training": self.training.as_dict()}
        return {**named, "losses": self.losses, **times}


class UnequalError(ArithmeticError):
    """The two trainings did not reach the same loss."""


def run_row(row: Row, step: Effort = STEP, training: Effort = TRAINING) -> Result:
    """Check and measure a row; raises UnequalError for losses too far apart."""
    sides = row.sides()
    own, ours = (side.train() for side in sides)
    if not abs(own - ours) <= row.tolerance * abs(own):
        raise UnequalError(
            f"the losses are {own!r} and {ours!r}; expected them to differ by at most"
            f" {row.tolerance:g} of the first"
        )
    times = Times(*timed([side.train for side in sides], training))
    some = timed([side.step for side in sides], step)
    one = Times(*([seconds / row.steps for seconds in each] for each in some))
    return Result(row, (own, ours), one, times)


def timed(functions: Iterable[Callable[[], object]], effort: Effort) -> list[list[float]]:
    """Seconds of a call of each, in rounds."""
    subjects = [Subject("", "call()", {"call": function}) for function in functions]
    return measure(subjects, effort, lambda: None)


def run(hosts: Sequence[str], file: Path | None) -> int:
    """Measure the rows of these hosts; returns the exit code, as of `python -m cyopt bench`."""
    console = Console(width=None if sys.stdout.isatty() else 130)
    load = machine.load()
    modules, about = imported(hosts, console)
    described = {**machine.describe(load), **about}
    console.print(str(Info(described)), highlight=False, markup=False)
    if load.is_busy:
        console.print(f"The machine is busy ({load}).", style="yellow")
    rows = [row for module in modules for row in module.ROWS]
    results, wrong, interrupted = [], [], False
    try:
        for row in track(rows, "hosts", console=console, transient=True, auto_refresh=False):
            gc.collect()
            try:
                results.append(run_row(row))
            except Exception as error:  # of a host: the others are measured all the same
                wrong.append(f"{row.own}, {row.task}: {type(error).__name__}: {error}")
    except KeyboardInterrupt:
        interrupted = True
        console.print("Interrupted: this is what was measured before.", style="yellow")
    console.print(f"\n{HOW_TO_READ}\n", highlight=False)
    console.print(table(results))
    for text in wrong:
        console.print(f"WRONG, not timed: {text}", style="red", markup=False)
    if file:
        save(file, described, results, wrong)
        console.print(f"saved: {file}", highlight=False, soft_wrap=True)
    return 130 if interrupted else 1 if wrong or not results else 0


def imported(hosts: Sequence[str], console: Console) -> tuple[list[Any], dict[str, str]]:
    """The modules of this folder whose hosts are there, and the hosts' versions."""
    modules, about = [], {}
    for host in hosts:
        try:
            modules.append(import_module(f"hosts.{host}"))
        except ImportError as error:  # missing, or too old
            cure = "make bench-hosts installs what it needs"
            console.print(f"Measuring without {HOSTS[host]}: {error}; {cure}", style="yellow")
        else:
            about[HOSTS[host]] = version(HOSTS[host])
    return modules, about


def table(results: Iterable[Result]) -> Table:
    """A line for each row."""
    grid = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for heading in ("beside", "training", "numbers"):
        grid.add_column(heading)
    for what in ("step", "training"):
        for heading in (f"{what},\nits own", "cyopt's", ""):
            grid.add_column(heading, justify="right")
    for result in results:
        grid.add_row(*result.cells())
    return grid


def save(
    file: Path, about: Mapping[str, str], results: Iterable[Result], wrong: Sequence[str]
) -> None:
    """JSON: the machine, the rows with their rounds, and what was refused."""
    rows = [result.as_dict() for result in results]
    write_json(file, {"machine": about, "rows": rows, "wrong": list(wrong)})
