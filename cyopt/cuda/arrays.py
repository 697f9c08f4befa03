"""Arrays in the memory of a GPU: those of other libraries, and those that hold the state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cyopt import _cpu
from cyopt.cuda import driver, libraries

_NOWHERE = 64  # instead of 0, which NumPy before 2.4 refuses even for empty arrays


class _Place:
    """An object that NumPy makes an array of without reading its memory."""

    def __init__(self, interface: dict[str, Any]) -> None:
        address, read_only = interface["data"]
        self.__array_interface__ = {
            "shape": interface["shape"],
            "typestr": interface["typestr"],
            "data": (address or _NOWHERE, read_only),
            "strides": interface.get("strides"),
            "version": 3,
        }


class DeviceArray:
    """An array on a GPU, such as a state array.

    `cupy.asarray`, `torch.as_tensor` and `numba.cuda.as_cuda_array` share its memory, which steps
    write in the order of their stream: read it on the same stream, or wait for that one.
    `where` is a NumPy array with the same address, shape, strides and dtype, for all checks of
    these. Its memory is the GPU's: its elements must not be read.
    """

    __slots__ = ("device", "identity", "owner", "where")

    def __init__(self, where: np.ndarray[Any, Any], device: int, owner: Any) -> None:
        self.where, self.device, self.owner = where, device, owner
        form = where.dtype, where.shape, where.strides, where.flags.writeable, device
        self.identity: libraries.Identity = self.address, *form  # `where` never changes

    @classmethod
    def of(cls, value: Any, what: str) -> DeviceArray:
        """The array of another library, over the same memory."""
        if isinstance(value, cls):
            return cls(value.where, value.device, value)
        interface = libraries.of(value).interface(value, what)
        if interface.get("mask") is not None:
            raise TypeError(f"{what} has a mask, which a step would ignore; pass only the data")
        try:
            device = _ordinal(value, interface)
        except RuntimeError as error:
            raise RuntimeError(f"{what} is on a GPU: {error}") from error
        if not interface["data"][0] and 0 not in interface["shape"]:
            raise ValueError(f"{what} has no memory: its storage was freed; pass one that has")
        return cls(np.asarray(_Place(interface)), device, value)

    @classmethod
    def like(cls, other: DeviceArray, value: float) -> DeviceArray:
        """A new array with the strides of another, filled with a value."""
        device = driver.device(other.device)
        made = cls._allocated(other.where, other.device)
        if value == 0:
            device.clear(made.address, made.nbytes)
        else:
            made.set(np.full(other.shape, value, other.dtype))
        return made

    @classmethod
    def from_host(cls, array: np.ndarray[Any, Any], device: int) -> DeviceArray:
        """A copy of a NumPy array on a GPU, in the same element order."""
        made = cls._allocated(np.empty_like(array), device)
        made.set(array)
        return made

    @classmethod
    def _allocated(cls, like: np.ndarray[Any, Any], device: int) -> DeviceArray:
        """New memory for a dense array; the elements of `like` are not read."""
        memory = driver.device(device).allocate(like.nbytes)
        interface = {
            "shape": like.shape,
            "typestr": like.dtype.str,
            "data": (memory.address, False),
            "strides": like.strides,
        }
        return cls(np.asarray(_Place(interface)), device, memory)

    @property
    def address(self) -> int:
        """The address of the first element."""
        address = int(self.where.__array_interface__["data"][0])
        return 0 if address == _NOWHERE else address

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape, as of a NumPy array."""
        shape: tuple[int, ...] = self.where.shape
        return shape

    @property
    def strides(self) -> tuple[int, ...]:
        """The strides in bytes."""
        return self.where.strides

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype, float32 or float64."""
        dtype: np.dtype[Any] = self.where.dtype
        return dtype

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return self.where.itemsize

    @property
    def size(self) -> int:
        """The number of elements."""
        return self.where.size

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.where.nbytes

    @property
    def flags(self) -> Any:
        """NumPy's flags of a view of `where`; setting them has no effect."""
        return self.where.view().flags

    def view(self) -> DeviceArray:
        """Another array over the same memory."""
        return DeviceArray(self.where.view(), self.device, self.owner)

    def read_only(self) -> DeviceArray:
        """Another array over the same memory, which no step may write."""
        where = self.where.view()
        where.flags.writeable = False
        return DeviceArray(where, self.device, self.owner)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),  # torch refuses read-only memory
            "strides": None if self.where.flags.c_contiguous else self.strides,
            "version": 3,
        }

    def copy_to_host(self) -> np.ndarray[Any, Any]:
        """Its elements as a NumPy array in the same element order; waits for the GPU."""
        host = np.empty_like(self.where)
        if self.size:
            driver.device(self.device).download(host, self.address)
        return host

    def set(self, values: np.ndarray[Any, Any]) -> None:
        """Copy a NumPy array of this shape into it, and wait until that is done."""
        host = np.empty_like(self.where)
        host[...] = values
        if self.size:
            driver.device(self.device).upload(self.address, host)

    def copy_from(self, other: DeviceArray) -> None:
        """Copy an array with the same strides into it, and wait until that is done."""
        if self.size:
            driver.device(self.device).copy(self.address, other.address, self.nbytes)

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("this array is in the memory of a GPU; use its copy_to_host()")

    def __reduce__(self) -> Any:
        return DeviceArray.from_host, (self.copy_to_host(), self.device)

    def __repr__(self) -> str:
        return f"DeviceArray({self.dtype.name} of shape {self.shape} on GPU {self.device})"


def commit(pairs: Sequence[tuple[DeviceArray, DeviceArray]], *rest: Any) -> None:
    """`cyopt._cpu.commit`, but also copies these arrays, each from one with the same strides."""
    device = driver.device(pairs[0][0].device)
    device.wait()
    with device:
        copies = [device.compiled_copy_call(to.address, of.address, to.nbytes) for to, of in pairs]
        _cpu.commit(copies, *rest)
        device.wait()


def _ordinal(value: Any, interface: dict[str, Any]) -> int:
    """The number of the GPU that holds an array of another library."""
    tell = libraries.of(value).device
    if tell is not None:
        return tell(value)
    address = interface["data"][0]
    try:
        return driver.ordinal_of(address) if address else driver.current_ordinal()
    except RuntimeError:
        if 0 not in interface["shape"]:
            raise
        return driver.current_ordinal()  # an empty array may start past the end of all memory
