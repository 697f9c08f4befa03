"""What kernels read about the arrays of a list: GPU memory that mirrors a NumPy array."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cyopt.cuda.driver import Device, Pinned


class Table:
    """A NumPy array of 64-bit integers, and its copy on a GPU as of the last `upload`."""

    def __init__(self, device: Device, shape: tuple[int, ...]) -> None:
        self.host = np.zeros(shape, np.int64)
        self._device, self._memory = device, device.allocate(self.host.nbytes)
        # Pinned memory, and whether the copy out of it is done.
        self._slots: list[tuple[Pinned, Callable[[], bool]]] = []
        self._captured: list[Pinned] = []  # which graphs copy from at each replay
        self.changed = True

    @property
    def address(self) -> int:
        """The device address of the copy."""
        return self._memory.address

    def set(self, values: Any, place: Any) -> None:
        """Set a part of it."""
        if not (self.host[place] == values).all():
            self.host[place], self.changed = values, True

    def upload(self, stream: int, captured: bool = False) -> None:
        """Copy it to the GPU, if it was changed, in the order of a stream; never waits.

        At each replay a graph copies the values of its capture. So once there is a graph, each step
        outside of it copies again.
        """
        if captured:
            self._captured.append(self._device.pinned(self.host.shape))
            self._captured[-1].array[...] = self.host
            self._device.upload_async(self.address, self._captured[-1], stream)
        elif self.changed or self._captured:
            self._upload(stream)

    def _upload(self, stream: int) -> None:
        free = next((i for i, (_, done) in enumerate(self._slots) if done()), None)
        pinned = self._device.pinned(self.host.shape) if free is None else self._slots.pop(free)[0]
        pinned.array[...] = self.host
        self._device.upload_async(self.address, pinned, stream)
        self._slots.append((pinned, self._device.mark(stream)))
        self.changed = False


def chunks_of(row: int, size: int, chunk: int) -> np.ndarray[Any, Any]:
    """An integer per chunk of an array: the array's row; in the lower half, the chunk's number.

    >>> [hex(number) for number in chunks_of(3, 100, 64)]
    ['0x300000000', '0x300000001']
    """
    return (row << 32) | np.arange(-(-size // chunk), dtype=np.int64)
