"""What the benchmark prints: tables, warnings, what was wrong; and the JSON file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from cyopt.bench import compare
from cyopt.bench.compare import find, times_faster
from cyopt.bench.implementations import (
    AS_WRITTEN,
    COPY,
    CYOPT,
    DAXPY,
    DEVICE_COPY,
    ON_GPU,
    TRIAD,
    TWIN,
)
from cyopt.bench.run import Record, Wrong
from cyopt.bench.workloads import MODELS

HOW_TO_READ = (
    "A step's time is the median of interleaved rounds; ~ marks one whose quartiles are more"
    f" than {compare.UNSTEADY:.0%} of it apart. GB/s count the bytes that the rule itself reads and"
    " writes. Shares are of the speed of the traffic twin (the same loop, threads and bytes, next"
    " to no arithmetic), and of memcpy, STREAM's triad and a += q*b moving as many bytes. Only the"
    " last one writes where it has read, as a step does; a step may be faster than the others. A"
    " share or ratio is the median of those of single rounds, not the ratio of median times."
)

ON_GPU_HOW_TO_READ = (
    "A step's time is the median of interleaved rounds, each of many calls and the wait until the"
    f" GPU has done them; ~ marks one whose quartiles are more than {compare.UNSTEADY:.0%} of it"
    " apart. GB/s count the bytes that the rule itself reads and writes. Shares are of the speed of"
    " the driver's copy within the GPU moving as many bytes, the median of those of single rounds."
)

_TOLERATED = 0.1  # the fraction of times that may be unsteady: an idle machine has next to none
_NAME, _COLUMN = 27, 10  # characters of a row's name, and of each column that follows


@dataclass
class Results:
    """All that a run measured."""

    machine: Mapping[str, str]
    settings: Mapping[str, Any]
    records: list[Record] = field(default_factory=list)
    wrong: list[Wrong] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def save(self, path: Path) -> list[Path]:
        """Write a JSON object; returns its file.

        `machine`: texts. `settings`: what was asked for, and how long was measured. `records`: one
        object for each implementation, number of threads and case, with the fields of
        `cyopt.bench.run.Record`, `median` and `spread` of its `seconds`, `ns_per_element` and
        `gigabytes_per_second`. `wrong`: `case`, `implementation`, and `error` as a part of the
        largest change, or null where it is not finite. `skipped`: the cases too large for memory.
        """
        wrong = [
            {**each._asdict(), "error": each.error if math.isfinite(each.error) else None}
            for each in self.wrong
        ]
        kept = {
            "machine": self.machine,
            "settings": self.settings,
            "records": [record.as_dict() for record in self.records],
            "wrong": wrong,
            "skipped": self.skipped,
        }
        write_json(path, kept)
        return [path]


def write_json(path: Path, kept: Mapping[str, Any]) -> None:
    """A JSON object whose lists have a line for each entry, to compare files line by line."""

    def text(value: Any) -> str:
        if not isinstance(value, list):
            return json.dumps(value)
        return "[\n" + ",\n".join(map(json.dumps, value)) + "\n]"

    body = ",\n".join(f"{json.dumps(name)}: {text(value)}" for name, value in kept.items())
    whole, path = f"{{\n{body}\n}}\n", path.resolve()
    if path.exists() and not (path.is_file() and os.access(path.parent, os.W_OK)):
        path.write_text(whole, encoding="utf-8")
        return
    part = path.with_name(f"{path.name}.part")  # a full disk leaves the old file
    try:
        part.write_text(whole, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def tables(records: Sequence[Record], width: int, unit: str) -> Iterator[Group]:
    """The tables of one rule and dtype: for each number of threads the sizes, then the models."""
    cases = compare.by_workload(records)
    most = max(1, (width - _NAME) // _COLUMN)
    for threads in sorted(compare.unique(r.threads for r in records)):
        for models in (False, True):
            kind = [c for c in cases if (c[0].workload in MODELS) is models]
            for i in range(0, len(kind), most):
                part = kind[i : i + most]
                yield Group(title(part[0], threads), table(part, threads, unit), Text())


def title(case: Sequence[Record], threads: int) -> Text:
    """The rule, the dtype, where it runs, and what a step moves."""
    record = case[0]
    size = record.bytes // record.elements
    text = f"{record.rule} {record.dtype}, {runs_on(case, threads)}, {size} bytes per element"
    return Text(text, "bold")


def runs_on(records: Iterable[Record], threads: int) -> str:
    """The GPU, or a number of threads."""
    return "GPU" if find(records, ON_GPU, threads) else count(threads, "thread")


def count(n: int, noun: str) -> str:
    """A number with its noun, such as 2 threads."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def table(cases: Sequence[Sequence[Record]], threads: int, unit: str) -> Table:
    """A column for each case, a row for each implementation; below, cyopt's figures."""
    grid = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    heading_of_rows, figure_of = CELLS[unit]
    grid.add_column(heading_of_rows, vertical="bottom")
    for case in cases:
        grid.add_column(heading(case[0]), justify="right", no_wrap=True)
    for name in compare.unique(r.implementation for c in cases for r in c if r.threads == threads):
        cells = [cell(find(case, name, threads), figure_of) for case in cases]
        grid.add_row(name, *cells, style="bold" if name.startswith(CYOPT) else "")
    grid.add_section()
    ours = next(
        (r.implementation for c in cases if (r := compare.default_cyopt(c, threads))), CYOPT
    )
    grid.add_row(f"of {ours}:")
    for label, figure in FIGURES.items():
        texts = [figure(case, compare.default_cyopt(case, threads)) for case in cases]
        if any(texts):
            grid.add_row("  " + label, *texts)
    return grid


