"""What an array is, and every check of an array before a step writes a byte."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, KeysView, Sequence, ValuesView
from itertools import pairwise
from typing import Any, NamedTuple, cast

import numpy as np

from cyopt import _cpu
from cyopt.cuda.arrays import DeviceArray
from cyopt.cuda.libraries import is_on_gpu
from cyopt.foreign import from_dlpack, is_foreign

# Or a DeviceArray, which has all that is used here except elements that Python can read.
Array = np.ndarray[Any, Any]
Counts = np.ndarray[Any, np.dtype[np.int64]]

# A set, because hashes distinguish dtypes that compare equal: a 64-bit long double, or one that has
# fields as well.
DTYPES = frozenset({np.dtype(np.float32), np.dtype(np.float64)})
_LINE, _PAGE = 64, 4096  # bytes of a cache line, and of a page of memory
_APART = 832  # bytes between the state arrays of a parameter, modulo a page: 13 lines
_MADE = ": make it one with np.array(..., np.float32) and keep that"


def as_array(value: Any, what: str, written: bool = False, instead: str = _MADE) -> Array:
    """`value` over the same memory, as an ndarray or, on a GPU, a DeviceArray.

    It may be an ndarray or memmap, or have DLPack on the CPU or the CUDA array interface. `instead`
    ends the error for what is no array at all.
    """
    if type(value) is np.ndarray:
        return value
    if is_on_gpu(value):
        return cast("Array", DeviceArray.of(value, what))
    if type(value) is np.memmap:
        return value.view(np.ndarray)
    module, kind = type(value).__module__, type(value).__qualname__
    if module != "builtins":
        kind = f"{module}.{kind}"
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{what} is a masked array, whose mask a step would ignore; pass its .data")
    if isinstance(value, np.ndarray):
        raise TypeError(
            f"{what} is a {kind}, a subclass of ndarray whose own rules a step in place would"
            " bypass; pass np.asarray(it), which is the same memory"
        )
    if is_foreign(value):
        return from_dlpack(value, what, kind, written)
    if isinstance(value, Iterator | KeysView | ValuesView):
        raise TypeError(
            f"{what} is a {kind}; expected an array, or a dict, list or tuple of arrays: pass"
            " list(it), which can be read at every step"
        )
    raise TypeError(f"{what} is a {kind}; expected a numpy.ndarray of float32 or float64{instead}")


def _check_numbers(array: Array, what: str, like: np.dtype[Any] | None = None) -> None:
    """An array must be aligned and float32 or float64; `like` is its parameter's dtype, if any."""
    if array.dtype not in DTYPES:
        like = like if like in DTYPES else None
        expected = f"{like.name}, as its parameter" if like else "float32 or float64"
        raise TypeError(
            f"{what} has dtype {array.dtype}; expected {expected}; {_cure_of(array.dtype, like)}"
        )
    if not array.flags.aligned:
        raise ValueError(
            f"{what} is not aligned to its {array.itemsize}-byte numbers; pass a copy of it"
        )


def _cure_of(dtype: np.dtype[Any], like: np.dtype[Any] | None) -> str:
    if dtype.kind == "c":
        real = like or np.dtype(np.float32 if dtype.itemsize == 8 else np.float64)
        pair = "complex64" if real == np.float32 else "complex128"
        first = "" if dtype == pair else f"convert it by .astype(np.{pair}), and "
        return (
            f"{first}pass its .view(np.{real.name}): real and imaginary parts as separate numbers"
        )
    if dtype.kind == "f" and (native := dtype.newbyteorder("=")) in DTYPES:
        return f"convert it to the native byte order by .astype(np.{(like or native).name})"
    return f"convert it by .astype(np.{like.name if like else 'float32'})"


def check_param(array: Array, what: str) -> None:
    """A parameter or a state array must be float32 or float64, writable and dense."""
    _check_numbers(array, what)
    flags, on_cpu = array.flags, isinstance(array, np.ndarray)
    if not flags.writeable:
        raise ValueError(
            f"{what} is read-only, but a step updates it in place; pass a writable array"
            + (" (a DLPack array is writable from NumPy 2.2 on)" if on_cpu else "")
        )
    if not (flags.c_contiguous or flags.f_contiguous):
        raise ValueError(
            f"{what} of shape {array.shape} has strides {array.strides}; expected a contiguous"
            " array in C or Fortran order: "
            + ("make it np.ascontiguousarray(it)" if on_cpu else "make a contiguous copy")
            + " and keep that one"
        )


