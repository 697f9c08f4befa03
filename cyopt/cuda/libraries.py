"""What differs between the libraries whose arrays are on a GPU.

Everything is asked through `__cuda_array_interface__`, but where a library gives an answer that is
faster or that its interface refuses: torch's does for a parameter that requires grad, and says
nothing about its current stream.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

LEGACY_STREAM = 1  # the default stream, which waits for all others and they for it


class Library(NamedTuple):
    """How arrays of a library are asked."""

    interface: Callable[[Any, str], dict[str, Any]]  # of a value, and its place in errors
    identity: Callable[[Any], tuple[Any, ...]]  # address first, then all that tells another array
    stream: Callable[[Any, int], int]  # on which the value on this device is used now: a handle


def of(value: Any) -> Library:
    """The library of an array."""
    return _LIBRARIES.get(type(value).__module__.split(".")[0], _OTHER)


def is_on_gpu(value: Any) -> bool:
    """Whether this is an array in the memory of a GPU."""
    if type(value).__module__.split(".")[0] == "torch":
        return bool(getattr(value, "is_cuda", False))
    return hasattr(value, "__cuda_array_interface__")


def are(values: Sequence[Any], known: Sequence[Any]) -> bool:
    """Whether these values are the arrays of these identities; None: no array."""
    if len(values) != len(known):
        return False
    for value, identity in zip(values, known, strict=True):
        if value is None or identity is None:
            if value is not identity:
                return False
        elif not is_on_gpu(value) or of(value).identity(value) != identity:
            return False
    return True


def stream_handle(stream: Any) -> int:
    """The handle of a stream of any library, or of a number that is one."""
    if hasattr(stream, "__cuda_stream__"):
        handle = stream.__cuda_stream__()[1]
    else:
        names = ("cuda_stream", "ptr", "handle")  # torch, CuPy, Numba
        handle = next((getattr(stream, n) for n in names if hasattr(stream, n)), stream)
        handle = getattr(handle, "value", handle)  # of ctypes
    try:
        return int(handle or 0) or LEGACY_STREAM
    except (TypeError, ValueError):
        raise TypeError(
            f"stream is a {type(stream).__name__}; expected a stream of torch, CuPy, Numba or"
            " cuda.core, or its handle as an integer"
        ) from None


def _interface(value: Any, what: str) -> dict[str, Any]:
    return dict(value.__cuda_array_interface__)


def _identity(value: Any) -> tuple[Any, ...]:
    interface = value.__cuda_array_interface__
    address, read_only = interface["data"]
    other = (interface.get(name) for name in ("typestr", "shape", "strides", "stream"))
    return address, read_only, *other


def _stream(value: Any, device: int) -> int:
    return int(value.__cuda_array_interface__.get("stream") or LEGACY_STREAM)


def _torch_interface(value: Any, what: str) -> dict[str, Any]:
    typestr = {"torch.float32": "<f4", "torch.float64": "<f8"}.get(str(value.dtype))
    if typestr is None:
        raise TypeError(
            f"{what} has dtype {value.dtype}; expected float32 or float64; convert it by .float()"
        )
    size = value.element_size()
    return {
        "shape": tuple(value.shape),
        "typestr": typestr,
        "data": (value.data_ptr(), False),
        "strides": tuple(size * stride for stride in value.stride()),
    }


def _torch_identity(value: Any) -> tuple[Any, ...]:
    return value.data_ptr(), value.dtype, value.shape, value.stride()


def _torch_stream(value: Any, device: int) -> int:
    handle: int = sys.modules["torch"].cuda.current_stream(device).cuda_stream
    return handle or LEGACY_STREAM


def _cupy_identity(value: Any) -> tuple[Any, ...]:
    return value.data.ptr, value.dtype, value.shape, value.strides


def _cupy_stream(value: Any, device: int) -> int:
    handle: int = sys.modules["cupy"].cuda.get_current_stream().ptr
    return handle or LEGACY_STREAM


_OTHER = Library(_interface, _identity, _stream)
_LIBRARIES = {
    "torch": Library(_torch_interface, _torch_identity, _torch_stream),
    "cupy": Library(_interface, _cupy_identity, _cupy_stream),
}
