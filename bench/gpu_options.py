"""`python bench/gpu_options.py`: what the options of an Adam step cost on a GPU.

Medians of interleaved rounds, each of several steps until the GPU has done them. Beside a step's
time: how many plain steps take as long, and how many plain steps move as many bytes. A plain step
reads and writes 7 numbers per element, and each option some more.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from itertools import product
from statistics import median
from timeit import Timer
from typing import Any, NamedTuple

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

import cyopt
from cyopt.bench.machine import describe, load
from cyopt.bench.report import write_json
from cyopt.bench.timing import spread
from cyopt.bench.workloads import Workload, model, one_array
from cyopt.cuda import driver
from cyopt.cuda.arrays import DeviceArray
from cyopt.extras import output_file

PLAIN = 7  # numbers: p, g, m and v are read; p, m and v written
ROUNDS, CALLS = 9, 10


class Option(NamedTuple):
    """An option, and how many numbers per element it reads and writes besides a plain step's."""

    arguments: dict[str, Any]  # of the optimizer
    more: int
    norms: bool = False  # of the step


OPTIONS = {
    "plain": Option({}, 0),
    "clip_norm": Option({"clip_norm": 1.0}, 1),  # the gradients once more
    "skip_nonfinite": Option({"skip_nonfinite": True}, 1),
    "both of them": Option({"clip_norm": 1.0, "skip_nonfinite": True}, 1),
    "zero_grads": Option({"zero_grads": True}, 1),
    "ema": Option({"ema": 0.999}, 2),
    "capturable": Option({"capturable": True}, 0),
    # A copy of the parameters; how far they moved from it; their norm.
    "norms=True": Option({}, 1 + 2 + 2 + 1, norms=True),
}
WORKLOADS = {"64M": partial(one_array, 64_000_000), "resnet50": partial(model, "resnet50")}


def steps(workload: Workload, dtype: str) -> dict[str, Callable[[], Any]]:
    """A step with each option, over random numbers: with zeros, division and root take longer.

    `zero_grads` has its own gradients, zero from its second step on; its state is not zero.
    """
    numbers = np.random.default_rng(0).standard_normal(1 << 20).astype(dtype)
    arrays = [np.resize(numbers, shape) for shape in workload.shapes]
    shared = _on_gpu(arrays)
    made: dict[str, Callable[[], Any]] = {}
    for name, option in OPTIONS.items():
        grads = _on_gpu(arrays) if name == "zero_grads" else shared
        opt = cyopt.Adam(_on_gpu(arrays), **option.arguments)
        made[name] = partial(opt.step, grads, norms=option.norms)
    return made


def _on_gpu(arrays: list[np.ndarray[Any, Any]]) -> list[DeviceArray]:
    return [DeviceArray.from_host(array, 0) for array in arrays]


def measure(workload: Workload, dtype: str) -> dict[str, list[float]]:
    """Seconds of a step in each round, by option."""
    wait = driver.device(0).wait
    timed = steps(workload, dtype)
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(ROUNDS):
        for name, step in timed.items():
            step()
            wait()
            stepping, waiting = Timer(step), Timer(wait)  # made before: that takes time
            seconds[name].append((stepping.timeit(CALLS) + waiting.timeit(1)) / CALLS)
    return seconds


def _cell(seconds: list[float], plain: list[float]) -> str:
    ratio = median(seconds) / median(plain)
    return f"{median(seconds) * 1e6:.0f} +-{spread(seconds):.0%}\n{ratio:.2f}"


def main() -> None:
    """Measure, and print a table."""
    about = "What the options of an Adam step cost on a GPU."
    parser = argparse.ArgumentParser("python bench/gpu_options.py", description=about)
    parser.add_argument(
        "--json", type=output_file(".json"), metavar="FILE", help="where to save all seconds"
    )
    args = parser.parse_args()
    console = Console()
    cases = list(product(WORKLOADS, ("float32", "float64")))
    found: dict[str, dict[str, list[float]]] = {}
    for name, dtype in track(cases, "measuring", console=console, transient=True):
        found[f"{name} {dtype}"] = measure(WORKLOADS[name](), dtype)
    heads = [name.replace(" ", "\n") for name in found]
    table = Table("us\nplain steps", *heads, "bytes of\nplain steps", box=box.SIMPLE_HEAD)
    for name, option in OPTIONS.items():
        cells = [_cell(seconds[name], seconds["plain"]) for seconds in found.values()]
        table.add_row(name, *cells, f"{1 + option.more / PLAIN:.2f}")
    console.print(table)
    if args.json is not None:
        write_json(args.json, {"machine": describe(load()), "seconds": found})


if __name__ == "__main__":
    main()
