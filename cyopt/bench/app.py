"""Measures, prints and saves what the arguments ask for."""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from cyopt import _cpu
from cyopt.bench import machine, plot, report
from cyopt.bench.cases import Case, Rule
from cyopt.bench.implementations import OWN, Implementation
from cyopt.bench.run import Record, fits, run_case
from cyopt.bench.selection import FULL_CHOICE, GPU_CHOICES, QUICK_CHOICE, Selection, select
from cyopt.bench.timing import FULL, QUICK, Effort
from cyopt.bench.workloads import Workload

_SMALL = 1_000_000  # elements


def run(args: argparse.Namespace, more: Sequence[Implementation], about: Mapping[str, str]) -> int:
    """The benchmark; returns the exit code."""
    console = Console(width=None if sys.stdout.isatty() else 100)
    effort = QUICK if args.quick else FULL
    own, choices, how_to_read = OWN, (QUICK_CHOICE, FULL_CHOICE), report.HOW_TO_READ
    if args.device == "cuda":
        from cyopt.bench import gpu

        try:
            gpu.device()
        except RuntimeError as error:
            console.print(f"--device cuda: {error}", highlight=False, markup=False)
            return 1
        own, choices, how_to_read = gpu.OWN, GPU_CHOICES, report.ON_GPU_HOW_TO_READ
    selection = select(args.only, choices[not args.quick])
    results = introduce(console, selection, effort, about, how_to_read)
    before = _cpu.get_config()
    interrupted = False
    try:
        Measurement(console, selection, effort, [*own, *more], results, args.unit).run()
    except KeyboardInterrupt:
        interrupted = True
        console.print("Interrupted: this is what was measured before.", style="yellow")
    finally:  # also after an error: what was measured is kept
        _cpu.set_config(**before)
        saved = conclude(console, results, args)
    if interrupted:
        return 130
    return 1 if results.wrong or not results.records or not saved else 0


def introduce(
    console: Console,
    selection: Selection,
    effort: Effort,
    more: Mapping[str, str],
    how_to_read: str,
) -> report.Results:
    """Print the machine and how to read the tables; returns empty results."""
    load = machine.load()
    about = machine.describe(load)
    about.update(more)
    console.print(str(about), highlight=False, markup=False)
    if load.is_busy:
        console.print(f"\nThe machine is busy ({load}): run again once it is idle.", style="yellow")
    console.print(f"\n{how_to_read}\n", highlight=False)
    return report.Results(about, {**selection.as_dict(), **effort._asdict()})


def conclude(console: Console, results: report.Results, args: argparse.Namespace) -> bool:
    """Print what the tables do not say, and save the files; False if one could not be saved."""
    for line in report.conclusion(results):
        console.print(line)
    saved = True
    draw = partial(plot.save, records=results.records)
    for file, save in ((args.json, results.save), (args.plot, draw)):
        try:
            for path in save(file) if file else ():
                console.print(f"saved: {path}", highlight=False, soft_wrap=True)
        except OSError as error:  # such as a full disk
            text = f"not saved: {file}: {error}"
            console.print(text, style="red", markup=False, soft_wrap=True)
            saved = False
    return saved


@dataclass
class Measurement:
    """All cases of a selection in turn, under a progress bar that disappears at the end.

    The bar is drawn between rounds and never during one: a thread that draws would take time from
    what is measured.
    """

    console: Console
    selection: Selection
    effort: Effort
    implementations: Sequence[Implementation]
    results: report.Results
    unit: str

    def run(self) -> None:
        """Fill the results; print the tables of each rule and dtype when they are complete."""
        pairs = list(product(self.selection.rules, self.selection.dtypes))
        total = len(pairs) * sum(map(weight, self.selection.workloads))
        columns = (BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        text = TextColumn("{task.description}")
        with Progress(
            *columns, text, console=self.console, transient=True, auto_refresh=False
        ) as self.progress:
            self.task = self.progress.add_task("", total=total)
            for rule, dtype in pairs:
                self.rule(rule, dtype)

    def rule(self, rule: Rule, dtype: str) -> None:
        """All workloads and their tables; after an error or Ctrl-C, those measured so far."""
        records: list[Record] = []
        try:
            for workload in self.selection.workloads:
                name = f"{rule.name} {dtype} {workload.name}"
                self.progress.update(self.task, description=name, refresh=True)
                gc.collect()  # the last case: its subjects and their closures form cycles
                if fits(rule, dtype, workload, len(self.implementations)):
                    records += self.case(Case(rule, dtype, workload))
                else:
                    self.results.skipped.append(name)
                    self.progress.advance(self.task, weight(workload))
        finally:
            self.results.records += records
            for table in report.tables(records, self.console.width, self.unit):
                self.console.print(table)

    def case(self, case: Case) -> list[Record]:
        """The records of one case."""
        part = weight(case.workload) / self.effort.rounds
        advance = partial(self.progress.update, self.task, advance=part, refresh=True)
        records, wrong = run_case(
            case, self.implementations, self.selection.threads, self.effort, advance
        )
        self.results.wrong += wrong
        return records


def weight(workload: Workload) -> int:
    """A case's part of the progress: large ones take time by their size, small ones the same."""
    return workload.elements + _SMALL
