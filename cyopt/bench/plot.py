"""The pictures: GB/s over size, and the models' speed-ups."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, NullLocator

from cyopt.bench import MODELS_END
from cyopt.bench.compare import by_workload, default_cyopt, find, times_faster, unique
from cyopt.bench.implementations import (
    AS_WRITTEN,
    COPY,
    CYOPT,
    DAXPY,
    DEVICE_COPY,
    HOST_ALONE,
    TRIAD,
    TWIN,
)
from cyopt.bench.report import digits, runs_on
from cyopt.bench.run import Record
from cyopt.bench.workloads import MODELS, short
from cyopt.extras import beside

ROOF_STYLES: dict[str, dict[str, Any]] = {
    TWIN: {"color": "black", "linestyle": "--", "linewidth": 1.3, "zorder": 5},
    COPY: {"color": "0.55", "linestyle": "-.", "linewidth": 1.2, "marker": "x"},
    TRIAD: {"color": "0.55", "linestyle": ":", "linewidth": 1.6, "marker": "+"},
    DEVICE_COPY: {"color": "black", "linestyle": "--", "linewidth": 1.3, "zorder": 5},
    DAXPY: {"color": "0.35", "linestyle": (0, (5, 1)), "linewidth": 1.0, "marker": "1"},
}
# cyopt from the newest instruction set to the oldest: thin lines are drawn over wide ones.
OURS: list[dict[str, Any]] = [
    {"color": "#08306b", "linewidth": 2.0, "zorder": 4.3},
    {"color": "#2f7fc1", "linewidth": 3.5, "zorder": 4.2},
    {"color": "#9ecae1", "linewidth": 5.0, "zorder": 4.1},
]
COLOURS = ["#e69f00", "#b35806", "#1b9e77", "#d62728", "#7b3294", "#a6d854"]
COLOURS += ["#e377c2", "#8c564b", "#17becf", "#bcbd22", "#525252", "#c51b7d"]
MARKERS = "osv^D<>PXphd"

Style = dict[str, Any]
Draw = Callable[[Axes, Sequence[Record], int, dict[str, Style]], None]


def save(path: Path, records: Sequence[Record]) -> list[Path]:
    """Write the pictures of what was measured; returns their files.

    The sizes are in `path`, and the models in a file whose name ends in `-models`.
    """
    models = beside(path, MODELS_END)
    records = [r for r in records if r.implementation != HOST_ALONE]  # ends before the bytes move
    styles = styles_of(unique(r.implementation for r in records))
    files = []
    for file, draw, size, are_models in (
        (path, draw_sizes, (4.2, 3.2), False),
        (models, draw_models, (5.6, 3.2), True),
    ):
        kind = [r for r in records if (r.workload in MODELS) is are_models]
        if kind:
            panels(kind, styles, draw, size).savefig(file, dpi=110)
            files.append(file)
    return files


def styles_of(names: Sequence[str]) -> dict[str, Style]:
    """How each implementation is drawn, the same in all pictures."""
    ours = [name for name in names if name.startswith(CYOPT)]
    others = [name for name in names if name not in ROOF_STYLES and name not in ours]
    return {
        **ROOF_STYLES,
        **dict(zip(ours, OURS, strict=False)),
        **{
            name: {"color": colour, "marker": marker, "markersize": 4.5, "linewidth": 1.2}
            for name, colour, marker in zip(others, cycle(COLOURS), cycle(MARKERS))
        },
    }


def panels(
    records: Sequence[Record], styles: dict[str, Style], draw: Draw, size: tuple[float, float]
) -> Figure:
    """A row of panels for each rule; in it one for each dtype and number of threads."""
    rows = unique(r.rule for r in records)
    columns = unique(sorted((r.dtype, r.threads) for r in records))
    figure = Figure(layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), len(columns), squeeze=False, sharey="row")
    legend: dict[str, Any] = {}
    for rule, line in zip(rows, grid, strict=True):
        for (dtype, threads), axes in zip(columns, line, strict=True):
            here = [r for r in records if (r.rule, r.dtype) == (rule, dtype)]
            if not here:  # no case fits into memory
                axes.set_axis_off()
                continue
            draw(axes, here, threads, styles)
            axes.set_title(f"{rule} {dtype}, {runs_on(here, threads)}")
            handles, labels = axes.get_legend_handles_labels()
            legend |= dict(zip(labels, handles, strict=True))
        for axes in line[1:]:
            axes.set_ylabel("")
    across = max(1, int(size[0] * len(columns) / 2.2))
    figure.legend(
        legend.values(), legend.keys(), loc="outside lower center", ncols=across, frameon=False
    )
    below = 0.25 * math.ceil(len(legend) / across) + 0.2
    figure.set_size_inches(size[0] * len(columns), size[1] * len(rows) + below)
    return figure


def draw_sizes(
    axes: Axes, records: Sequence[Record], threads: int, styles: dict[str, Style]
) -> None:
    """A line for each implementation: the rule's bytes per second over the number of elements."""
    for name in unique(r.implementation for r in records):
        points = [r for r in records if (r.implementation, r.threads) == (name, threads)]
        if points:
            x, y = [r.elements for r in points], [r.gigabytes_per_second for r in points]
            axes.plot(x, y, label=name, **{"marker": ".", **styles[name]})
    sizes = sorted({r.elements for r in records})
    axes.set_xscale("log")
    axes.set_xticks(sizes, [short(n) for n in sizes], fontsize=8)
    axes.xaxis.set_minor_locator(NullLocator())
    log_ticks(axes)
    axes.set_xlabel("elements")
    axes.set_ylabel("GB/s of the rule's own bytes")
    axes.grid(alpha=0.25)


