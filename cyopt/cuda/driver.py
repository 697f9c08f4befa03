"""The CUDA driver, through cuda.bindings and cuda.core.

Everything that touches a GPU, except cubins (cache.py) and kernel launches (_launch.pxi). It can be
imported without these packages: they are needed for the first array on a GPU.
"""

from __future__ import annotations

import ctypes
import math
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from cyopt import _cpu
from cyopt.cuda.libraries import LEGACY_STREAM, PER_THREAD_STREAM

Call = tuple[Callable[..., Any], tuple[Any, ...]]  # a function with its arguments

INSTALL = "pip install 'cyopt[cuda]'"
_NO_DRIVER = "NVIDIA's driver was not found ({}); install it"
MIN_DRIVER = 13000  # the toolkit that compiles the kernels: see pyproject.toml


def _bindings() -> Any:
    """The module of the driver's functions."""
    try:
        from cuda.bindings import driver
        from cuda.core import Device  # noqa: F401  # needs a driver
    except ImportError as error:
        raise RuntimeError(f"cyopt's CUDA packages are not installed: {INSTALL}") from error
    except RuntimeError as error:
        raise RuntimeError(_NO_DRIVER.format(error)) from error
    return driver


@cache
def _driver() -> Any:
    """The same, initialized: from now on no fork of this process can use CUDA."""
    driver = _bindings()
    try:
        (status,) = driver.cuInit(0)
    except RuntimeError as error:  # no libcuda
        raise RuntimeError(_NO_DRIVER.format(error)) from error
    if status == driver.CUresult.CUDA_ERROR_NO_DEVICE:
        raise RuntimeError("no CUDA device is visible; see CUDA_VISIBLE_DEVICES and nvidia-smi")
    _check(driver, (status,))
    version = _check(driver, driver.cuDriverGetVersion())
    if version < MIN_DRIVER:
        raise RuntimeError(
            f"the driver is for CUDA {version // 1000}.{version % 1000 // 10}, and cyopt's kernels"
            f" are compiled for CUDA {MIN_DRIVER // 1000}.0: install a newer driver"
        )
    return driver


def _check(driver: Any, result: tuple[Any, ...]) -> Any:
    """The result of a driver call, or its error raised."""
    status, *values = result
    if status != driver.CUresult.CUDA_SUCCESS:
        name, text = driver.cuGetErrorName(status)[1], driver.cuGetErrorString(status)[1]
        if status == driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            raise MemoryError(
                "the GPU, or the host memory that it reads, is out of memory; what torch and CuPy"
                " keep cached is freed by torch.cuda.empty_cache() and"
                " cupy.get_default_memory_pool().free_all_blocks()"
            )
        if status == driver.CUresult.CUDA_ERROR_NOT_INITIALIZED:
            raise RuntimeError(
                "this process was forked from one that uses CUDA, which CUDA does not support;"
                " start it by multiprocessing's 'spawn' method"
            )
        raise RuntimeError(f"the CUDA driver says {name.decode()}: {text.decode()}")
    return values[0] if values else None


def _call(name: str, *args: Any) -> Any:
    driver = _driver()
    return _check(driver, getattr(driver, name)(*args))


def ordinal_of(address: int) -> int:
    """The number of the GPU whose memory has this address."""
    driver = _driver()
    attribute = driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    return int(_check(driver, driver.cuPointerGetAttribute(attribute, address)))


def current_ordinal() -> int:
    """The number of the current GPU of this thread."""
    _driver()  # reports what is missing
    from cuda.core import Device

    return int(Device().device_id)


def describe() -> str:
    """The GPUs of this machine, for `cyopt.info`.

    Another process asks if this one has not used CUDA, so that its forks still can.
    """
    try:
        _bindings()
    except RuntimeError as error:
        return f"not available: {error}"
    if _driver.cache_info().currsize:
        return describe_here()
    if getattr(sys, "frozen", False) or not sys.executable:  # which is not Python itself
        return "unknown, because asking takes another Python: python -m cyopt info"
    # Without the current folder, which may have the sources of cyopt.
    code = (
        "import sys; sys.path[:] = filter(None, sys.path)"
        "; from cyopt.cuda import driver as d; print(d.describe_here())"
    )
    paths = [str(Path(__file__).parents[2]), *map(str, filter(None, sys.path))]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", code]
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unknown: {error}"
    return done.stdout.strip() or f"unknown: {done.stderr.strip().rpartition(chr(10))[2]}"


