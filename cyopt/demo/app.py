"""Trains, prints and saves what the arguments ask for."""

import argparse
from itertools import pairwise

from rich.console import Console
from rich.progress import Progress
from threadpoolctl import threadpool_limits

import cyopt

from .report import save_picture, table
from .training import Comparison, Digits, load, prepare, train


def run(args: argparse.Namespace) -> int:
    """The demo; returns the exit code."""
    console = Console()
    digits = load(args.dtype, args.seed)
    widths = [digits.train_images.shape[1], *args.hidden, 10]
    console.print(describe(args, widths, digits))
    comparisons = []
    for name in dict.fromkeys(args.optimizers):
        comparison = prepare(name, widths, args.dtype, args.seed)
        train_with_progress(comparison, digits, args, console)
        console.print(table(comparison))
        comparisons.append(comparison)
    save_picture(args.output, comparisons)
    console.print(f"picture: {args.output}", soft_wrap=True)
    return 0 if all(comparison.same_bits for comparison in comparisons) else 1


def describe(args: argparse.Namespace, widths: list[int], digits: Digits) -> str:
    """The data and the network in two lines."""
    count = sum((inputs + 1) * outputs for inputs, outputs in pairwise(widths))
    return (
        f"cyopt {cyopt.__version__}: {len(digits.train_labels):,} handwritten digits to learn from,"
        f" {len(digits.test_labels)} to test\n"
        f"network {'-'.join(map(str, widths))}, {count:,} parameters, {args.dtype},"
        f" batches of {args.batch}, 1 BLAS thread\n"
    )


def train_with_progress(
    comparison: Comparison, digits: Digits, args: argparse.Namespace, console: Console
) -> None:
    """`train` under a progress bar that disappears at the end.

    Products of this size gain nothing from a second BLAS thread, and on a busy machine each waits
    milliseconds for it.
    """
    with Progress(console=console, transient=True) as progress, threadpool_limits(1, "blas"):
        task = progress.add_task(comparison.name, total=args.epochs * len(comparison.runs))
        train(
            comparison,
            digits,
            args.epochs,
            args.batch,
            args.seed,
            advance=lambda: progress.advance(task),
        )