def as_own(array: Array) -> Array:
    """An unpickled state array or counter, as one that a step may write.

    It may lie in borrowed memory: joblib maps large arrays read-only, and so do others that pass
    pickle's buffers out of band.
    """
    if isinstance(array, DeviceArray):
        return array
    return np.require(array, requirements=("ALIGNED", "WRITEABLE", "ENSUREARRAY"))


def device_of(array: Array) -> int | None:
    """The number of the GPU that an array is on; None: the CPU."""
    return array.device if isinstance(array, DeviceArray) else None


def device_name(device: int | None) -> str:
    """The name of a device, as numbered by `device_of`, for error messages."""
    return "the CPU" if device is None else f"GPU {device}"


def as_array_on(
    value: Any, device: int | None, what: str, written: bool, instead: str = _MADE
) -> Array:
    """`as_array` for a gradient or state, which must be on the device of its parameter."""
    if device is None and is_on_gpu(value):  # known without a driver
        raise ValueError(
            f"{what} is on a GPU but its parameter is on the CPU; copy it there: its library's"
            " .get(), .cpu() or copy_to_host()"
        )
    array = as_array(value, what, written, instead)
    if device_of(array) != device:
        raise ValueError(
            f"{what} is on {device_name(device_of(array))} but its parameter is on"
            f" {device_name(device)}; copy it there: cupy.asarray, torch's .cuda() or"
            " numba.cuda.to_device"
        )
    return array


def to_host(array: Array) -> Array:
    """A copy in host memory, in the same element order."""
    return array.copy_to_host() if isinstance(array, DeviceArray) else array.copy("K")


def assign(array: Array, values: Array) -> None:
    """Copy the elements of `values`, which is on the CPU, in any element order."""
    if isinstance(array, DeviceArray):
        array.set(values)
    else:
        array[...] = values


def full_like(param: Array, value: float, slot: int) -> Array:
    """A state array like its parameter, filled with `value`; `slot` counts them from 0."""
    if isinstance(param, DeviceArray):
        return DeviceArray.like(param, value)
    return _full_like_on_cpu(param, value, slot)


def _full_like_on_cpu(param: Array, value: float, slot: int) -> Array:
    """A state array with the strides of `param` and its alignment to a cache line.

    A step updates an incomplete first line of a large array separately, so that all other stores
    fill whole lines: those of state too if it is aligned alike. Large arrays each start at another
    offset in a page: a load waits for an earlier store whose address has the same last 12 bits
    (bench/NOTES.md). The memory comes zeroed from the system, and is not written before it is used.
    """
    is_large = param.nbytes >= 8 * _PAGE
    period, apart = (_PAGE, (slot + 1) * _APART) if is_large else (_LINE, 0)
    memory = np.zeros(param.nbytes + period, np.uint8)
    start = (param.ctypes.data + apart - memory.ctypes.data) % period
    array: Array = np.ndarray(param.shape, param.dtype, memory, start, param.strides)
    if value:
        array[...] = value
    return array


def _as_ndarray(array: Array) -> Array:
    """An ndarray with the address, shape and strides of an array; its elements are not used."""
    return array.where if isinstance(array, DeviceArray) else array


def same_order(a: Array | DeviceArray, b: Array | DeviceArray) -> bool:
    """Whether two arrays of one shape have their elements in the same order in memory."""
    return bool(
        (a.flags.c_contiguous and b.flags.c_contiguous)
        or (a.flags.f_contiguous and b.flags.f_contiguous)
    )


def check_like(
    array: Array, shape: tuple[int, ...], dtype: np.dtype[Any], what: str, hint: str = ""
) -> None:
    """A gradient or state array must have its parameter's shape and dtype.

    `hint` says how it may have become float64.
    """
    _check_numbers(array, what, dtype)
    if array.dtype != dtype:
        cure = f"convert it by .astype(np.{dtype.name})"
        cure += hint if array.dtype == np.float64 else ""
        raise TypeError(
            f"{what} has dtype {array.dtype.name} but its parameter has {dtype.name}; {cure}"
        )
    if array.shape != shape:
        raise ValueError(f"{what} has shape {array.shape}; expected {shape}, as its parameter")