def describe_here() -> str:
    """The same, asked by this process."""
    try:
        driver = _driver()
    except RuntimeError as error:
        return f"not available: {error}"
    version = _check(driver, driver.cuDriverGetVersion())
    names = []
    for ordinal in range(_call("cuDeviceGetCount")):
        name = _call("cuDeviceGetName", 100, ordinal).split(b"\0")[0].decode()
        names.append(f"{ordinal}: {name}")
    return f"{', '.join(names)}; driver for CUDA {version // 1000}.{version % 1000 // 10}"


class Memory:
    """Memory of a GPU, freed with the last reference: the driver then waits for its last use."""

    def __init__(self, address: int, device: int) -> None:
        self.address = address
        _when_gone(self, "cuMemFree", address, device)


def _when_gone(owner: object, name: str, address: int, ordinal: int) -> None:
    """Free memory with its owner, by this driver function; not at the end of the process."""
    weakref.finalize(owner, _free, name, address, ordinal, os.getpid()).atexit = False


def _free(name: str, address: int, ordinal: int, process: int) -> None:
    if os.getpid() == process:  # a forked child cannot call the driver
        with device(ordinal).beside_captures():
            _call(name, address)


class _Here(threading.local):
    """Per thread: for each `with` block that it is inside, whether the block pushed the context."""

    def __init__(self) -> None:
        self.pushed: list[bool] = []


class Device:
    """One GPU. Inside a `with` block it is the current device of this thread."""

    def __init__(self, ordinal: int) -> None:
        from cuda.core import Device as CoreDevice

        self.ordinal = ordinal
        self._single = _call("cuDeviceGetCount") == 1
        self._here = _Here()
        self._context = int(_call("cuDevicePrimaryCtxRetain", ordinal))
        self._current_context = partial(_cpu.current_context, _address("cuCtxGetCurrent"))
        self.compute_capability = tuple(CoreDevice(ordinal).compute_capability)

    def __enter__(self) -> None:
        # If another context is current, such as PyCUDA's, it is restored after the block. If none
        # is, and there is only one GPU, its context stays current, as with CUDA's runtime.
        current = self._current_context()
        stays = current == self._context or (current == 0 and self._single)
        pushed = self._here.pushed
        pushed.append(not stays)  # before the rest: a finalizer may run in between
        try:
            if current != self._context:
                _call("cuCtxPushCurrent", self._context)
        except BaseException:  # an interrupt may come after the push
            if pushed.pop() and self._current_context() == self._context:
                _call("cuCtxPopCurrent")
            raise

    def __exit__(self, *exception: object) -> None:
        pushed = self._here.pushed
        try:
            if pushed[-1]:
                _call("cuCtxPopCurrent")
        finally:
            pushed.pop()

    @contextmanager
    def beside_captures(self) -> Iterator[None]:
        """Calls in this block are not captured into a graph, and are allowed during a capture."""
        with self:
            relaxed = _driver().CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
            before = _call("cuThreadExchangeStreamCaptureMode", relaxed)
            try:
                yield
            finally:
                _call("cuThreadExchangeStreamCaptureMode", before)

    def allocate(self, nbytes: int) -> Memory:
        """New memory, aligned to 256 bytes."""
        with self.beside_captures():
            return Memory(int(_call("cuMemAlloc", max(nbytes, 1))), self.ordinal)

    def clear(self, address: int, nbytes: int) -> None:
        """Set bytes to zero, and wait until that is done."""
        with self:
            _call("cuMemsetD8", address, 0, nbytes)
            _call("cuCtxSynchronize")

    def wait(self) -> None:
        """Wait until the GPU has done all its work."""
        with self:
            _call("cuCtxSynchronize")

    def upload(self, address: int, host: np.ndarray[Any, Any]) -> None:
        """Copy dense host memory to the GPU, after all its other work; waits for the copy."""
        with self:
            _call("cuCtxSynchronize")
            _call("cuMemcpyHtoD", address, host.ctypes.data, host.nbytes)
            _call("cuCtxSynchronize")  # the copy may be unfinished, and other streams miss it

    def download(self, host: np.ndarray[Any, Any], address: int) -> None:
        """Copy from the GPU to dense host memory, after all its other work."""
        with self:
            _call("cuCtxSynchronize")
            _call("cuMemcpyDtoH", host.ctypes.data, address, host.nbytes)

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Copy within the GPU, after all its other work; waits for the copy."""
        with self:
            _call("cuCtxSynchronize")
            _call("cuMemcpyDtoD", target, source, nbytes)
            _call("cuCtxSynchronize")

    def pinned(self, shape: tuple[int, ...]) -> Pinned:
        """New host memory that `upload_async` copies from."""
        with self.beside_captures():
            return Pinned(int(_call("cuMemAllocHost", 8 * math.prod(shape))), shape, self.ordinal)

    def upload_async(self, address: int, pinned: Pinned, stream: int) -> None:
        """Copy pinned host memory to the GPU in the order of a stream."""
        _call("cuMemcpyHtoDAsync", address, pinned.address, pinned.array.nbytes, stream)

    def mark(self, stream: int) -> Callable[[], bool]:
        """A function that says whether all work that the stream has until now is done."""
        event = core_stream(stream).record()

        def is_done() -> bool:
            with self.beside_captures():  # else the query ends another thread's capture
                return bool(event.is_done)

        return is_done

    def is_capturing(self, stream: int) -> bool:
        """Whether a CUDA graph captures this stream."""
        return bool(int(_call("cuStreamIsCapturing", stream)))

    def order(self, later: int, earlier: int) -> None:
        """Make future work of stream `later` wait for all work that stream `earlier` has now."""
        core_stream(later).wait(core_stream(earlier))

    def clear_call(self, address: int, nbytes: int, stream: int) -> Call:
        """A call that sets bytes to zero in the order of a stream."""
        return _call, ("cuMemsetD8Async", address, 0, nbytes, stream)

    def copy_call(self, target: int, source: int, nbytes: int, stream: int) -> Call:
        """A call that copies within the GPU in the order of a stream."""
        return _call, ("cuMemcpyDtoDAsync", target, source, nbytes, stream)

    def compiled_copy_call(self, target: int, source: int, nbytes: int) -> Call:
        """A call that copies on the default stream, runs no bytecode, and returns 0."""
        return _compiled_copy(), (target, source, nbytes, LEGACY_STREAM)

    def load(self, kernel: Any) -> None:
        """Load a kernel's code now: the first launch would, and could lack the memory mid-step."""
        _call("cuFuncLoad", _call("cuKernelGetFunction", int(kernel.handle)))

    def launch(self, kernel: Any, *args: Any) -> _cpu.Launch:
        """A kernel launch, to be called; for the arguments see `cyopt._cpu.Launch`."""
        return _cpu.Launch((_address("cuLaunchKernel"), _refused), int(kernel.handle), *args)


