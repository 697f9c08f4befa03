"""What a step on a GPU launches, uploads and keeps, without a GPU; see gpu_of_host.py."""

import copy
import pickle

import numpy as np
import pytest
from gpu_of_host import HostArray, names
from gpu_pair import Pair, one
from same_bits import same_bits, same_optimizers

import cyopt
from cyopt.cuda import decision


def test_a_steady_step_is_one_launch(gpu):
    pair = Pair()
    pair.step()
    for _ in range(3):
        gpu.log.clear()
        assert pair.step() is True
        assert names(gpu.log) == ["launch"]
    pair.same()


@pytest.mark.parametrize("options", [{"clip_norm": 0.1}, {"skip_nonfinite": True}, {}], ids=str)
@pytest.mark.parametrize("norms", [False, True])
def test_a_steady_step_makes_no_launch_or_numbers_again(gpu, options, norms, monkeypatch):
    """That takes half a millisecond for 200 arrays."""
    pair = Pair(capturable=True, **options)
    for _ in range(2):
        pair.step(norms=norms)
    monkeypatch.setattr(gpu, "launch", None)
    monkeypatch.setattr(decision, "hyper_numbers", None)
    for _ in range(2):
        pair.step(norms=norms)
    pair.same()


def test_parameters_without_a_gradient_rest(gpu):
    """They have made fewer steps from then on: another set of scalars for the launch."""
    pair = Pair()
    for skipped in ((), (3,), (0, 1, 2, 3, 4), (3,), ()):
        pair.step(skipped)
        pair.same()
    gpu.log.clear()
    pair.step()
    assert names(gpu.log) == ["launch"]
    pair.same()


@pytest.mark.parametrize("option", ["clip_norm", "skip_nonfinite", "capturable"])
def test_gradients_may_be_missing_from_the_first_step_on(gpu, option):
    pair = Pair(**{option: True if option != "clip_norm" else 0.1})
    for skipped in ((0, 1), (3,), (), (0, 1)):
        pair.step(skipped)
        pair.same()


def test_an_average_does_not_begin_without_a_gradient(gpu):
    params = [HostArray(np.full(4, x, np.float32)) for x in (1, 2)]
    opt, grads = cyopt.SGD(params, lr=0.5, ema=0.5), [HostArray(np.ones(4, np.float32)), None]
    params[1].array[:] = 3
    for _ in range(2):
        opt.step(grads)
    averages = [opt.state[name]["average"].copy_to_host()[0] for name in "01"]
    assert averages == [0.375, 2.0]


def test_gradients_that_come_and_go_allocate_nothing(gpu, monkeypatch):
    """Freeing memory waits for the GPU."""
    pair = Pair(clip_norm=0.1)
    some = [None if i % 2 else grad for i, grad in enumerate(pair.grads)]
    own = [None if i % 2 else grad for i, grad in enumerate(pair.own_grads)]
    for again in range(3):
        if again == 2:
            monkeypatch.setattr(gpu, "allocate", None)
        pair.step()
        pair.opt.step(own)
        pair.cpu.step(some)
        pair.same()


