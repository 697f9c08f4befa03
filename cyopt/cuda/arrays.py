"""Arrays in the memory of a GPU: those of other libraries, and those that hold the state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cyopt import _cpu
from cyopt.cuda import driver, libraries

_NOWHERE = 64  # in place of 0, which NumPy before 2.4 refuses also for what is empty


class _Place:
    """What NumPy makes an array of without looking at its memory."""

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
    write in the order of their stream: look at it on that one, or wait for that.
    `where` is a NumPy array of its address, shape, strides and dtype, for all checks of them. Its
    memory is the GPU's: nothing may look at its elements.
    """

    __slots__ = ("device", "identity", "owner", "where")

    def __init__(self, where: np.ndarray[Any, Any], device: int, owner: Any) -> None:
        self.where, self.device, self.owner = where, device, owner
        form = where.dtype, where.shape, where.strides, where.flags.writeable, device
        self.identity: libraries.Identity = self.address, *form  # nobody changes `where`

    @classmethod
    def of(cls, value: Any, what: str) -> DeviceArray:
        """The array of another library, over the same memory."""
        if isinstance(value, cls):
            return cls(value.where, value.device, value)
        interface = libraries.of(value).interface(value, what)
        if interface.get("mask") is not None:
            raise TypeError(f"{what} has a mask, which a step would ignore; pass the data alone")
        try:
            device = _ordinal(value, interface)
        except RuntimeError as error:
            raise RuntimeError(f"{what} is on a GPU: {error}") from error
        if not interface["data"][0] and 0 not in interface["shape"]:
            raise ValueError(f"{what} has no memory: its storage was freed; pass one that has")
        return cls(np.asarray(_Place(interface)), device, value)

    @classmethod
    def like(cls, other: DeviceArray, value: float) -> DeviceArray:
        """A new array with the strides of another, filled."""
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
        """New memory for a dense array; `like` is not looked into."""
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
        """Of the first element."""
        address = int(self.where.__array_interface__["data"][0])
        return 0 if address == _NOWHERE else address

    @property
    def shape(self) -> tuple[int, ...]:
        """As NumPy's, like all that follow."""
        shape: tuple[int, ...] = self.where.shape
        return shape

    @property
    def strides(self) -> tuple[int, ...]:
        """In bytes."""
        return self.where.strides

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64."""
        dtype: np.dtype[Any] = self.where.dtype
        return dtype

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return self.where.itemsize

    @property
    def size(self) -> int:
        """Elements."""
        return self.where.size

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.where.nbytes

    @property
    def flags(self) -> Any:
        """Of the place: contiguity, alignment, whether it may be written; not to be set."""
        return self.where.view().flags

    def view(self) -> DeviceArray:
        """Another one over the same memory."""
        return DeviceArray(self.where.view(), self.device, self.owner)

    def read_only(self) -> DeviceArray:
        """Another one over the same memory, which no step may write."""
        where = self.where.view()
        where.flags.writeable = False
        return DeviceArray(where, self.device, self.owner)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),  # torch refuses what is read-only
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
    """`cyopt._cpu.commit`, which copies these arrays as well, each from one with its strides."""
    device = driver.device(pairs[0][0].device)
    device.wait()
    with device:
        copies = [device.compiled_copy_call(to.address, of.address, to.nbytes) for to, of in pairs]
        _cpu.commit(copies, *rest)
        device.wait()


def _ordinal(value: Any, interface: dict[str, Any]) -> int:
    """The number of the GPU of an array of another library."""
    tell = libraries.of(value).device
    if tell is not None:
        return tell(value)
    address = interface["data"][0]
    try:
        return driver.ordinal_of(address) if address else driver.current_ordinal()
    except RuntimeError:
        if 0 not in interface["shape"]:
            raise
        return driver.current_ordinal()  # an empty array may lie behind all memory that there is