def heading(record: Record) -> str:
    """A size; or a model, its elements and its arrays."""
    if record.workload not in MODELS:
        return record.workload
    return f"{record.workload}\n{amount(record.elements)}\nin {record.arrays:,}"


def cell(record: Record | None, figure: Callable[[Record], str]) -> Text:
    """A figure, marked if it is unsteady."""
    if record is None:
        return Text()
    unsteady = record.spread > compare.UNSTEADY
    return Text(figure(record) + ("~" if unsteady else " "), "dim" if unsteady else "")


Figure = Callable[[Sequence[Record], Record | None], str]


def _of(name: str) -> Figure:
    """The share of a roof."""

    def share(case: Sequence[Record], cyopt: Record | None) -> str:
        faster = times_faster(cyopt, find(case, name, cyopt.threads)) if cyopt else None
        return f"{faster:.0%} " if faster else ""

    return share


def _speed_up(case: Sequence[Record], cyopt: Record | None) -> str:
    # NumPy runs on one thread only; cyopt's other numbers of threads took part in its rounds.
    faster = times_faster(cyopt, find(case, AS_WRITTEN, 1)) if cyopt else None
    return f"{digits(faster)} x " if faster else ""


FIGURES: dict[str, Figure] = {
    "ns per element": lambda _, cyopt: f"{digits(cyopt.ns_per_element)} " if cyopt else "",
    "GB/s": lambda _, cyopt: f"{digits(cyopt.gigabytes_per_second)} " if cyopt else "",
    "share of the twin": _of(TWIN),
    "share of memcpy": _of(COPY),
    "share of triad": _of(TRIAD),
    "share of a += q*b": _of(DAXPY),
    "share of that copy": _of(DEVICE_COPY),
    "over NumPy as written": _speed_up,
    "spread": lambda _, cyopt: f"{cyopt.spread:.1%} " if cyopt else "",
}


# By unit: the heading of the rows, and the text of a cell.
CELLS: dict[str, tuple[str, Callable[[Record], str]]] = {
    "time": ("time of a step", lambda record: duration(record.median)),
    "ns": ("ns per element", lambda record: digits(record.ns_per_element)),
    "GB/s": ("GB/s", lambda record: digits(record.gigabytes_per_second)),
}


def duration(seconds: float) -> str:
    """Three digits and a unit.

    >>> duration(1.2345e-6), duration(0.01), duration(12.3), duration(0.9999)
    ('1.23 us', '10.0 ms', '12.3 s', '1.00 s')
    """
    seconds = float(f"{seconds:.3g}")
    factor, unit = next(
        ((f, unit) for f, unit in ((1, "s"), (1e3, "ms")) if seconds * f >= 1), (1e6, "us")
    )
    return f"{digits(seconds * factor)} {unit}"


def amount(n: int) -> str:
    """Three digits of a count.

    >>> amount(2_410), amount(124_439_808)
    ('2.41k', '124M')
    """
    factor, unit = (1e-6, "M") if n >= 1e6 else (1e-3, "k")
    return digits(n * factor) + unit


def digits(x: float) -> str:
    """Three digits, without an exponent.

    >>> digits(0.01234), digits(9.999), digits(1234)
    ('0.0123', '10.0', '1230')
    """
    x = float(f"{x:.3g}")
    return f"{x:.{max(0, 2 - math.floor(math.log10(x)))}f}"


def conclusion(results: Results) -> Iterator[Text]:
    """What to know about the tables above: skipped cases, a busy machine, wrong results."""
    if results.skipped:
        yield Text(f"too large for the free memory: {', '.join(results.skipped)}", "yellow")
    unsteady, times = compare.steadiness(results.records)
    if unsteady > _TOLERATED * times:
        yield Text(
            f"{unsteady} of {times} times of cyopt and the twin have a spread above"
            f" {compare.UNSTEADY:.0%}: the machine was busy, or changed its clock. Run again when"
            " nothing else is running, or trust only what is not marked.",
            "yellow",
        )
    for case, implementation, error, message in results.wrong:
        why = message or f"off by {error:.2g} of the largest change"
        yield Text(f"WRONG, not timed: {implementation}, {case}: {why}", "bold red")
