"""Gradients whose strides or dtype differ from their parameter's, made dense first."""

from __future__ import annotations

import numpy as np

from cyopt.arrays import same_order
from cyopt.cuda import cache
from cyopt.cuda.arrays import DeviceArray
from cyopt.cuda.driver import Call, Device
from cyopt.cuda.layout import THREADS
from cyopt.cuda.names import (
    ITEMSIZE,
    cuda,
    load,
    load_double,
    load_int,
    real,
    store,
    store_double,
)
from cyopt.cuda.source import function_source
from cyopt.cuda.tables import Table


def gather(source, target, n, axes, n_axes, casts, clears):  # type: ignore[no-untyped-def]
    """A kernel: copies `source`, of any strides, to a dense `target`; if `clears`, zeroes `source`.

    `axes` has the length and the stride in bytes of each axis; the last axis is the fastest.
    """
    i = THREADS * cuda.blockIdx.x + cuda.threadIdx.x
    if i < n:
        place = source
        rest = i
        axis = n_axes
        while axis > 0:
            axis -= 1
            length = load_int(axes + 16 * axis)
            place += load_int(axes + 16 * axis + 8) * (rest % length)
            rest //= length
        if casts != 0:
            store(target + ITEMSIZE * i, real(load_double(place)))
        else:
            store(target + ITEMSIZE * i, load(place))
        if clears != 0 and casts != 0:
            store_double(place, 0.0)
        if clears != 0 and casts == 0:
            store(place, real(0.0))


class Gatherer:
    """Dense memory for the gradients of one parameter."""

    def __init__(self, device: Device, param: DeviceArray, clears: bool) -> None:
        self._device, self._param, self._clears = device, param, clears
        self._memory = device.allocate(param.nbytes)
        self._axes = Table(device, (max(len(param.shape), 1), 2))
        self._casts = False
        self._source = 0

    @property
    def address(self) -> int:
        """The address of the dense gradient."""
        return self._memory.address

    def take(self, grad: DeviceArray) -> None:
        """Use this gradient from now on."""
        axes = np.array([grad.shape, grad.strides], np.int64).T
        if not self._param.flags.c_contiguous:
            axes = axes[::-1]  # Fortran order: the first axis is the fastest
        self._axes.set(axes, np.s_[: len(axes)])
        self._source, self._casts = grad.address, grad.dtype != self._param.dtype

    def calls(self, stream: int) -> list[Call]:
        """The launch that makes it dense."""
        n, param = self._param.size, self._param
        kernel = cache.kernel(function_source(gather, param.dtype.name), self._device.ordinal)
        arrays = (self._source, self.address, n, self._axes.address, len(param.shape))
        integers = (*arrays, self._casts, self._clears)
        return [(self._device.launch(kernel, -(-n // THREADS), THREADS, stream, integers), ())]

    def upload(self, stream: int, captured: bool) -> None:
        """Upload the axes, if they changed."""
        self._axes.upload(stream, captured)


def is_dense_like(grad: DeviceArray, param: DeviceArray) -> bool:
    """Whether the kernels of the rules can read the gradient as it is."""
    return grad.dtype == param.dtype and same_order(grad, param)
