"""`python bench/gpu_compile.py`: how long kernels for GPUs take to compile; no GPU is needed.

Every rule, plain and with all that a kernel can have besides, and every measuring kernel, in both
dtypes. A kernel is compiled at its first use, and its machine code then kept on disk.
"""

from __future__ import annotations

import argparse
from functools import partial
from itertools import product
from statistics import median
from timeit import Timer

from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from cyopt.bench.machine import describe, load
from cyopt.bench.report import write_json
from cyopt.cuda import compiler, measure
from cyopt.cuda.source import Source, Variant, function_source, rule_source
from cyopt.extras import output_file
from cyopt.rules import RULES

CAPABILITIES = ((7, 5), (9, 0))
DTYPES = ("float32", "float64")
ALL = {"coupled": True, "limited": True, "averaged": True, "zeroed": True, "decided": True}


def sources() -> list[Source]:
    """The kernels."""
    rules = product(RULES, DTYPES, ({}, ALL))
    updates = [rule_source(Variant(rule, dtype, **options)) for rule, dtype, options in rules]
    kernels = product(measure.KERNELS, DTYPES)
    return updates + [function_source(kernel, dtype) for kernel, dtype in kernels]


def compiled(source: Source, capability: tuple[int, int]) -> bytes:
    """From the text of a kernel to machine code."""
    return compiler.link(compiler.lto_ir(source, capability), capability)


def main() -> None:
    """Measure, and print a table."""
    about = "How long kernels for GPUs take to compile; no GPU is needed."
    parser = argparse.ArgumentParser("python bench/gpu_compile.py", description=about)
    parser.add_argument(
        "--json", type=output_file(".json"), metavar="FILE", help="where to save all seconds"
    )
    args = parser.parse_args()
    console = Console()
    cases = list(product(CAPABILITIES, sources()))
    found: dict[str, dict[str, float]] = {}
    for (major, minor), source in track(cases, "compiling", console=console, transient=True):
        own = found.setdefault(f"{major}.{minor}", {})
        own[source.name] = Timer(partial(compiled, source, (major, minor))).timeit(1)
    (first, initial), *_ = next(iter(found.values())).items()  # starts the compiler
    heads = ("compute capability", "kernels", "median", "longest")
    table = Table(*heads, box=box.SIMPLE_HEAD, title="seconds to compile a kernel")
    for capability, own in found.items():
        later = [own[name] for name in own if name != first]
        table.add_row(capability, str(len(later)), f"{median(later):.2f}", f"{max(later):.2f}")
    console.print(table)
    console.print(f"The very first, {first}, with the compiler's start: {initial:.2f}")
    if args.json is not None:
        write_json(args.json, {"machine": describe(load()), "seconds": found})


if __name__ == "__main__":
    main()
