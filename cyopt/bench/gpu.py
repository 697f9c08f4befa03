"""What is measured on a GPU: cyopt over copies of a case's arrays, and the rate of copying."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from cyopt.bench.cases import Array, Case
from cyopt.bench.implementations import (
    DEVICE_COPY,
    HOST_ALONE,
    ON_GPU,
    Implementation,
    Subject,
)
from cyopt.cuda import driver
from cyopt.cuda.arrays import DeviceArray
from cyopt.cuda.libraries import LEGACY_STREAM


def device() -> driver.Device:
    """The GPU on which all is measured: the first one."""
    return driver.device(0)


def subject(
    name: str,
    statement: str,
    names: dict[str, Any],
    start: Callable[[], None],
    results: Callable[[], Sequence[Array]],
    read_grads: Callable[[], None],
    exact: bool = False,
    waits: bool = True,
) -> Subject:
    """A subject whose time ends when the GPU has done its steps, or when Python continues."""
    return Subject(
        name,
        statement,
        names,
        threads=1,
        start=start,
        prepare=device().wait,
        results=results,
        exact=exact,
        read_grads=read_grads,
        finish=device().wait,
        times_finish=waits,
    )


def cyopt_on_gpu(case: Case, threads: Sequence[int]) -> Iterable[Subject]:
    """A step, timed until the GPU has done it, and until it returns."""
    params = [DeviceArray.from_host(param, 0) for param in case.params]
    grads = [DeviceArray.from_host(grad, 0) for grad in case.grads]
    names: dict[str, Any] = {"grads": grads}

    def start() -> None:
        copy(case.params, params)
        names["opt"] = case.rule.optimizer(params)

    read_grads = partial(copy, case.grads, grads)

    def results() -> list[Array]:
        return [param.copy_to_host() for param in params]

    for name, waits in ((ON_GPU, True), (HOST_ALONE, False)):
        yield subject(
            name, "opt.step(grads)", names, start, results, read_grads, exact=True, waits=waits
        )


def copy(arrays: Sequence[Array], on_gpu: Sequence[DeviceArray]) -> None:
    """Copy each array to its counterpart on the GPU."""
    for array, place in zip(arrays, on_gpu, strict=True):
        place.set(array)


def device_copy(case: Case, threads: Sequence[int]) -> Iterable[Subject]:
    """The step's bytes moved by the driver's copy within the GPU: half of them read, half written.

    It is one call, however many arrays there are.
    """
    gpu = device()
    nbytes = case.bytes // 2
    source, target = gpu.allocate(nbytes), gpu.allocate(nbytes)
    function, arguments = gpu.copy_call(target.address, source.address, nbytes, LEGACY_STREAM)
    names = {"copy": function, "arguments": arguments, "memory": (source, target)}
    yield Subject(DEVICE_COPY, "copy(*arguments)", names, prepare=gpu.wait, finish=gpu.wait)


OWN: list[Implementation] = [cyopt_on_gpu, device_copy]