@pytest.mark.parametrize("cls", [cyopt.Adam, cyopt.Momentum, cyopt.AdaGrad, cyopt.RMSProp])
@pytest.mark.parametrize("n", [2, 3, 4, 5, 9])
def test_one_launch_for_four_groups(gpu, n, cls):
    arrays = [np.full(10 + i, 1.0 + i, np.float32) for i in range(n)]
    twins = copy.deepcopy(arrays)

    def made(params):
        groups = [{"params": [p], "lr": 0.1 + i} for i, p in enumerate(params)]
        return cls(groups, ema=0.5)

    opt, cpu = made(list(map(HostArray, arrays))), made(twins)
    grads = [np.full_like(a, 0.5 + i) for i, a in enumerate(arrays)]
    held = [[HostArray(grad)] for grad in grads]
    for step in range(6):  # half of them begin later, also with their averages
        given = [None if step in (0, 3) and i % 2 else grad for i, grad in enumerate(grads)]
        gpu.log.clear()
        opt.step([[None if g is None else own] for g, (own,) in zip(given, held, strict=True)])
        cpu.step([[g] for g in given])
    assert names(gpu.log) == ["launch"] * -(-n // 4)
    assert all(map(same_bits, arrays, twins))
    same_optimizers(opt, cpu)


@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.1}], ids=str)
def test_groups_share_a_launch(gpu, options):
    arrays = [np.ones((4, 4), np.float32), np.ones(4, np.float32)]
    twins = copy.deepcopy(arrays)

    def made(params):
        groups = [{"params": [params[0]], "weight_decay": 0.1}, {"params": [params[1]], "lr": 0.5}]
        return cyopt.AdamW(groups, **options)

    opt, cpu = made(list(map(HostArray, arrays))), made(twins)
    grads = [np.full_like(a, 0.5) for a in arrays]
    held = [[HostArray(grads[0])], [HostArray(grads[1])]]
    for _ in range(3):
        gpu.log.clear()
        opt.step(held)
        cpu.step([[grads[0]], [grads[1]]])
    if not options:
        assert names(gpu.log) == ["launch"]
    for a, b in zip(arrays, twins, strict=True):
        assert same_bits(a, b)


@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("how", ["reversed", "repeated", "transposed", "cast"])
def test_gradients_that_are_not_dense_are_gathered(gpu, how, order):
    shape = (6, 6)
    pair = Pair(shapes=[shape], order=order, cast_grads=how == "cast")
    base = np.random.default_rng(1).normal(size=(12, 12)).astype(np.float32)
    grad = {
        "reversed": base[::-2, ::2],
        "repeated": np.broadcast_to(base[0, :6], shape),
        "transposed": base[:6, :6].T,
        "cast": base[:6, :6].astype(np.float64)[:, ::-1],
    }[how]
    pair.grads, pair.own_grads = [np.array(grad)], [HostArray(grad)]
    for _ in range(2):
        gpu.log.clear()
        pair.step()
    assert names(gpu.log) == ["launch", "launch"]
    pair.same()


@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.1}, {"skip_nonfinite": True}], ids=str)
def test_numbers_that_change_between_steps_act(gpu, options):
    pair = Pair(cls=cyopt.AdamW, **options)
    for lr in (0.1, 0.2, 0.0):
        pair.opt.lr = pair.cpu.lr = lr
        pair.opt.betas = pair.cpu.betas = (0.5, 0.75)
        pair.step()
        pair.step()
        pair.same()
    if "skip_nonfinite" in options:
        with pytest.raises(ValueError, match=r"schedule.*set the number before each step"):
            pair.opt.lr = lambda t: 0.1
            pair.step()
    else:
        pair.opt.lr = pair.cpu.lr = cyopt.schedules.time_based(0.1, 0.5)
        for _ in range(3):
            pair.step()
        pair.same()


@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.1}, {"skip_nonfinite": True}], ids=str)
@pytest.mark.parametrize("way", ["state_dict", "pickle", "deepcopy", "to the CPU", "from the CPU"])
def test_a_run_continues_with_the_same_bits(gpu, way, options):
    pair = Pair(cls=cyopt.Adam, ema=0.9, **options)
    for _ in range(2):
        pair.step()
    if way == "state_dict":
        saved = pair.opt.state_dict()
        pair.opt = cyopt.Adam(pair.params, ema=0.9, **options)
        pair.opt.load_state_dict(saved)
    elif way in ("pickle", "deepcopy"):
        again = pickle.loads(pickle.dumps(pair.opt)) if way == "pickle" else copy.deepcopy(pair.opt)
        again.step(pair.own_grads)
        pair.cpu.step(pair.grads)
        same_optimizers(again, pair.cpu)
        return
    elif way == "to the CPU":
        moved = cyopt.Adam(pair.host, ema=0.9, **options)
        moved.load_state_dict(pair.opt.state_dict())
        moved.step(pair.grads)
        pair.cpu.step(pair.grads)
        same_optimizers(moved, pair.cpu)
        return
    else:
        pair.opt.load_state_dict(pair.cpu.state_dict())
    pair.step()
    pair.same()