class Pinned:
    """Pinned host memory of 64-bit integers, from which the GPU copies asynchronously."""

    def __init__(self, address: int, shape: tuple[int, ...], device: int) -> None:
        self.address = address
        numbers = (ctypes.c_int64 * math.prod(shape)).from_address(address)
        self.array = np.ctypeslib.as_array(numbers).reshape(shape)
        _when_gone(self, "cuMemFreeHost", address, device)


@cache
def _compiled_copy() -> Callable[..., int]:
    """The driver's own function: those of cuda.bindings are partly in Python."""
    types = ctypes.c_uint64, ctypes.c_uint64, ctypes.c_size_t, ctypes.c_void_p
    return ctypes.CFUNCTYPE(ctypes.c_int, *types)(_address("cuMemcpyDtoDAsync"))


@cache
def _address(name: str) -> int:
    """The address of a driver function."""
    return int(_call("cuGetProcAddress", name.encode(), MIN_DRIVER, 0))


def _refused(status: int) -> None:
    """Raise the error for a status that a driver function returned."""
    driver = _driver()
    _check(driver, (driver.CUresult(status),))


@cache
def device(ordinal: int) -> Device:
    """The GPU of this number."""
    _driver()
    return Device(ordinal)


@lru_cache(64)
def core_stream(handle: int) -> Any:
    """The stream of a handle, as an object of cuda.core."""
    from cuda.core import LEGACY_DEFAULT_STREAM, PER_THREAD_DEFAULT_STREAM, Stream

    if handle == LEGACY_STREAM:
        return LEGACY_DEFAULT_STREAM
    return PER_THREAD_DEFAULT_STREAM if handle == PER_THREAD_STREAM else Stream.from_handle(handle)
