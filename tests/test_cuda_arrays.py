"""Which arrays a step on a GPU takes and which it refuses, without a GPU: see gpu_of_host.py."""

import sys
import types

import numpy as np
import pytest
from gpu_of_host import HostArray
from gpu_pair import Pair, one
from same_bits import same_bits

import cyopt
from cyopt.cuda import driver, libraries
from cyopt.cuda.arrays import DeviceArray


def test_arrays_of_state_are_taken_as_gradients(gpu):
    """Those of another optimizer: its own are refused."""
    pair = Pair(shapes=[(9,)])
    pair.step()
    other, twin = np.ones(9, np.float32), np.ones(9, np.float32)
    opt, cpu = cyopt.SGD([HostArray(other)]), cyopt.SGD([twin])
    for _ in range(2):
        opt.step([pair.opt.state["0"]["exp_avg"]])
        cpu.step([pair.cpu.state["0"]["exp_avg"]])
    assert same_bits(other, twin)
    with pytest.raises(ValueError, match="exp_avg"):
        pair.opt.step([pair.opt.state["0"]["exp_avg"]])


def test_what_arrays_on_a_gpu_cannot_do_is_refused(gpu):
    arrays = [HostArray(np.full(9, x)) for x in (1.0, 0.5, 0.1, 0.2)]
    with pytest.raises(TypeError, match=r"param is on a GPU.* such as cyopt\.adam_"):
        cyopt.adam(*arrays, step=1)
    with pytest.raises(ValueError, match="make a contiguous copy and keep"):
        cyopt.SGD([HostArray(np.ones(8)[::2])])
    with pytest.raises(ValueError, match=r"pass a writable array$"):
        cyopt.SGD([HostArray(np.broadcast_to(1.0, (1,)))])


def test_a_gradient_on_the_cpu_is_refused(gpu):
    opt, grads = one()
    with pytest.raises(ValueError, match=r"is on GPU 0; copy it there: cupy\.asarray"):
        opt.step([grads[0].array])
    with pytest.raises(TypeError, match="is a list; expected"):
        opt.step([[1.0] * 4])


@pytest.fixture
def second(gpu, monkeypatch):
    """An array on another GPU."""
    array = HostArray(np.ones(2, np.float32), device=1)
    there = array.array.ctypes.data
    monkeypatch.setattr(driver, "ordinal_of", lambda address: int(address == there))
    return array


def on_gpu():
    return HostArray(np.ones(2, np.float32))


def test_an_optimizer_is_for_one_device(second):
    cpu = np.ones(2, np.float32)
    for params, places in [
        ([cpu, on_gpu()], "'1' is on GPU 0 and '0' is on the CPU"),
        ([on_gpu(), cpu], "'1' is on the CPU and '0' is on GPU 0"),
        ([on_gpu(), second], "'1' is on GPU 1 and '0' is on GPU 0"),
        ({"a": cpu, "b": on_gpu()}, "'b' is on GPU 0 and 'a' is on the CPU"),
    ]:
        with pytest.raises(ValueError, match=f"{places}; make an optimizer for each device"):
            cyopt.Adam(params)
    with pytest.raises(ValueError, match="make an optimizer for each device"):
        cyopt.sgd_([cpu, on_gpu()], [cpu, on_gpu()], lr=0.1)


def test_a_gradient_or_state_on_another_gpu_is_refused(second):
    w = on_gpu()
    with pytest.raises(ValueError, match="is on GPU 1 but its parameter is on GPU 0; copy it"):
        cyopt.SGD([w]).step([second])
    with pytest.raises(ValueError, match="sum of 0 is on GPU 1 but its parameter is on GPU 0"):
        cyopt.adagrad_(w, on_gpu(), second, step=1, lr=0.1)
    assert (w.array == 1).all()


def test_a_gradient_or_state_on_a_gpu_for_a_parameter_on_the_cpu_is_refused(gpu):
    w, there = np.ones(2, np.float32), on_gpu()
    for step in (
        lambda: cyopt.SGD([w]).step([there]),
        lambda: cyopt.sgd_(w, there, lr=0.1),
        lambda: cyopt.adagrad_(w, w.copy(), there, step=1, lr=0.1),
    ):
        with pytest.raises(ValueError, match="is on a GPU but its parameter is on the CPU; copy"):
            step()
    assert (w == 1).all()


@pytest.mark.parametrize("bound", [True, False])
def test_saved_state_on_a_gpu_is_refused(gpu, bound):
    w = on_gpu()
    opt = cyopt.Adam()
    opt.update("w", w, on_gpu())
    saved = opt.state_dict()
    saved["state"]["w"]["exp_avg"] = opt.state["w"]["exp_avg"]
    other = cyopt.Adam({"w": w}) if bound else cyopt.Adam()
    with pytest.raises(TypeError, match=r"state\['w'\]\['exp_avg'\] is on a GPU; expected a NumPy"):
        other.load_state_dict(saved)


def test_an_address_may_be_any_integer(gpu):
    w = on_gpu()
    place = types.SimpleNamespace(w=w)
    interface = w.__cuda_array_interface__
    address, read_only = interface["data"]
    place.__cuda_array_interface__ = {**interface, "data": (np.uint64(address), read_only)}
    cyopt.SGD([place], lr=0.5).step([on_gpu()])
    assert (w.array == 0.5).all()


def test_a_gradient_that_is_not_an_array_is_refused(gpu):
    opt, grads = one()
    opt.step(grads)
    with pytest.raises(TypeError, match="gradient of '0' is a cyopt"):
        opt.step([opt])


@pytest.mark.parametrize("which", ["params", "grads"])
def test_an_array_that_becomes_read_only_is_refused(gpu, which):
    param, grad = np.ones(4, np.float32), np.ones(4, np.float32)
    opt = cyopt.SGD([HostArray(param)], lr=0.5, zero_grads=True)
    grads = [HostArray(grad)]
    opt.step(grads)
    {"params": param, "grads": grad}[which].flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        opt.step(grads)
    assert (param == 0.5).all()


def test_an_average_is_refused_as_a_gradient_to_zero(gpu):
    opt = cyopt.SGD([HostArray(np.ones(4, np.float32))], lr=0.1, ema=0.5)
    opt.step([HostArray(np.ones(4, np.float32))])
    average = opt.averages["0"]
    other = cyopt.SGD([HostArray(np.ones(4, np.float32))], lr=0.1, zero_grads=True)
    other.step([DeviceArray.from_host(np.ones(4, np.float32), 0)])
    with pytest.raises(ValueError, match="read-only"):
        other.step([average])
    assert (average.copy_to_host() == np.float32(0.95)).all()


def test_a_subclass_belongs_to_the_library_of_its_base():
    base = type("Tensor", (), {"__module__": "torch"})
    own = type("Parameter", (base,), {"__module__": "somebodys.model"})
    assert libraries.of(own()) is libraries.of(base())
    assert libraries.of(own()) is not libraries.of(HostArray(np.ones(1)))


def test_cupys_stream_is_the_current_one_of_the_arrays_device(monkeypatch):
    stream = {0: types.SimpleNamespace(ptr=0), 1: types.SimpleNamespace(ptr=7)}
    cuda = types.SimpleNamespace(get_current_stream=lambda device: stream[device])
    monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(cuda=cuda))
    array = type("ndarray", (), {"__module__": "cupy"})()
    assert libraries.of(array).stream(array, 1) == 7
    assert libraries.of(array).stream(array, 0) == libraries.LEGACY_STREAM