@pytest.mark.parametrize("there", ["GPU to CPU", "CPU to GPU", "GPU to GPU"])
def test_a_file_loads_on_the_cpu_and_on_the_gpu(gpu, there, tmp_path):
    pair = Pair(ema=0.9, order="F")
    for _ in range(2):
        pair.step()
    source, target = there.split(" to ")
    cyopt.save(pair.opt if source == "GPU" else pair.cpu, tmp_path / "adam.npz")
    moved = cyopt.Adam(pair.params if target == "GPU" else pair.host, ema=0.9)
    cyopt.load(moved, tmp_path / "adam.npz")
    moved.step(pair.own_grads if target == "GPU" else pair.grads)
    pair.cpu.step(pair.grads)
    same_optimizers(moved, pair.cpu)


def test_state_can_be_loaded_between_steps(gpu):
    pair = Pair(shapes=[(5,), (7,)])
    pair.step()
    saved, before = pair.opt.state_dict(), [p.copy() for p in pair.host]
    pair.step()
    after = [p.copy() for p in pair.host]
    pair.opt.load_state_dict(saved)
    for param, old in zip(pair.host, before, strict=True):
        param[...] = old
    pair.opt.step(pair.own_grads)
    assert all(map(same_bits, pair.host, after))
    pair.same()


def test_load_state_dict_copies_by_compiled_calls(gpu, monkeypatch):
    opt, grads = one(ema=0.9)
    saved = opt.state_dict()
    opt.step(grads)
    for name in ("copy", "copy_call"):
        monkeypatch.setattr(gpu, name, None)
    opt.load_state_dict(saved)
    assert opt.steps == 0
    assert not opt.state["0"]["exp_avg"].copy_to_host().any()


def test_state_is_shown_as_arrays_on_the_gpu(gpu):
    pair = Pair(shapes=[(2, 3)], order="F", ema=0.5)
    pair.step()
    exp_avg = pair.opt.state["0"]["exp_avg"]
    assert exp_avg.__cuda_array_interface__["shape"] == (2, 3)
    assert exp_avg.__cuda_array_interface__["strides"] == pair.host[0].strides
    assert same_bits(exp_avg.copy_to_host(), pair.cpu.state["0"]["exp_avg"])
    assert same_bits(pair.opt.averages["0"].copy_to_host(), pair.cpu.averages["0"])
    assert not pair.opt.averages["0"].flags.writeable
    # torch refuses to share memory that is said to be read-only.
    assert not pair.opt.averages["0"].__cuda_array_interface__["data"][1]
    assert repr(exp_avg) == "DeviceArray(float32 of shape (2, 3) on GPU 0)"
    with pytest.raises(TypeError, match="copy_to_host"):
        np.asarray(exp_avg)


@pytest.mark.parametrize("cls", [cyopt.SGD, cyopt.Momentum, cyopt.RMSProp])
def test_keyed_and_unbound_use(gpu, cls):
    arrays = {"w": np.ones(5, np.float32), "b": np.ones((), np.float64)}
    twins, thirds = copy.deepcopy(arrays), copy.deepcopy(arrays)
    keyed, unbound, cpu = cls(lr=0.1), cls(lr=0.1), cls(lr=0.1)
    for _ in range(3):
        grads = {key: np.full_like(array, 0.5) for key, array in arrays.items()}
        for key, array in arrays.items():
            held = HostArray(array)
            assert keyed.update(key, held, HostArray(grads[key])) is held
            cpu.update(key, twins[key], grads[key])
        held = {key: HostArray(array) for key, array in thirds.items()}
        unbound.step({key: HostArray(grad) for key, grad in grads.items()}, held)
    for key, array in arrays.items():
        assert same_bits(array, twins[key]) and same_bits(array, thirds[key])
    same_optimizers(keyed, cpu)


