"""`mpiexec -n 2 python bench/scaling.py`: the predictions of docs/scaling.md, for many ranks.

    transfer of n bytes          a + n / B            a: latency of a message, B: bandwidth
    ring of P ranks, n bytes     reduce-scatter or all-gather: (P - 1) (a + n / P / B)
    tree (recursive halving)     the same bytes, log2(P) messages
    all-reduce                   reduce-scatter, then all-gather

Buckets are reduced one after another while the backward pass computes the next ones: a step lasts
until the last bucket is there, and then the update. Memory passes, the update and the reduction
between two ranks of one machine are measured here; the network between machines is given.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
from mpi4py import MPI
from rich import box
from rich.console import Console
from rich.table import Table

import cyopt
from cyopt.bench.report import digits
from cyopt.bench.workloads import MODELS, model

MIB = 1 << 20
BUCKETS = [MIB << k for k in range(9)]


class Network(NamedTuple):
    """The network between ranks, or between machines."""

    name: str
    latency: float  # seconds of a message
    bandwidth: float  # bytes per second


class Machine(NamedTuple):
    """The costs of one rank, in seconds per byte of gradients."""

    pack: float
    add: float  # what a reduction does with what arrives
    update: float


# Latencies are assumed, those of TCP over Ethernet and of RDMA.
NETWORKS = [Network("10 Gbit/s", 25e-6, 10e9 / 8), Network("100 Gbit/s", 3e-6, 100e9 / 8)]
RANKS = (8, 16, 32, 64, 128, 256, 512, 1024)
PER_MACHINE = 8  # ranks, in the hierarchical form


def ring(n: float, ranks: int, network: Network, add: float) -> float:
    """A reduce-scatter of n bytes; with `add` 0 an all-gather."""
    return (ranks - 1) * (network.latency + n / ranks * (1 / network.bandwidth + add))


def tree(n: float, ranks: int, network: Network, add: float) -> float:
    """The same by recursive halving, or doubling."""
    moved = n * (ranks - 1) / ranks
    return math.log2(ranks) * network.latency + moved * (1 / network.bandwidth + add)


def hierarchical(n: float, ranks: int, network: Network, add: float) -> float:
    """Within each machine first; then each of its ranks exchanges a part with other machines."""
    inside = min(PER_MACHINE, ranks)
    outside = ranks // inside
    shared = Network("", network.latency, network.bandwidth / inside)  # one wire for all of them
    within = ring(n, inside, within_machine(), 0.0)
    return within + (ring(n / inside, outside, shared, add) if outside > 1 else 0.0)


Way = Callable[[float, int, Network, float], float]
WAYS: dict[str, Way] = {"ring": ring, "tree": tree, "hierarchical": hierarchical}


def step(
    n: float, bucket: float, backward: float, ranks: int, network: Network, machine: Machine,
    way: Way, shard: bool,
) -> float:  # fmt: skip
    """Seconds from the start of a backward pass, which makes n bytes of gradients, to the end."""
    count = math.ceil(n / bucket)
    made, free = 0.0, 0.0  # when the next gradients are ready, and when the network is free
    for k in range(count):
        size = min(bucket, n - k * bucket)
        made += backward * size / n + size * machine.pack
        reduce = way(size, ranks, network, machine.add)
        free = max(made, free) + reduce
        if not shard:
            free += way(size, ranks, network, 0.0)
    update = n * machine.update / (ranks if shard else 1)
    gather = sum(way(min(bucket, n - k * bucket), ranks, network, 0.0) for k in range(count))
    return free + update + (gather if shard else 0.0)


def seconds(work: Callable[[], object]) -> float:
    """The median of some calls."""
    samples = []
    for _ in range(9):
        begin = time.perf_counter()
        work()
        samples.append(time.perf_counter() - begin)
    return float(np.median(samples))


@cache
def within_machine() -> Network:
    """From all-reduces of two ranks, which are two messages each and include the additions."""
    comm, n = MPI.COMM_WORLD, 4 * MIB
    small, large = np.zeros(1, np.float32), np.zeros(n // 4, np.float32)
    latency = seconds(lambda: comm.Allreduce(MPI.IN_PLACE, small, MPI.SUM)) / 2
    took = seconds(lambda: comm.Allreduce(MPI.IN_PLACE, large, MPI.SUM))
    return Network("shared memory", latency, n / 2 / (took / 2 - latency))


def measured() -> Machine:
    """This machine's costs, on one thread; beyond the cache, except the additions in a bucket."""
    cyopt.set_num_threads(1)
    n = 16 * MIB
    gradient, place = np.ones(n, np.float32), np.ones(n, np.float32)
    opt = cyopt.Adam([np.ones(n, np.float32)])
    opt.step([gradient])
    pack = seconds(lambda: np.multiply(gradient, np.float32(0.5), out=place))
    part, other = np.ones(MIB, np.float32), np.ones(MIB, np.float32)
    add = seconds(lambda: np.add(part, other, out=part))
    update = seconds(lambda: opt.step([gradient]))
    return Machine(pack / 4 / n, add / 4 / MIB, update / 4 / n)


def best(
    n: float, backward: float, ranks: int, network: Network, machine: Machine, way: Way, shard: bool
) -> tuple[float, float]:
    """The least time, and the bucket that gives it."""
    others = backward, ranks, network, machine, way, shard
    times = {bucket: step(n, bucket, *others) for bucket in BUCKETS}
    bucket = min(times, key=lambda b: times[b])
    return times[bucket], bucket


def prediction(name: str, n: float, backward: float, network: Network, machine: Machine) -> Table:
    """A row for each number of ranks."""
    headings = ["ranks"]
    for mode in ("plain", "shard"):
        headings += [f"{mode}, {way}" for way in WAYS]
    title = f"{name}, {network.name}: ms beyond a backward pass of {backward * 1e3:.0f} ms (MiB)"
    grid = Table(*headings, box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for ranks in RANKS:
        cells = [str(ranks)]
        for shard in (False, True):
            for way in WAYS.values():
                took, bucket = best(n, backward, ranks, network, machine, way, shard)
                cells.append(f"{digits((took - backward) * 1e3)} ({bucket // MIB})")
        grid.add_row(*cells)
    return grid


def main() -> None:
    """Measure the constants, and print the tables."""
    parser = argparse.ArgumentParser("bench/scaling.py", description=__doc__)
    names = ", ".join(MODELS)
    parser.add_argument("models", nargs="*", type=model, metavar="MODEL", help=f"any of {names}")
    parser.add_argument("--backward", type=float, default=200, help="ms of the backward pass")
    args = parser.parse_args()
    console = Console(width=100, force_terminal=False)
    if MPI.COMM_WORLD.size != 2:
        parser.error(f"{MPI.COMM_WORLD.size} ranks; run it with mpiexec -n 2")
    within = within_machine()
    if MPI.COMM_WORLD.rank:
        return
    machine = measured()
    rates = ", ".join(f"{name} {1 / x / 1e9:.1f} GB/s" for name, x in machine._asdict().items())
    console.print(f"of the gradients' bytes, measured: {rates};")
    message = f"a message {within.latency * 1e6:.2g} us, {within.bandwidth / 1e9:.1f} GB/s"
    console.print(f"between two ranks of this machine: {message}\n")
    for workload in args.models or [model("resnet50"), model("gpt2")]:
        n = 4.0 * workload.elements
        for network in NETWORKS:
            console.print(prediction(workload.name, n, args.backward * 1e-3, network, machine))


if __name__ == "__main__":
    main()
