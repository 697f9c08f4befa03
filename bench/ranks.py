"""`mpiexec -n 2 python bench/ranks.py`: a step of several ranks, with all communication.

For comparison: plain collectives of as many bytes with the step alone; and torch's
DistributedDataParallel over gloo with its fused Adam, and with ZeroRedundancyOptimizer. Adam in
float32; each rank has one thread. A time is the slowest rank's.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
from mpi4py import MPI
from rich import box
from rich.console import Console
from rich.table import Table

import cyopt
from cyopt.bench.report import digits, duration, write_json
from cyopt.bench.timing import ratio, spread
from cyopt.bench.workloads import MODELS, Workload, model
from cyopt.distributed import DataParallel
from cyopt.extras import output_file

COMM = MPI.COMM_WORLD
Step = Callable[[], object]
PLAIN, SHARD = "cyopt", "cyopt, shard=True"
ALLREDUCE, SCATTER_GATHER = "Allreduce, step", "Reduce_scatter, step, Allgather"
DDP, ZERO = "torch DDP, fused", "torch ZeroRedundancyOptimizer"
BASE = {PLAIN: ALLREDUCE, SHARD: SCATTER_GATHER}
PEER = {PLAIN: DDP, SHARD: ZERO}


def arrays(workload: Workload) -> tuple[list[Any], list[Any]]:
    """Parameters and gradients, written to, so that all their memory is allocated."""
    rng = np.random.default_rng(COMM.rank)
    grads = [rng.standard_normal(shape, np.float32) for shape in workload.shapes]
    return [np.ones(shape, np.float32) for shape in workload.shapes], grads


def ours(params: list[Any], grads: list[Any]) -> dict[str, Step]:
    """Both modes."""
    steps: dict[str, Step] = {}
    for name, shard in ((PLAIN, False), (SHARD, True)):
        dp = DataParallel(cyopt.Adam(params), COMM, shard=shard)
        steps[name] = lambda dp=dp, grads=grads: dp.step(grads)  # type: ignore[misc]
    return steps


def plain_ones(workload: Workload) -> dict[str, Step]:
    """The same bytes moved by collectives over a single array, and a step over as many numbers."""
    size = -(-workload.elements // COMM.size) * COMM.size
    buffer = np.random.default_rng(0).standard_normal(size, np.float32)
    part = np.empty(size // COMM.size, np.float32)
    param = np.ones_like(buffer)
    whole, own = cyopt.Adam([param]), cyopt.Adam([param[: part.size]])
    scale = np.float32(1 / COMM.size)  # so that numbers stay in range

    def plain() -> None:
        COMM.Allreduce(MPI.IN_PLACE, buffer, MPI.SUM)
        whole.step([buffer])

    def shard() -> None:
        COMM.Reduce_scatter_block(buffer, part, MPI.SUM)
        own.step([part])
        COMM.Allgather(part, buffer)

    def tame(step: Step) -> Step:
        return lambda: (step(), buffer.__imul__(scale) if abs(buffer[0]) > 1e9 else None)

    return {ALLREDUCE: tame(plain), SCATTER_GATHER: tame(shard)}


def torchs(params: list[Any], grads: list[Any]) -> dict[str, Step]:
    """A backward pass that only hands over gradients, and the step."""
    import torch
    from torch.distributed.optim import ZeroRedundancyOptimizer
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    if not torch.distributed.is_initialized():
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", "29507")
        torch.distributed.init_process_group("gloo", rank=COMM.rank, world_size=COMM.size)

    class Give(torch.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, grads: Any, *params: Any) -> Any:
            ctx.grads = grads
            return torch.zeros(())

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            return None, *ctx.grads

    class Model(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.params = torch.nn.ParameterList(map(torch.from_numpy, params))
            self.grads = list(map(torch.from_numpy, grads))

        def forward(self) -> Any:
            return Give.apply(self.grads, *self.params)

    steps: dict[str, Step] = {}
    for name in (DDP, ZERO):
        net = DistributedDataParallel(Model(), gradient_as_bucket_view=True)
        if name == DDP:
            opt: Any = torch.optim.Adam(net.parameters(), fused=True)
        else:
            opt = ZeroRedundancyOptimizer(net.parameters(), torch.optim.Adam, fused=True)

        def step(net: Any = net, opt: Any = opt) -> None:
            opt.zero_grad()
            net().backward()
            opt.step()

        steps[name] = step
    return steps


def measure(steps: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    """Seconds of each in turn, the slowest rank's."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name, step in steps.items():
            COMM.Barrier()
            begin = time.perf_counter()
            step()
            took = COMM.allreduce(time.perf_counter() - begin, MPI.MAX)
            if turn:  # the first one allocates memory
                seconds[name].append(took)
    return seconds


def rows(workload: Workload, rounds: int) -> dict[str, list[float]]:
    """All times of a workload."""
    shared = arrays(workload)  # so that GPT-2 fits in memory
    steps = {**plain_ones(workload), **ours(*shared)}
    try:
        steps.update(torchs(*shared))
    except ImportError as error:
        if COMM.rank == 0:
            print(f"Measuring without torch: {error}")
    return measure(steps, rounds)


def table(name: str, seconds: dict[str, list[float]]) -> Table:
    """A line for each, compared with the plain one and with its peer."""
    heads = "", "a step", "spread", "of the plain one", "torch's / cyopt's"
    title = f"{name}, {COMM.size} ranks"
    grid = Table(*heads, box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for each, samples in seconds.items():
        share = f"{ratio(seconds[BASE[each]], samples):.0%}" if each in BASE else ""
        peer = seconds.get(PEER.get(each, ""))
        times = f"{digits(ratio(peer, samples))} x" if peer else ""
        grid.add_row(each, duration(median(samples)), f"{spread(samples):.0%}", share, times)
    return grid


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser("bench/ranks.py", description=__doc__)
    names = ", ".join(MODELS)
    parser.add_argument("models", nargs="*", type=model, metavar="MODEL", help=f"any of {names}")
    parser.add_argument("--rounds", type=int, default=11, help="at least 2")
    parser.add_argument("--json", type=output_file(".json"), help="where to save all seconds")
    args = parser.parse_args()
    if args.rounds < 2:
        parser.error(f"{args.rounds} rounds; a spread needs 2")
    cyopt.set_num_threads(1)
    found = {}
    for workload in args.models or [model("resnet50"), model("gpt2")]:
        name = workload.name
        found[name] = rows(workload, args.rounds)
        if COMM.rank == 0:
            Console(width=100, force_terminal=False).print(table(name, found[name]))
    if COMM.rank == 0 and args.json:
        write_json(args.json, {"library": MPI.Get_library_version().strip("\0"), **found})


if __name__ == "__main__":
    main()