# --- streams --------------------------------------------------------------------------------------


def test_steps_are_ordered_with_the_streams_of_all_arrays(gpu):
    w, g = np.ones(4, np.float32), np.ones(4, np.float32)
    opt = cyopt.SGD([HostArray(w, stream=7)])
    opt.step([HostArray(g, stream=9)])
    assert gpu.log[0] == ("order", 7, 9) and gpu.log[-1] == ("order", 9, 7)
    assert {entry[1] for entry in gpu.log[1:-1]} == {7}
    gpu.log.clear()
    opt.step([HostArray(g, stream=7)])
    assert ("order", 7, 9) not in gpu.log and {entry[1] for entry in gpu.log} == {7}


def test_functions_are_ordered_with_the_streams_of_their_state(gpu):
    w, g, v = np.ones(4, np.float32), np.ones(4, np.float32), np.zeros(4, np.float32)
    w, grad, state = HostArray(w, stream=7), HostArray(g, stream=7), HostArray(v, stream=9)
    for _ in range(2):
        gpu.log.clear()
        cyopt.sgd_(w, grad, state, lr=0.25, momentum=0.5)
        assert gpu.log[0] == ("order", 7, 9) and gpu.log[-1] == ("order", 9, 7)
    gpu.log.clear()
    cyopt.sgd_(w, grad, state, lr=0.25, momentum=0.5, stream=11)
    assert {entry[1] for entry in gpu.log} == {11}
    assert same_bits(v, np.full(4, 1.75, np.float32))


class CudaStream:
    def __init__(self, handle):
        self.handle = handle

    def __cuda_stream__(self):
        return 0, self.handle


class TorchStream:
    cuda_stream = 11


class CupyStream:
    ptr = 11


class NumbaStream:
    class handle:  # noqa: N801  # a number of ctypes
        value = 11


@pytest.mark.parametrize("stream", [11, CudaStream(11), TorchStream, CupyStream, NumbaStream])
def test_a_given_stream_is_the_only_one(gpu, stream):
    pair = Pair(shapes=[(4,)])
    for _ in range(2):
        gpu.log.clear()
        pair.step(stream=stream)
        assert {entry[1] for entry in gpu.log} == {11}
    gpu.log.clear()
    pair.step()
    assert {entry[1] for entry in gpu.log} == {1}
    pair.same()


def test_update_takes_a_stream(gpu):
    w, g = np.ones(4, np.float32), np.ones(4, np.float32)
    opt = cyopt.SGD(lr=0.25)
    for stream in (11, 11, None):
        gpu.log.clear()
        opt.update("w", HostArray(w), HostArray(g), stream=stream)
        assert {entry[1] for entry in gpu.log} == {stream or 1}
    assert same_bits(w, np.full(4, 0.25, np.float32))
    with pytest.raises(TypeError, match="expected a key such as a name"):
        opt.update(["w"], HostArray(w), HostArray(g), stream=11)
    with pytest.raises(TypeError, match="stream is given, but the parameters are on the CPU"):
        opt.update("host", w, g, stream=11)


@pytest.mark.parametrize("stream", ["default", -5, True, 2.5j, 3.7, "12"])
def test_what_is_not_a_stream_is_refused(gpu, stream):
    opt, grads = one()
    with pytest.raises(TypeError, match=rf"stream is {stream!r}; expected a stream of torch"):
        opt.step(grads, stream=stream)


def test_a_stream_is_refused_for_parameters_on_the_cpu():
    param, grad = np.ones(4, np.float32), np.ones(4, np.float32)
    with pytest.raises(TypeError, match="stream is given, but the parameters are on the CPU"):
        cyopt.Adam([param]).step([grad], stream=11)