def draw_models(
    axes: Axes, records: Sequence[Record], threads: int, styles: dict[str, Style]
) -> None:
    """Groups of bars, a group for each model: how many times as fast as NumPy as written.

    Where that was not measured, the traffic twin takes its place, or on a GPU the copy within it.
    """
    cases = by_workload(records)
    top = DEVICE_COPY if find(cases[0], DEVICE_COPY, 1) else TWIN
    base = AS_WRITTEN if find(cases[0], AS_WRITTEN, 1) else top
    here = unique(r.implementation for r in records if r.threads == threads)
    names = [n for n in here if n not in (*ROOF_STYLES, base) and not n.startswith(CYOPT)] + [CYOPT]
    width = min(0.84 / len(names), 0.3)
    left = np.arange(len(cases)) - width * len(names) / 2
    foot = 1 if base == AS_WRITTEN else 0  # bars on a logarithmic axis stand on 1
    for i, name in enumerate(names):
        colour = OURS[0]["color"] if name == CYOPT else styles[name]["color"]
        speeds = np.array([speed(case, name, base, threads) for case in cases])
        axes.bar(left + (i + 0.5) * width, speeds - foot, width, foot, label=name, color=colour)
    roofs = np.array([speed(case, top, base, threads) for case in cases])
    right = left + width * len(names)
    axes.hlines(roofs, left, right, label=top, **ROOF_STYLES[top])
    behind = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5}
    for x, ours in zip(right - width / 2, speeds, strict=True):
        if ours > 0:  # not NaN
            where: Any = {"textcoords": "offset points", "ha": "center", "bbox": behind}
            where["zorder"] = 6  # over the lines
            axes.annotate(digits(ours), (x, ours), (0, 3), **where)
    axes.axhline(1, color="0.4", linewidth=0.8)
    if foot:
        log_ticks(axes)
    axes.margins(y=0.12)
    axes.set_xticks(
        range(len(cases)), [case[0].workload.replace("-", "-\n") for case in cases], fontsize=8
    )
    axes.set_ylabel(f"times as fast as {base if foot else f'the {base}'}")
    axes.grid(alpha=0.25, axis="y")
    axes.set_axisbelow(True)


def speed(case: Sequence[Record], name: str, base: str, threads: int) -> float:
    """How many times as fast as `base` an implementation is; NaN if either was not measured."""
    record = default_cyopt(case, threads) if name == CYOPT else find(case, name, threads)
    slow = find(case, base, 1 if base == AS_WRITTEN else threads)
    return times_faster(record, slow) or math.nan if record else math.nan


def log_ticks(axes: Axes) -> None:
    """Plain numbers on a logarithmic y axis, about three in a decade."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
