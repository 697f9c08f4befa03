"""What differs between the libraries whose arrays are on a GPU.

Everything is asked through `__cuda_array_interface__`, but where a library gives an answer that is
faster or that its interface refuses: torch's does for a parameter that requires grad, and says
nothing about its current stream.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from cyopt import _cpu

# The default stream: it waits for all others and they for it, but for those that are made not to,
# as torch's are.
LEGACY_STREAM = 1
PER_THREAD_STREAM = 2  # a default stream for each thread

# torch's `.conj().imag` negates when it is read; the numbers in memory have the other sign.
NEGATED = "is a view whose numbers are to be negated when they are read; pass its .resolve_neg()"

# Where an array lies, then all else that tells it from another one there: only the address may
# differ between arrays that a step treats alike.
Identity = tuple[Any, ...]
NOT_ON_GPU: Identity = (0,)
# Functions of libraries, and the places in a list of the arrays that each is notified of.
Writers = list[tuple[Callable[[list[Any]], None], list[int]]]


class Library(NamedTuple):
    """How arrays of a library are asked."""

    interface: Callable[[Any, str], dict[str, Any]]  # of a value, and its place in errors
    identity: Callable[[Any], Identity] | str  # or the attribute that is it
    stream: Callable[[Any, int], int]  # on which the value on this device is used now: a handle
    has_current_stream: bool  # one for all its arrays on a GPU
    device: Callable[[Any], int] | None  # the number of its GPU, which is part of its identity
    is_on_gpu: Callable[[Any], bool]
    written: Callable[[list[Any]], None] | None = None  # is notified of arrays that a step writes
    # What follows holds for these types alone, as a subclass may be more than its memory; and C may
    # ask them by DLPack's table of functions, if they have it.
    exact: tuple[str, ...] = ()
    is_lazy: str | None = None  # the method that tells whether its numbers are not those in memory
    # Whether an array, while it is the same object, can be reshaped and nothing else; its shape is
    # second in its identity.
    only_reshaped: bool = False


def of(value: Any) -> Library:
    """The library of an array."""
    return _of_type(type(value))  # type: ignore[arg-type]  # mypy #11470: a class is hashable


@lru_cache(1024)
def _of_type(cls: type) -> Library:
    if library := _TYPES.get(_path(cls)):
        return library
    roots = (base.__module__.split(".")[0] for base in cls.__mro__)  # subclasses may be anyone's
    return next((_LIBRARIES[root] for root in roots if root in _LIBRARIES), _OTHER)


def is_on_gpu(value: Any) -> bool:
    """Whether this is an array in the memory of a GPU."""
    return of(value).is_on_gpu(value)


def places(values: list[Any]) -> _cpu.Places:
    """Where arrays lie, and what they are; None where there is none."""
    return _cpu.Places(values, _asked)


def identity(value: Any) -> Identity:
    """Where an array lies, and what it is."""
    ask = of(value).identity
    found: Identity = getattr(value, ask) if isinstance(ask, str) else ask(value)
    return found


def writers(arrays: Sequence[Any], places: Sequence[int]) -> Writers:
    """Who is to know that a step writes the arrays at these places."""
    members: dict[Callable[[list[Any]], None], list[int]] = {}
    for i in places:
        if written := of(arrays[i]).written:
            members.setdefault(written, []).append(i)
    return list(members.items())


def notify(writers: Sequence[Writers], *columns: list[Any]) -> None:
    """Notify those of each list before the step: where that then fails, it does no harm."""
    for of_column, arrays in zip(writers, columns, strict=True):
        for written, members in of_column:
            written(arrays if len(members) == len(arrays) else [arrays[i] for i in members])


def notify_of(arrays: list[Any]) -> None:
    """Notify the libraries of arrays, on any device, which the next step writes."""
    notify([writers(arrays, range(len(arrays)))], arrays)


def _asked(cls: type) -> tuple[Any, ...]:
    """How `_cpu.Places` asks arrays of a type."""
    library = _of_type(cls)
    is_lazy = getattr(cls, library.is_lazy, None) if library.is_lazy else None
    only_reshaped = library.only_reshaped and _is_exact(cls)
    return _dlpack_table(cls), is_lazy, library.identity, only_reshaped


@lru_cache(1024)
def _dlpack_table(cls: type) -> _cpu.DLPackTable | None:
    capsule = getattr(cls, "__dlpack_c_exchange_api__", None) if _is_exact(cls) else None
    return None if capsule is None else _cpu.DLPackTable.of(capsule)


def _is_exact(cls: type) -> bool:
    return _path(cls) in _of_type(cls).exact


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def stream_handle(stream: Any) -> int:
    """The handle of a stream of any library, or of a number that is one."""
    if hasattr(stream, "__cuda_stream__"):
        handle = stream.__cuda_stream__()[1]
    else:
        names = ("cuda_stream", "ptr", "handle")  # torch, CuPy, Numba
        handle = next((getattr(stream, n) for n in names if hasattr(stream, n)), stream)
        handle = getattr(handle, "value", handle)  # of ctypes
    try:
        number = operator.index(handle or 0)
    except TypeError:
        number = -1
    if number < 0 or isinstance(stream, bool):
        raise TypeError(
            f"stream is {stream!r}; expected a stream of torch, CuPy, Numba or cuda.core, or its"
            " handle, a positive integer"
        )
    return number or LEGACY_STREAM


def _has_interface(value: Any) -> bool:
    return hasattr(value, "__cuda_array_interface__")


def _interface(value: Any, what: str) -> dict[str, Any]:
    found = value.__cuda_array_interface__
    if not isinstance(found, dict):
        raise TypeError(f"{what} has a __cuda_array_interface__ of {found!r}; expected a dict")
    for name, (is_right, expected) in _FIELDS.items():
        if not is_right(found.get(name)):
            raise TypeError(
                f"{what} has a __cuda_array_interface__ with {name} {found.get(name)!r}; expected"
                f" {expected}: pass an array of a library that has the interface, such as CuPy"
            )
    address, read_only = found["data"]
    return {**found, "data": (int(address), read_only)}


def _is_integer(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _are_integers(value: object) -> bool:
    return isinstance(value, tuple) and all(map(_is_integer, value))


# Of the interface: what a step reads, and whether it is as it must be.
_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "shape": (lambda x: _are_integers(x) and min(x, default=0) >= 0, "a tuple of integers from 0"),
    "typestr": (lambda x: isinstance(x, str), "a str such as '<f4'"),
    "data": (
        lambda x: isinstance(x, tuple) and len(x) == 2 and _is_integer(x[0]) and x[0] >= 0,
        "a tuple of an address and whether it is read-only",
    ),
    "strides": (lambda x: x is None or _are_integers(x), "None or a tuple of integers"),
    "stream": (lambda x: x is None or (_is_integer(x) and x >= 0), "None or the handle of one"),
}


def _identity(value: Any) -> Identity:
    interface = getattr(value, "__cuda_array_interface__", None)
    try:
        address, read_only = interface["data"]  # type: ignore[index]  # caught
        get = interface.get  # type: ignore[union-attr]
        unmasked = get("mask") is None
        form = (get("typestr"), get("shape"), get("strides"), get("stream"), unmasked)
        identity = operator.index(address), read_only, *form
        hash(identity)
    except (AttributeError, KeyError, TypeError, ValueError):
        return NOT_ON_GPU  # the full check says what is wrong
    return identity


def _stream(value: Any, device: int) -> int:
    return int(value.__cuda_array_interface__.get("stream") or LEGACY_STREAM)


def _is_cuda(value: Any) -> bool:
    return bool(getattr(value, "is_cuda", False))


def _torch_interface(value: Any, what: str) -> dict[str, Any]:
    typestr = {"torch.float32": "<f4", "torch.float64": "<f8"}.get(str(value.dtype))
    if typestr is None:
        raise TypeError(
            f"{what} has dtype {value.dtype}; expected float32 or float64; convert it by .float()"
        )
    if str(value.layout) != "torch.strided":
        raise TypeError(
            f"{what} is {value.layout}; expected a dense one: convert it by .to_dense()"
        )
    if value.is_neg():
        raise TypeError(f"{what} {NEGATED}")
    size = value.element_size()
    return {
        "shape": tuple(value.shape),
        "typestr": typestr,
        "data": (value.data_ptr(), False),
        "strides": tuple(size * stride for stride in value.stride()),
    }


def _torch_identity(value: Any) -> Identity:
    if not _is_cuda(value) or str(value.layout) != "torch.strided":
        return NOT_ON_GPU
    form = value.dtype, value.shape, value.stride(), value.is_neg(), value.get_device()
    return value.data_ptr(), *form


def _torch_stream(value: Any, device: int) -> int:
    table = _dlpack_table(type(value))  # type: ignore[arg-type]  # as in `of`
    if table is not None:
        return table.stream(device) or LEGACY_STREAM
    handle: int = sys.modules["torch"].cuda.current_stream(device).cuda_stream
    return handle or LEGACY_STREAM


def _type_has_interface(value: Any) -> bool:
    return hasattr(type(value), "__cuda_array_interface__")  # the value's own would be made


def _torch_written(values: list[Any]) -> None:
    """As by torch's own optimizers: a graph that needs the old numbers then refuses to run."""
    torch = sys.modules["torch"]
    increment = getattr(torch.autograd.graph, "increment_version", None)
    if increment is None:
        raise RuntimeError(f"torch is {torch.__version__}; expected 2.1 or newer")
    try:
        increment(values)
    except TypeError:  # before torch 2.7, one by one
        for value in values:
            increment(value)


