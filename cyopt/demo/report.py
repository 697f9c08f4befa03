"""What the demo shows: a table for each optimizer and one picture."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.console import Group
from rich.table import Table
from rich.text import Text

from .training import Comparison, Run

HEADINGS = ["optimizer\nmedian us", "speed-up\n", "whole loop\nmean us", "test\naccuracy"]

# For each run in order: colour, and a line that leaves those below it visible.
COLOURS = ["#bdbdbd", "#7f7f7f", "#d62728", "#1f77b4"]
LINES: list[dict[str, Any]] = [
    {"linewidth": 7.0},
    {"linewidth": 3.5},
    {"linewidth": 1.5},
    {"linewidth": 0.0, "marker": "o", "markersize": 3.5},
]


def table(comparison: Comparison) -> Group:
    """The figures of one optimizer and, below, whether the bits are the same."""
    arguments = ", ".join(f"{name}={value}" for name, value in comparison.arguments.items())
    grid = Table(
        title=f"{comparison.name}({arguments}), {comparison.steps:,} steps",
        title_style="bold",
        title_justify="left",
    )
    grid.add_column("")
    for heading in HEADINGS:
        grid.add_column(heading, justify="right")
    for run in comparison.runs:
        grid.add_row(*cells(run, comparison), style="bold" if run is comparison.cyopt else "")
    return Group(grid, verdict(comparison), Text())


def cells(run: Run, comparison: Comparison) -> list[str]:
    """One run as texts: label, time, speed-up, time of the loop, accuracy."""
    return [
        run.label,
        f"{run.optimizer_us:,.1f}",
        f"{comparison.written.optimizer_us / run.optimizer_us:,.1f} x",
        f"{run.loop_us:,.1f}",
        f"{run.accuracy:.2%}",
    ]


def verdict(comparison: Comparison) -> Text:
    """`same bits: yes` or `no`."""
    answer = ("yes", "bold green") if comparison.same_bits else ("no", "bold red")
    return Text.assemble("same bits: ", answer, " (final parameters of the last two rows)")


def save_picture(path: Path, comparisons: list[Comparison]) -> None:
    """One row of two plots for each optimizer."""
    figure = Figure(figsize=(11.0, 0.6 + 3.6 * len(comparisons)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(
        "Handwritten digits, one network, the same batches: loss and time of the optimizer",
        fontsize=13,
    )
    rows = figure.subplots(len(comparisons), 2, squeeze=False, width_ratios=[1.0, 1.1])
    for (left, right), comparison in zip(rows, comparisons, strict=True):
        draw_losses(left, comparison)
        draw_times(right, comparison)
    figure.savefig(path, dpi=130)


def draw_losses(axes: Axes, comparison: Comparison) -> None:
    """The loss by epoch, later runs drawn thinner over earlier ones."""
    for run, colour, line in zip(comparison.runs, COLOURS, LINES, strict=True):
        epochs = range(1, len(run.epoch_losses) + 1)
        axes.plot(epochs, run.epoch_losses, label=run.label, color=colour, **line)
    axes.set_title(f"{comparison.name}: training loss")
    axes.set_xlabel("epoch")
    axes.set_ylabel("mean cross-entropy (nats)")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(title="four curves, on top of each other", fontsize=8, title_fontsize=8)


def draw_times(axes: Axes, comparison: Comparison) -> None:
    """One bar for each run."""
    runs = comparison.runs
    bars = axes.barh([r.label for r in runs], [r.optimizer_us for r in runs], color=COLOURS)
    texts = [f"{us} us, {ratio}" for _, us, ratio, *_ in (cells(r, comparison) for r in runs)]
    axes.bar_label(bars, texts, padding=4, fontsize=9)
    axes.set_title(f"{comparison.name}: optimizer step")
    axes.set_xlabel("median time per step (us)")
    axes.invert_yaxis()
    axes.margins(x=0.35)
