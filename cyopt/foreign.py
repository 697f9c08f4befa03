"""Arrays of other libraries on the CPU, by DLPack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cyopt.cuda.libraries import NEGATED

if TYPE_CHECKING:
    from cyopt.arrays import Array

_DLPACK_CPU = 1
_NUMPY = tuple(map(int, np.__version__.split(".")[:2]))


def is_foreign(value: Any) -> bool:
    """Whether this is an array of another library, by DLPack."""
    return hasattr(value, "__dlpack__") and not isinstance(value, np.generic)


def from_dlpack(value: Any, what: str, kind: str, written: bool) -> Array:
    """The same memory as NumPy has it; `kind` is the name of the value's type."""
    if getattr(value, "requires_grad", False):
        raise TypeError(
            f"{what} is a {kind} that requires grad, whose graph a step in place would make stale;"
            " pass tensor.detach(), which is the same memory"
        )
    try:
        device, _ = value.__dlpack_device__()
    except (BufferError, ValueError) as error:
        raise _not_read(what, kind, error) from None
    if device != _DLPACK_CPU:
        raise TypeError(
            f"{what} is a {kind} on another device; expected an array on the CPU, or one on a GPU"
            " with __cuda_array_interface__"
        )
    if getattr(value, "is_neg", bool)():  # DLPack cannot say so
        raise TypeError(f"{what} {NEGATED}")
    # Older NumPy hands out read-only arrays, which are refused later.
    options: Any = {"copy": False} if written and _NUMPY >= (2, 1) else {}
    try:
        array: Array = np.from_dlpack(value, **options)
    except (BufferError, RuntimeError, TypeError) as error:
        # A dtype that NumPy lacks, such as bfloat16, or an exporter older than DLPack 1.0.
        raise _not_read(what, kind, error) from None
    if array.size and array.flags.owndata:  # NumPy's own memory, because there was none
        raise TypeError(
            f"{what} is a {kind} without memory, such as a lazily allocated torch tensor; pass a"
            " copy of it"
        )
    return array


def _not_read(what: str, kind: str, error: Exception) -> TypeError:
    return TypeError(
        f"{what} is a {kind} that cannot be read ({error}); expected a dense array of float32 or"
        " float64, in memory"
    )
