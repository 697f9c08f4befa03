"""Arrays of CuPy whose memory is that of a GPU that is this CPU; see gpu_of_host.py."""

import gc
import weakref

import numpy as np
import pytest
from same_bits import same_bits

import cyopt
from cyopt.cuda import libraries

cupy = pytest.importorskip("cupy")


@pytest.fixture
def cupy_on_gpu(gpu, monkeypatch):
    """CuPy without a driver, which it would ask for its current stream."""
    library = libraries._CUPY._replace(stream=lambda array, device: libraries.LEGACY_STREAM)
    monkeypatch.setitem(libraries._LIBRARIES, "cupy", library)
    libraries._of_type.cache_clear()
    yield gpu
    libraries._of_type.cache_clear()


def of(array, cls=cupy.ndarray):
    """An array of CuPy over the memory of one of NumPy, with its strides."""
    memory = cupy.cuda.UnownedMemory(array.ctypes.data, array.nbytes, array, 0)
    pointer = cupy.cuda.MemoryPointer(memory, 0)
    return cls(array.shape, array.dtype, pointer, array.strides)


class Subclass(cupy.ndarray):
    pass


@pytest.mark.parametrize("cls", [cupy.ndarray, Subclass])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_steps_have_the_bits_of_the_cpu(cupy_on_gpu, dtype, cls):
    """The same gradients, new ones, strided ones, and a parameter that was replaced by a view."""
    cyopt.set_subnormals("keep")
    rng = np.random.default_rng(0)
    w, g = rng.normal(size=(2, 20, 30)).astype(dtype)
    there, expected = w.copy(), w.copy()
    params, twins = {"w": of(there, cls)}, {"w": expected}
    opt, cpu = cyopt.Adam(params), cyopt.Adam(twins)
    kept = of(g, cls)
    wide = np.repeat(g, 2, axis=1)
    for grad in (kept, kept, of(g.copy(), cls), of(wide, cls)[:, ::2], kept, kept):
        opt.step({"w": grad})
        cpu.step({"w": g})
        params["w"] = params["w"][:]
    assert same_bits(there, expected)


def test_arrays_are_found_elsewhere_if_they_are_as_before(cupy_on_gpu):
    a, b = np.ones((2, 3), np.float32), np.ones(4)
    first, other = of(a), of(b)
    places = libraries.places([first, None, other])
    for array in (first, of(a), of(a, Subclass)):
        assert places.find([array, None, other]) is places.addresses
    moved = of(a.copy())
    assert places.find([moved, None, other]).tolist() == [moved.data.ptr, 0, other.data.ptr]
    for array in (of(a.astype(np.float64)), of(a.T), of(np.ones((2, 6), np.float32)[:, ::2]), None):
        assert places.find([array, None, other]) is None


@pytest.mark.parametrize(
    ("shape", "others"),
    [
        ((6,), [(1, 6), (6, 1), (2, 3)]),
        ((2, 3), [(6,), (3, 2), (1, 6), (2, 3, 1)]),
        ((2, 3, 4), [(2, 4, 3), (2, 12), (24,)]),
        ((0, 3), [(0, 5), (3, 0), (0,)]),
        ((1,), [(), (1, 1)]),
        ((), [(1,)]),
    ],
    ids=str,
)
def test_a_reshaped_array_is_another_one(cupy_on_gpu, shape, others):
    """`a.shape = ...` is the one thing that can be done to the same object."""
    array = of(np.ones(shape, np.float32))
    places = libraries.places([array])
    for other in others:
        array.shape = other
        assert places.find([array]) is None
        array.shape = shape
        assert places.find([array]) is places.addresses


def test_no_array_is_kept_alive(cupy_on_gpu):
    """Nor is one that lies where a former one did taken for it."""
    a = np.ones((2, 3), np.float32)
    first = of(a)
    places = libraries.places([first])
    seen = weakref.ref(first)
    del first
    gc.collect()
    assert seen() is None
    assert places.find([of(a)]) is places.addresses
    assert places.find([of(a.reshape(3, 2))]) is None


def test_a_shape_that_was_set_is_noticed(cupy_on_gpu):
    w, g = of(np.ones(6, np.float32)), of(np.ones(6, np.float32))
    opt = cyopt.SGD([w], lr=0.5)
    for _ in range(2):
        opt.step([g])
    g.shape = 2, 3
    with pytest.raises(ValueError, match=r"shape \(2, 3\)"):
        opt.step([g])
    w.shape = 2, 3
    with pytest.raises(ValueError, match=r"shape \(2, 3\)"):
        opt.step([g])


def test_what_is_no_array_is_refused(cupy_on_gpu):
    with pytest.raises(TypeError, match="MemoryPointer; expected"):
        cyopt.SGD([of(np.ones(3)).data])
    with pytest.raises(TypeError, match="complex64"):
        cyopt.SGD([of(np.ones(3, np.complex64))])
