"""Gradients and parameters in any memory layout: read in the parameter's element order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from same_bits import same_bits

import cyopt
from cyopt import _cpu

TILE = 32768  # bytes that a strided gradient is gathered into at a time, as in src_c/step.c


def draw(shape, dtype, seed=0):
    return np.array(np.random.default_rng(seed).normal(size=shape), dtype)


def sliced(grad):
    wide = np.zeros(tuple(2 * n + 1 for n in grad.shape), grad.dtype)
    view = wide[(*(slice(1, None, 2) for _ in grad.shape), ...)]
    view[...] = grad
    return view


def permuted(grad):
    """The same values, with the middle dimensions' strides exchanged."""
    axes = np.roll(np.arange(grad.ndim), 1)
    return np.array(grad.transpose(axes), order="C").transpose(np.argsort(axes))


# What a caller may have done to a gradient; the values are the same.
LAYOUTS = {
    "C": lambda grad: np.array(grad, order="C"),
    "Fortran": lambda grad: np.array(grad, order="F"),
    "sliced": sliced,
    "permuted": permuted,
    "negative": lambda grad: np.flip(np.array(np.flip(grad), order="C")),
    "read-only": lambda grad: np.frombuffer(grad.tobytes(), grad.dtype).reshape(grad.shape),
}
SHAPES = [
    (),
    (0,),
    (1,),
    (7,),
    (3, 0, 2),
    (1, 5),
    (5, 1),
    (3, 4),
    (2, 3, 5),
    (2, 1, 3, 4),
    (TILE // 4 - 1,),
    (TILE // 4 + 1,),
    (2, TILE // 4 + 1),
    (129, 131),
]


def check(param, grad, threads=1, cls=cyopt.Adam):
    """cyopt on these arrays against cyopt/rules.py on plain copies of them."""
    expected, before = np.array(param, order="C"), grad.copy()
    cyopt.set_num_threads(threads)
    _cpu.set_config(grain=1)
    opt = cls([param])
    ref = cyopt.reference.attach(cls([expected]))
    for _ in range(2):
        opt.step([grad])
        ref.step([np.array(grad, order="C")])
    assert same_bits(np.array(param, order="C"), expected)
    for key, state in opt.state["0"].items():
        assert same_bits(np.array(state, order="C"), ref.state["0"][key])
        assert state.strides == param.strides
    assert np.array_equal(grad, before), "the gradient changed"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_are_read_in_the_order_of_their_parameter(shape, layout, order, dtype):
    param = np.array(draw(shape, dtype), order=order)
    grad = LAYOUTS[layout](draw(shape, dtype, 1))
    for threads in (1, 3):
        check(param.copy(order), grad, threads)


@pytest.mark.parametrize("cls", [cyopt.Adam, cyopt.AdaGrad])
def test_state_begins_in_a_cache_line_where_its_parameter_does(cls):
    memory = np.zeros(200_000, "float32")
    params = [memory[1:3], memory[40:140], memory[1007:6000], memory[10_003:]]
    opt = cls(params, lr=0.1)
    for param, entry in zip(params, opt.state.values(), strict=True):
        for state in entry.values():
            assert (state.ctypes.data - param.ctypes.data) % 64 == 0


def test_a_broadcast_gradient_is_read_in_its_shape():
    grad = np.broadcast_to(draw((1, 4), "float32"), (3, 4))
    check(draw((3, 4), "float32"), grad)
    check(np.asfortranarray(draw((3, 4), "float32")), grad)


def test_a_transposed_square_gradient_is_read_transposed():
    """Shape, dtype and size are alike, only the order differs (fused kernels of torch miss it)."""
    param, grad = draw((64, 64), "float32"), draw((64, 64), "float32", 1).T
    expected = param - np.float32(1e-3) * grad
    cyopt.SGD([param]).step([grad])
    assert same_bits(param, expected)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_view_of_any_shape_is_read(data):
    shape = tuple(data.draw(st.lists(st.integers(0, 6), max_size=4)))
    axes = data.draw(st.permutations(range(len(shape))))
    steps = data.draw(st.tuples(*[st.sampled_from([1, 2, 3, -1, -2]) for _ in shape]))
    dtype = data.draw(st.sampled_from(["float32", "float64"]))
    order = data.draw(st.sampled_from("CF"))
    sizes = [shape[a] * abs(steps[a]) for a in axes]
    base = draw(sizes, dtype, data.draw(st.integers(0, 9)))
    view = base.transpose(np.argsort(axes))
    grad = view[(*(slice(None, None, s) for s in steps), ...)]
    assert grad.shape == shape
    check(np.array(draw(shape, dtype), order=order), grad, data.draw(st.sampled_from([1, 2, 3])))


def test_the_strides_of_dimensions_of_size_one_mean_nothing():
    base = draw((5, 8), "float32")
    grad = np.lib.stride_tricks.as_strided(base[:, 0], (1, 5, 1), (999, 32, 7 * 4))
    check(draw((1, 5, 1), "float32"), grad)


def test_the_stride_of_a_dimension_of_size_one_may_be_any():
    param, grad = np.ones((3, 1, 2)), np.ones((3, 1, 4))[:, :, ::2]
    odd = np.lib.stride_tricks.as_strided(grad, strides=(32, 2**62, 16))
    assert cyopt.SGD([param], lr=0.5).step([odd])
    assert (param == 0.5).all()


def test_arrays_may_have_many_dimensions():
    shape = (2,) * 12
    check(draw(shape, "float64"), draw(shape, "float64", 1).T)
