"""`python -m cyopt bench`: how fast a step is, against NumPy and against memory.

This module imports nothing but the standard library, so that `--help` and the message about what is
missing work everywhere; the rest needs `pip install "cyopt[bench]"`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from cyopt.extras import libraries_are_there, output_file

__all__ = ["add_arguments", "main"]

DEVICES = ("cpu", "cuda")
UNITS = ("time", "ns", "GB/s")
LIBRARIES = {
    "cpuinfo": "py-cpuinfo",
    "matplotlib": "matplotlib",
    "psutil": "psutil",
    "rich": "rich",
}

MODELS_END = "-models"  # ends the name of the second picture


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the benchmark's arguments on the caller's parser."""
    parser.description = (
        "Time one optimizer step: NumPy as people write it, NumPy without temporaries, cyopt with"
        " each instruction set, and the traffic twin, which moves the same bytes and computes next"
        " to nothing; for each rule, dtype and size, and for the parameter lists of real models, on"
        " one thread and on all. Each result is checked first, and a wrong one is not timed."
    )
    parser.epilog = (
        "The exit code is 0; 1 if a result was wrong, nothing was measured, a file could not be"
        ' saved, or a library is missing (pip install "cyopt[bench]"); 2 for wrong arguments; 130'
        " after Ctrl-C, which prints and saves what was measured before it."
    )
    add = parser.add_argument
    add(
        "--only",
        nargs="+",
        action="extend",
        type=_term,
        default=[],
        metavar="WHAT",
        help="any of: rules (adam), dtypes (float32), sizes (10M), models (resnet50), threads (1t,"
        " all), as in: --only adam float32 1M 10M resnet50 1t. A kind that is not named is"
        " measured in full; sizes and models are one kind. An unknown word lists all",
    )
    add(
        "--unit",
        choices=UNITS,
        default="time",
        help="what the tables show: the time of a step, nanoseconds per element, or GB/s",
    )
    add(
        "--device",
        choices=DEVICES,
        default="cpu",
        help="cuda: time cyopt on the first GPU instead, beside the driver's copy within it"
        ' (pip install "cyopt[cuda]")',
    )
    add("--quick", action="store_true", help="a few cases, less exactly, in under 30 seconds")
    add("--json", type=output_file(".json"), metavar="FILE", help="where to save every measurement")
    add(
        "--plot",
        type=output_file(".png", MODELS_END),
        metavar="FILE",
        help="where to save the pictures: GB/s over size in FILE.png, and the models' speed-ups in"
        " FILE-models.png",
    )


def main(
    args: argparse.Namespace, more: Sequence[Any] = (), about: Mapping[str, str] | None = None
) -> int:
    """Runs the benchmark, with `more` implementations besides cyopt's own; returns the exit code.

    `about` adds to the description of the machine, such as the versions of what is measured.
    """
    if not libraries_are_there("bench", LIBRARIES):
        return 1
    try:
        from cyopt.bench import app

        return app.run(args, more, about or {})
    except KeyboardInterrupt:
        return 130


def _term(text: str) -> Any:
    """The type of an argument; the module that knows the words is imported when one is used."""
    from cyopt.bench.selection import term

    return term(text)
