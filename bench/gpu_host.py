"""`python bench/gpu_host.py`: the host's time of an Adam step of many small arrays on a GPU.

Timed until `step` returns, over consecutive calls that start with the GPU idle. For comparison:
reading each array's address in its library's fastest way; reading all by which a step recognizes an
array (address, form, whether torch negates it); torch's own step. Medians of interleaved rounds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from statistics import median
from timeit import Timer
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

import cyopt
from cyopt.bench.machine import describe, load
from cyopt.bench.report import write_json
from cyopt.bench.timing import spread
from cyopt.cuda import driver, libraries
from cyopt.cuda.arrays import DeviceArray
from cyopt.extras import output_file

COUNTS = (1, 200)  # arrays
SIZE = 1_000  # elements of each
ROUNDS, CALLS = 15, 20
Timed = tuple[str, Callable[[], Any]]


def own(n: int) -> Iterator[Timed]:
    """The arrays of cyopt itself."""
    ones = np.ones(SIZE, np.float32)
    params, grads = ([DeviceArray.from_host(ones, 0) for _ in range(n)] for _ in range(2))
    yield from _steps("cyopt's arrays", params, grads, lambda array: array.identity[0])


def cupy(n: int) -> Iterator[Timed]:
    """Arrays of CuPy."""
    import cupy

    params, grads = ([cupy.ones(SIZE, cupy.float32) for _ in range(n)] for _ in range(2))
    yield from _steps("CuPy", params, grads, lambda array: array.data.ptr)


def numba(n: int) -> Iterator[Timed]:
    """Arrays of Numba."""
    from numba import cuda

    ones = np.ones(SIZE, np.float32)
    params, grads = ([cuda.to_device(ones) for _ in range(n)] for _ in range(2))
    yield from _steps("Numba", params, grads, lambda array: array.device_ctypes_pointer.value)


def torch(n: int) -> Iterator[Timed]:
    """Tensors of torch: stepped by cyopt, by its replacement for torch's Adam, and by torch's."""
    import torch

    from cyopt.integrations import torch as integration

    if not torch.cuda.is_available():
        raise ImportError("torch sees no GPU")
    params = [torch.ones(SIZE, device="cuda", requires_grad=True) for _ in range(n)]
    for param in params:
        param.grad = torch.ones_like(param)
    yield from _steps("torch", params, [p.grad for p in params], lambda tensor: tensor.data_ptr())
    yield "torch, cyopt.integrations", integration.Adam(params).step
    yield "torch, fused", torch.optim.Adam(params, fused=True).step


def _steps(
    name: str, params: list[Any], grads: list[Any], address: Callable[[Any], int]
) -> Iterator[Timed]:
    opt, arrays = cyopt.Adam(params), params + grads
    known = libraries.places(arrays)
    yield f"{name}, addresses", lambda: [address(array) for array in arrays]
    yield f"{name}, all that a step asks", lambda: known.find(arrays)
    yield f"{name}, step", lambda: opt.step(grads)


def measure(timed: list[Timed]) -> dict[str, list[float]]:
    """Seconds of a call in each round, by name."""
    wait = driver.device(0).wait
    seconds: dict[str, list[float]] = {name: [] for name, _ in timed}
    for _ in range(ROUNDS):
        for name, function in timed:
            function()
            wait()
            seconds[name].append(Timer(function).timeit(CALLS) / CALLS)
            wait()
    return seconds


def main() -> None:
    """Measure, and print a table."""
    about = "The host's time of an Adam step of many small arrays on a GPU, until it returns."
    parser = argparse.ArgumentParser("python bench/gpu_host.py", description=about)
    parser.add_argument(
        "--json", type=output_file(".json"), metavar="FILE", help="where to save all seconds"
    )
    args = parser.parse_args()
    console = Console()
    table = Table("us until it returns", *(f"{n} arrays" for n in COUNTS), box=box.SIMPLE_HEAD)
    found: dict[int, dict[str, list[float]]] = {}
    for n in COUNTS:
        timed: list[Timed] = []
        for library in (own, numba, cupy, torch):
            try:
                timed += library(n)
            except ImportError as error:
                console.print(f"without {library.__name__}: {error}", highlight=False)
        found[n] = measure(timed)
    for name in found[COUNTS[0]]:
        columns = [found[n][name] for n in COUNTS]
        table.add_row(name, *(f"{median(s) * 1e6:.1f} +- {spread(s):.0%}" for s in columns))
    console.print(table)
    if args.json is not None:
        write_json(args.json, {"machine": describe(load()), "seconds": found})


if __name__ == "__main__":
    main()