class Written(NamedTuple):
    """The arrays that a step writes, dense and disjoint, in the order of their addresses."""

    begins: list[int]
    ends: list[int]
    names: list[str]
    arrays: list[Array]


def check_written(arrays: Sequence[Array], names: Sequence[str]) -> Written:
    """No two arrays that a step writes may overlap. They are dense, so extents are exact."""
    places = map(_as_ndarray, arrays)
    rows = [(*_cpu.extent(a), name, a) for a, name in zip(places, names, strict=True) if a.size]
    rows.sort(key=lambda row: row[0])
    for before, after in pairwise(rows):
        if after[0] < before[1]:
            raise ValueError(
                f"{after[2]} shares memory with {before[2]}, and a step writes both;"
                " pass each parameter once, and a copy where two overlap"
            )
    begins, ends = [row[0] for row in rows], [row[1] for row in rows]
    return Written(begins, ends, [row[2] for row in rows], [row[3] for row in rows])


def check_read(grad: Array, what: str, written: Written) -> None:
    """A gradient must not share memory with an array that the step writes."""
    grad = _as_ndarray(grad)
    low, high = _cpu.extent(grad)
    i = bisect.bisect_right(written.ends, low)
    while i < len(written.begins) and written.begins[i] < high:
        if low < high and _share_memory(grad, written.arrays[i]):
            raise ValueError(
                f"{what} shares memory with {written.names[i]}, which the step writes;"
                " pass a copy of it"
            )
        i += 1


def check_zeroed(grad: Array, what: str) -> None:
    """A gradient that the step sets to zero must be writable, with no two elements in one place."""
    if not grad.flags.writeable:
        raise ValueError(
            f"{what} is read-only, but with zero_grads a step sets it to zero; pass one that it may"
            " write"
        )
    if not elements_apart(grad):
        raise ValueError(
            f"{what} has strides {grad.strides} for its shape {grad.shape}: elements share memory,"
            " and with zero_grads a step sets each to zero; pass a copy of it"
        )


def elements_apart(array: Array) -> bool:
    """Whether no two elements share memory; False as well if strides do not nest."""
    reach = 0  # bytes from the first element to the last, along the strides seen so far
    sides = zip(array.shape, map(abs, array.strides), strict=True)
    for count, stride in sorted((side for side in sides if side[0] > 1), key=lambda side: side[1]):
        if array.size and stride < reach + array.itemsize:
            return False
        reach += (count - 1) * stride
    return True


def check_apart(
    grads: Sequence[Array | None], names: Sequence[str], zeroed: Sequence[bool]
) -> None:
    """No gradient that the step sets to zero may share memory with another one."""
    pair = sharing(grads, lambda i, j: zeroed[i] or zeroed[j])
    if pair:
        raise ValueError(
            f"{names[pair[1]]} shares memory with {names[pair[0]]}, and with zero_grads a step sets"
            " them to zero while it reads them; give each parameter a gradient of its own"
        )


def sharing(
    arrays: Sequence[Array | None], matters: Callable[[int, int], bool]
) -> tuple[int, int] | None:
    """The indices of two arrays that share memory and whose pair matters, or None."""
    places = [(i, _as_ndarray(a)) for i, a in enumerate(arrays) if a is not None and a.size]
    rows = [(*_cpu.extent(a), i, a) for i, a in places]
    rows.sort(key=lambda row: row[0])
    for place, (_, end, i, array) in enumerate(rows):
        for begin, _, j, other in rows[place + 1 :]:
            if begin >= end:
                break
            if matters(i, j) and _share_memory(array, other):
                return i, j
    return None


def _share_memory(grad: Array, array: Array) -> bool:
    effort: Any = 100_000  # candidates; the exact answer can take exponential time
    try:
        return np.shares_memory(grad, array, max_work=effort)
    except np.exceptions.TooHardError:  # undecided is refused, not guessed
        return True
