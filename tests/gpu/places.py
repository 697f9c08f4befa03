"""Arrays on a GPU, somewhere past an aligned address, and what they hold."""

import numpy as np

from cyopt.cuda.arrays import DeviceArray


class Place:
    """What another library's array shows of itself."""

    def __init__(self, base, nbytes, shape, dtype, strides=None):
        self.base = base  # keeps its memory
        self.__cuda_array_interface__ = {
            "shape": shape,
            "typestr": np.dtype(dtype).str,
            "data": (base.address + nbytes, False),
            "strides": strides,
            "version": 3,
        }


def shifted(array, offset):
    """A copy of a dense array on the GPU, `offset` elements past an aligned address."""
    room = np.concatenate([np.zeros(offset, array.dtype), array.ravel("K")])
    base = DeviceArray.from_host(room, 0)
    return Place(base, offset * array.itemsize, array.shape, array.dtype, array.strides)


def held(place):
    """A copy of its elements on the CPU."""
    return DeviceArray.of(place, "array").copy_to_host()