def _cupy_interface(value: Any, what: str) -> dict[str, Any]:
    return {
        "shape": value.shape,
        "typestr": value.dtype.str,
        "data": (value.data.ptr, False),
        "strides": value.strides,
    }


# Its memory and dtype are its own for life; `a.shape = ...` sets shape and strides.
_cupy_identity = operator.attrgetter("data.ptr", "shape", "strides", "dtype", "data.device_id")


def _cupy_stream(value: Any, device: int) -> int:
    handle: int = sys.modules["cupy"].cuda.get_current_stream(device).ptr
    return handle or LEGACY_STREAM


def _numba_identity(value: Any) -> Identity:
    """What its interface is made of, in an eighth of the time."""
    address = value.gpu_data.device_ctypes_pointer.value  # which is kept where memory is owned
    stream = int(value.stream) if value.stream else 0
    return address, value.shape, value.strides, value.dtype, stream


def _own_stream(value: Any, device: int) -> int:
    return LEGACY_STREAM


_OTHER = Library(
    interface=_interface,
    identity=_identity,
    stream=_stream,
    has_current_stream=False,
    device=None,
    is_on_gpu=_has_interface,
)
_TORCH = Library(
    interface=_torch_interface,
    identity=_torch_identity,
    stream=_torch_stream,
    has_current_stream=True,
    device=operator.methodcaller("get_device"),
    is_on_gpu=_is_cuda,
    written=_torch_written,
    exact=("torch.Tensor", "torch.nn.parameter.Parameter"),
    is_lazy="is_neg",
)
_CUPY = Library(
    interface=_cupy_interface,
    identity=_cupy_identity,
    stream=_cupy_stream,
    has_current_stream=True,
    device=operator.attrgetter("data.device_id"),
    is_on_gpu=_type_has_interface,
    exact=("cupy.ndarray",),
    only_reshaped=True,
)
_OWN = Library(
    interface=_interface,
    identity="identity",
    stream=_own_stream,
    has_current_stream=True,
    device=operator.attrgetter("device"),
    is_on_gpu=_has_interface,
)
_NUMBA = _OTHER._replace(identity=_numba_identity, is_on_gpu=_type_has_interface)
# By the type itself; else by the package of the type or of one of its bases; else _OTHER.
_LIBRARIES = {"torch": _TORCH, "cupy": _CUPY}
_TYPES = {
    "cyopt.cuda.arrays.DeviceArray": _OWN,
    "numba.cuda.cudadrv.devicearray.DeviceNDArray": _NUMBA,
}
