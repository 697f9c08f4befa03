"""Arrays of Numba whose memory is that of a GPU that is this CPU; see gpu_of_host.py."""

import numpy as np
import pytest
from same_bits import same_bits

import cyopt
from cyopt.cuda import libraries

pytest.importorskip("numba.cuda.cudadrv.devicearray", reason="make test-cuda installs Numba")
pytest.importorskip("cuda.bindings.driver", reason="make test-cuda installs it")

from cuda.bindings.driver import CUdeviceptr
from numba.cuda.cudadrv.devicearray import DeviceNDArray
from numba.cuda.cudadrv.driver import MemoryPointer


class Subclass(DeviceNDArray):
    pass


def of(array, cls=DeviceNDArray):
    """An array of Numba over the memory of one of NumPy, with its strides."""
    memory = MemoryPointer(None, CUdeviceptr(array.ctypes.data), array.nbytes, owner=array)
    return cls(array.shape, array.strides, array.dtype, gpu_data=memory)


@pytest.mark.parametrize("cls", [DeviceNDArray, Subclass])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_steps_have_the_bits_of_the_cpu(gpu, dtype, cls):
    """The same gradients, new ones and strided ones."""
    cyopt.set_subnormals("keep")
    w, g = np.random.default_rng(0).normal(size=(2, 20, 30)).astype(dtype)
    there, expected = w.copy(), w.copy()
    opt, cpu = cyopt.Adam([of(there, cls)]), cyopt.Adam([expected])
    kept = of(g, cls)
    wide = np.repeat(g, 2, axis=1)
    for grad in (kept, kept, of(g.copy(), cls), of(wide[:, ::2], cls), kept, kept):
        opt.step([grad])
        cpu.step([g])
    assert same_bits(there, expected)


def test_arrays_are_found_elsewhere_if_they_are_as_before(gpu):
    a, b = np.ones((2, 3), np.float32), np.ones(4)
    first, other = of(a), of(b)
    places = libraries.places([first, None, other])
    for array in (first, of(a)):
        assert places.find([array, None, other]) is places.addresses
    moved = of(a.copy())
    addresses = [moved.device_ctypes_pointer.value, 0, other.device_ctypes_pointer.value]
    assert places.find([moved, None, other]).tolist() == addresses
    others = of(a.astype(np.float64)), of(a.T), of(np.ones((2, 6), np.float32)[:, ::2])
    for array in (*others, first.bind(7), of(a, Subclass), None):
        assert places.find([array, None, other]) is None


def test_what_is_no_array_is_refused(gpu):
    with pytest.raises(TypeError, match="MemoryPointer; expected"):
        cyopt.SGD([of(np.ones(3)).gpu_data])
