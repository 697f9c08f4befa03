"""What is measured: implementations of one step, each over the arrays of a case."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import cyopt
from cyopt import _cpu
from cyopt.bench import _roof, _twin
from cyopt.bench.cases import LR, Array, Case
from cyopt.demo import as_written, in_place


@dataclass
class Subject:
    """One implementation at one thread count: a statement to time, and the result to check."""

    name: str
    statement: str
    namespace: dict[str, Any]  # the names in `statement`
    threads: int = 1
    start: Callable[[], None] = lambda: None  # starts again, with zero state, before the check
    prepare: Callable[[], None] = lambda: None  # before each use, not timed: sets the threads
    results: Callable[[], Sequence[Array]] | None = None  # the parameters; None: nothing to check
    exact: bool = False  # the results must have the same bits as the reference's
    read_grads: Callable[[], None] = lambda: None  # updates copies of the gradients
    finish: Callable[[], None] | None = None  # waits for what the calls have started
    times_finish: bool = True


# Makes the subjects of one implementation for a case and the thread counts that are asked for;
# none for a rule, dtype or thread count that it cannot do.
Implementation = Callable[[Case, Sequence[int]], Iterable[Subject]]

AS_WRITTEN = "NumPy as written"
CYOPT, TWIN, COPY, TRIAD, DAXPY = "cyopt", "traffic twin", "memcpy", "triad", "a += q*b"
READ, DEVICE_COPY = "a read-only pass", "copy on the GPU"
ROOFS = (TWIN, COPY, TRIAD, DAXPY, READ, DEVICE_COPY)  # compute nothing, so have no result
ON_GPU, HOST_ALONE = f"{CYOPT} on the GPU", f"{CYOPT}, until it returns"
ROOF_BYTES = 1 << 30  # of memory for the roof, beyond any cache; more is moved in several passes
# Bytes of a step from which a roof is measured, on one thread and on several: starting these from
# Python takes some 0.1 ms.
_ROOF_FROM, _PARALLEL_ROOF_FROM = 8_000_000, 100_000_000


def numpy_as_written(case: Case, threads: Sequence[int]) -> Iterable[Subject]:
    """The formula as NumPy code usually has it, with temporaries."""
    return _numpy(case, threads, AS_WRITTEN, as_written)


def numpy_in_place(case: Case, threads: Sequence[int]) -> Iterable[Subject]:
    """The formula without temporaries: every operation with `out=`."""
    return _numpy(case, threads, "NumPy with out=", in_place)


_NUMPY = {
    "sgd": "SGD",
    "momentum": "Momentum",
    "adagrad": "AdaGrad",
    "rmsprop": "RMSProp",
    "adam": "Adam",
}


def _numpy(case: Case, threads: Sequence[int], name: str, module: Any) -> Iterable[Subject]:
    if 1 not in threads or case.rule.name not in _NUMPY:
        return
    params = {str(i): param for i, param in enumerate(case.params)}
    names: dict[str, Any] = {"grads": {str(i): grad for i, grad in enumerate(case.grads)}}
    cls = getattr(module, _NUMPY[case.rule.name])

    def start() -> None:
        names["opt"] = cls(params, LR)

    yield Subject(name, "opt.step(grads)", names, start=start, results=lambda: case.params)


KERNELS = _cpu.get_config()["kernels"]


def choose(isa: str, threads: int, kernels: int) -> None:
    """Set what runs the next steps."""
    cyopt.set_isa(isa)
    cyopt.set_num_threads(threads)
    _cpu.set_config(kernels=kernels)


def cyopt_and_twin(case: Case, threads: Sequence[int]) -> Iterable[Subject]:
    """Steps of cyopt with each instruction set of this machine, and of the twin, src_c/twins.h.

    All share one optimizer: another state would lie in other pages, and the luck of huge pages
    alone has made differences of 15 %.
    """
    names: dict[str, Any] = {"grads": case.grads}

    def start() -> None:
        names["opt"] = case.rule.optimizer(case.params)

    for isa in _cpu.ISAS_AVAILABLE:
        for n in threads:
            yield Subject(
                f"{CYOPT} {isa}",
                "opt.step(grads)",
                names,
                n,
                start,
                partial(choose, isa, n, KERNELS),
                results=lambda: case.params,
                exact=True,
            )
    for n in threads:
        prepare = partial(choose, _cpu.ISAS_AVAILABLE[0], n, _twin.KERNELS)
        yield Subject(TWIN, "opt.step(grads)", names, n, prepare=prepare)


def roof(case: Case, threads: Sequence[int]) -> Iterable[Subject]:
    """The step's bytes moved by others: memcpy, STREAM's triad, and BLAS's daxpy.

    The last one writes where it has read, as a step does.
    """
    if case.bytes < _ROOF_FROM:
        return
    threads = [n for n in threads if n == 1 or case.bytes >= _PARALLEL_ROOF_FROM]
    passes = math.ceil(case.bytes / ROOF_BYTES)
    memory = np.ones(case.bytes // passes // 8)
    for n in threads:
        for name, work, arrays, moved in (
            (COPY, _roof.copy, 2, 2),
            (TRIAD, _triad, 3, 3),
            (DAXPY, _daxpy, 2, 3),
        ):
            size = memory.size // moved
            streams = [memory[i * size : (i + 1) * size] for i in range(arrays)]
            yield parallel(name, work, streams, n, passes)


def _triad(a: Array, b: Array, c: Array) -> None:
    _roof.triad(a, b, c, 3.0)


def _daxpy(a: Array, b: Array) -> None:
    _roof.daxpy(a, b, 1e-9)


def parallel(name: str, work: Any, streams: list[Array], n: int, passes: int) -> Subject:
    """`work` over n equal parts of the streams, each on its own Python thread, in some passes."""
    if work is _roof.copy:
        streams = [stream.view(np.uint8) for stream in streams]
    cut = math.ceil(streams[0].size / n / 64) * 64
    parts = [[s[i * cut : (i + 1) * cut] for s in streams] for i in range(n)]
    names: dict[str, Any] = {"work": work, "part": parts[0], "parts": parts, "passes": passes}
    statement = "for _ in range(passes): work(*part)"
    if n > 1:
        names["pool"] = ThreadPoolExecutor(n)
        statement = "for _ in range(passes): list(pool.map(lambda part: work(*part), parts))"
    return Subject(name, statement, names, n)


OWN: list[Implementation] = [
    numpy_as_written,
    numpy_in_place,
    cyopt_and_twin,
    roof,
]
