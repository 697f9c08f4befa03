"""Measures, prints and saves what the arguments ask for."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rich.console import Console

from cyopt.bench.cases import RULES, Case
from cyopt.bench.implementations import OWN, Implementation
from cyopt.bench.run import run_case
from cyopt.bench.timing import FULL, QUICK
from cyopt.bench.workloads import one_array


def run(args: argparse.Namespace, more: Sequence[Implementation] = ()) -> int:
    """The benchmark; returns the exit code."""
    console = Console()
    effort = QUICK if args.quick else FULL
    case = Case(RULES["adam"], "float32", one_array(100_000))
    records, wrong = run_case(case, [*OWN, *more], (1, 2), effort, lambda: None)
    for record in records:
        console.print(record.implementation, record.threads, record.median)
    return 1 if wrong else 0
