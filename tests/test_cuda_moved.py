"""Gradients at other places than in the step before, without a GPU; see gpu_of_host.py."""

import numpy as np
import pytest
from gpu_of_host import HostArray, names
from gpu_pair import Pair
from same_bits import same_bits

import cyopt
from cyopt.cuda import driver


def test_tables_are_uploaded_again_when_a_gradient_moved(gpu):
    pair = Pair()
    pair.step()
    pair.own_grads[0] = HostArray(pair.own_grads[0].array.copy())
    gpu.log.clear()
    pair.step()
    assert names(gpu.log) == ["upload", "launch"]
    pair.same()


def test_gradients_that_moved_are_not_validated_in_full(gpu, monkeypatch):
    pair = Pair(zero_grads=True)
    pair.step()
    for _ in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(cyopt.parameters, "as_grads", None)
            pair.opt.step([HostArray(grad.copy()) for grad in pair.grads])
        pair.cpu.step([grad.copy() for grad in pair.grads])
        pair.same()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda w, g: HostArray(w[:4]), "shares memory with parameter"),
        (lambda w, g: HostArray(np.append(g, g)[1:5]), None),
        (lambda w, g: HostArray(np.append(g, g)[::2]), None),
        (lambda w, g: HostArray(shifted_bytes(g)), "not aligned"),
        (lambda w, g: HostArray(g.astype(np.float64)), "has dtype float64"),
        (lambda w, g: HostArray(np.append(g, g)), "has shape"),
        (lambda w, g: g, "is on the CPU"),
        (lambda w, g: Masked(g.copy()), "has a mask"),
        (lambda w, g: Wrong(g.copy(), "data", None), "with data None; expected a tuple of an addr"),
        (lambda w, g: Wrong(g.copy(), "data", (0.5, False)), r"with data \(0.5, False\); expected"),
        (lambda w, g: Wrong(g.copy(), "shape", [4]), r"with shape \[4\]; expected a tuple of int"),
        (lambda w, g: Wrong(g.copy(), "shape", (-4,)), r"with shape \(-4,\); expected a tuple"),
        (lambda w, g: Wrong(g.copy(), "typestr", None), "with typestr None; expected a str"),
        (lambda w, g: Wrong(g.copy(), "strides", [4]), r"with strides \[4\]; expected None or a"),
        (lambda w, g: Wrong(g.copy(), "stream", -3), "with stream -3; expected None or the handle"),
        (lambda w, g: Wrong(g.copy(), None, None), "interface__ of None; expected a dict"),
    ],
)
def test_gradients_that_moved_are_checked(gpu, spoil, message):
    w, g = np.arange(8, dtype=np.float32), np.ones(4, np.float32)
    params = [HostArray(w[2:6]), HostArray(w[7:8])]
    opt = cyopt.SGD(params, lr=1.0)
    opt.step([HostArray(g), HostArray(g[:1])])
    before = w.copy()
    grad = spoil(w, g)
    if message is None:
        opt.step([grad, HostArray(g[:1])])
        assert np.array_equal(w[2:6], before[2:6] - grad.array)
        return
    with pytest.raises((TypeError, ValueError), match=message):
        opt.step([grad, HostArray(g[:1])])
    assert same_bits(w, before)


def test_gradients_that_moved_into_each_other_or_to_another_gpu_are_refused(gpu, monkeypatch):
    w, g = np.arange(8, dtype=np.float32), np.ones(8, np.float32)
    opt = cyopt.SGD([HostArray(w[:4]), HostArray(w[4:])], zero_grads=True)
    opt.step([HostArray(g[:4]), HostArray(g[4:])])
    before = w.copy()
    with pytest.raises(ValueError, match="shares memory with gradient"):
        opt.step([HostArray(g[:4]), HostArray(g[3:7])])
    opt.step([HostArray(g[4:]), HostArray(g[:4])])
    elsewhere = HostArray(g[4:].copy())
    place = elsewhere.array.ctypes.data
    monkeypatch.setattr(driver, "ordinal_of", lambda address: int(address == place))
    with pytest.raises(ValueError, match="is on GPU 1 but its parameter is on GPU 0"):
        opt.step([HostArray(g[:4]), elsewhere])
    assert same_bits(w, before - np.float32(0))


def test_an_empty_array_may_lie_past_the_end_of_memory(gpu, monkeypatch):
    """The driver knows no GPU of that address, as of `array[n:]` in memory of n elements."""
    w, past = np.arange(4, dtype=np.float32), np.zeros(8, np.float32)[8:]

    def ordinal_of(address):
        if address == past.ctypes.data:
            raise RuntimeError("invalid argument")
        return 0

    monkeypatch.setattr(driver, "ordinal_of", ordinal_of)
    opt = cyopt.SGD([HostArray(past), HostArray(w)], lr=1.0)
    for _ in range(3):
        opt.step([HostArray(past), HostArray(np.ones(4, np.float32))])
    assert np.array_equal(w, [-3, -2, -1, 0])


@pytest.mark.parametrize(
    ("name", "value"), [("shape", [4]), ("strides", [4]), ("stream", []), ("typestr", [])]
)
def test_a_wrong_interface_is_named_by_functions_as_well(gpu, name, value):
    w = np.ones(4, np.float32)
    with pytest.raises(TypeError, match=f"parameter '0' .* with {name} "):
        cyopt.sgd_(Wrong(w, name, value), HostArray(w.copy()), lr=0.5)
    assert (w == 1).all()


class Masked(HostArray):
    @property
    def __cuda_array_interface__(self):
        return super().__cuda_array_interface__ | {"mask": self}


class Wrong(HostArray):
    """With an interface that is not as it must be: a field of it, or the whole."""

    def __init__(self, array, name, value):
        super().__init__(array)
        self.name, self.value = name, value

    @property
    def __cuda_array_interface__(self):
        right = super().__cuda_array_interface__
        return right | {self.name: self.value} if self.name else self.value


def shifted_bytes(array):
    room = np.zeros(array.nbytes + 1, np.uint8)
    moved = room[1:].view(array.dtype)
    moved[...] = array
    return moved


def test_gradients_that_are_gathered_may_move(gpu):
    pair = Pair(shapes=[(6, 6)])
    for seed in range(3):
        base = np.random.default_rng(seed).normal(size=(12, 12)).astype(np.float32)
        pair.grads, pair.own_grads = [base[::2, ::-2]], [HostArray(base[::2, ::-2])]
        pair.step()
        pair.same()


def test_a_gathered_gradient_that_is_not_given_again_is_left_alone(gpu):
    """Its memory may be another array's by then, which zero_grads would clear."""
    opt = cyopt.Adam([HostArray(np.ones((6, 6))), HostArray(np.ones(3))], zero_grads=True)
    memory = np.ones((6, 12))
    opt.step([HostArray(memory[:, ::2]), HostArray(np.ones(3))])
    memory[...] = 5
    opt.step([None, HostArray(np.ones(3))])
    assert (memory == 5).all()
