"""What a step on a GPU launches, uploads and keeps, without a GPU; see gpu_of_host.py."""

import copy
import pickle
import weakref

import numpy as np
import pytest
from gpu_of_host import HostArray, names
from gpu_pair import Pair
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
def test_a_steady_step_makes_nothing_anew(gpu, options, norms, monkeypatch):
    """Making launches and numbers took half a millisecond for 200 arrays."""
    pair = Pair(capturable=True, **options)
    for _ in range(2):
        pair.step(norms=norms)
    monkeypatch.setattr(gpu, "launch", None)
    monkeypatch.setattr(decision, "hyper_numbers", None)
    for _ in range(2):
        pair.step(norms=norms)
    pair.same()


def test_without_some_gradients(gpu):
    """Their bias corrections are behind from then on: another set of scalars for the launch."""
    pair = Pair()
    for skipped in ((), (3,), (0, 1, 2, 3, 4), (3,), ()):
        pair.step(skipped)
        pair.same()
    gpu.log.clear()
    pair.step()
    assert names(gpu.log) == ["launch"]
    pair.same()


@pytest.mark.parametrize("option", ["clip_norm", "skip_nonfinite", "capturable"])
def test_without_some_gradients_from_the_first_step_on(gpu, option):
    pair = Pair(**{option: True if option != "clip_norm" else 0.1})
    for skipped in ((0, 1), (3,), (), (0, 1)):
        pair.step(skipped)
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
def test_groups(gpu, options):
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
def test_gradients_that_are_not_dense(gpu, how, order):
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
def test_schedules_and_changes_between_steps(gpu, options):
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


@pytest.mark.parametrize("framework", ["sklearn", "thinc", "keras", "autograd"])
def test_clipping_in_the_formula_of_a_framework(gpu, framework):
    """With some of them the host computes the scalars of each step."""
    w, g = np.linspace(-1, 1, 30), np.linspace(3, -5, 30)
    there, expected = HostArray(w.copy()), w.copy()
    opt, cpu = (
        cyopt.Adam.like(framework, [param], lr=0.1, clip_norm=0.5) for param in (there, expected)
    )
    cyopt.set_subnormals("keep")
    for _ in range(4):
        opt.step([HostArray(g)])
        cpu.step([g])
        assert same_bits(there.array, expected)


@pytest.mark.parametrize("skip", [False, True])
def test_clipping_that_is_turned_on_and_off(gpu, skip):
    pair = Pair(skip_nonfinite=skip)
    for clip_norm in (None, 0.1, None, 0.2):
        pair.opt.clip_norm = pair.cpu.clip_norm = clip_norm
        assert pair.step() is (None if skip else True)
        pair.step()
        pair.same()
        assert pair.opt.grad_norm == pair.cpu.grad_norm
    assert pair.opt.steps == 8


def test_groups_of_which_one_may_skip(gpu):
    """Which parameters have a gradient decides whether the host knows that the step counts."""
    arrays = [np.ones(3, np.float32), np.ones(4, np.float32)]
    twins = copy.deepcopy(arrays)

    def made(params):
        groups = [{"params": [params[0]], "skip_nonfinite": True}, {"params": [params[1]]}]
        return cyopt.Adam(groups, clip_norm=1.0)

    opt, cpu = made(list(map(HostArray, arrays))), made(twins)
    for which in ("both", "second", "first", "nan", "second", "both"):
        grads = [np.full_like(a, np.nan if which == "nan" else 0.5) for a in arrays]
        given = [grads[0] if which != "second" else None, grads[1] if which != "first" else None]
        opt.step([[None if g is None else HostArray(g)] for g in given])
        cpu.step([[g] for g in given])
    same_optimizers(opt, cpu)
    assert opt.steps == 5


def test_a_skipped_step_is_known_when_it_is_asked_for(gpu):
    pair = Pair(skip_nonfinite=True, zero_grads=True, ema=0.5)
    pair.step()
    pair.own_grads[3].array[77] = pair.grads[3][77] = np.inf
    gpu.log.clear()
    assert pair.step() is None
    assert "upload" not in names(gpu.log)
    assert pair.opt.skipped and pair.cpu.skipped
    assert pair.opt.steps == 1 and not pair.own_grads[3].array.any()
    pair.own_grads[3].array[...] = pair.grads[3][...] = 0.25
    for own, grad in zip(pair.own_grads, pair.grads, strict=True):
        own.array[...] = grad
    pair.step()
    pair.same()


@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.1}, {"skip_nonfinite": True}], ids=str)
@pytest.mark.parametrize("way", ["state_dict", "pickle", "deepcopy", "to the CPU", "from the CPU"])
def test_a_run_goes_on_with_the_same_bits(gpu, way, options):
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
def test_files_go_between_the_cpu_and_the_gpu(gpu, there, tmp_path):
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
def test_keys_and_unbound_use(gpu, cls):
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


def test_arrays_of_cyopts_own(gpu):
    """What it shows of its state can be a parameter or a gradient as well."""
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


def test_functions(gpu):
    w, g, m, v = (np.full(9, x) for x in (1.0, 0.5, 0.1, 0.2))
    twins = [array.copy() for array in (w, g, m, v)]
    args = {"step": 3, "lr": 0.1, "clip_norm": 0.1, "like": "keras"}
    assert cyopt.adam_(*map(HostArray, (w, g, m, v)), **args) is True
    cyopt.adam_(*twins, **args)
    assert all(map(same_bits, (w, m, v), (twins[0], twins[2], twins[3])))
    g[3] = np.nan
    assert cyopt.sgd_(HostArray(w), HostArray(g), skip_nonfinite=True, lr=1.0) is False
    assert same_bits(w, twins[0])


def test_functions_wait_for_an_answer_alone(gpu, monkeypatch):
    arrays = [HostArray(np.full(9, x)) for x in (1.0, 0.5, 0.1, 0.2)]
    monkeypatch.setattr(gpu, "download", None)
    for step in (1, 2, 3):
        assert cyopt.adam_(*arrays, step=step, clip_norm=0.1) is True
    with pytest.raises(TypeError, match="not callable"):
        cyopt.adam_(*arrays, step=4, skip_nonfinite=True)


def test_what_is_not_for_arrays_on_a_gpu(gpu):
    arrays = [HostArray(np.full(9, x)) for x in (1.0, 0.5, 0.1, 0.2)]
    with pytest.raises(TypeError, match=r"param is on a GPU.* such as cyopt\.adam_"):
        cyopt.adam(*arrays, step=1)
    with pytest.raises(ValueError, match="make a contiguous copy and keep"):
        cyopt.SGD([HostArray(np.ones(8)[::2])])
    with pytest.raises(ValueError, match=r"pass a writable array$"):
        cyopt.SGD([HostArray(np.broadcast_to(1.0, (1,)))])


@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.1}, {"ema": 0.5}], ids=str)
def test_functions_keep_their_plan_and_no_array(gpu, options, monkeypatch):
    rng = np.random.default_rng(0)
    w, m, v, a = (np.abs(rng.normal(size=(4, 9000))).astype(np.float32)[i] for i in range(4))
    twins = [array.copy() for array in (w, m, v, a)]
    held = list(map(HostArray, (w, m, v, a)))
    average = {"average": held[3]} if "ema" in options else {}
    for n, step in enumerate((1, 2, 7, 3, 3)):
        g = rng.normal(size=9000).astype(np.float32)
        grad = HostArray(g)
        with monkeypatch.context() as patch:
            if n > 0:
                patch.setattr(cyopt.full_call, "as_params", None)
            args = {"step": step, "lr": 0.1 / step, **options}
            assert cyopt.adam_(held[0], grad, held[1], held[2], **args, **average)
        own = {"average": twins[3]} if average else {}
        cyopt.adam_(twins[0], g, twins[1], twins[2], **args, **own)
        alive = weakref.ref(grad)
        del grad
        assert alive() is None
        for one, other in zip((w, m, v), twins, strict=False):
            assert same_bits(one, other)
    assert same_bits(a, twins[3])
    alive = weakref.ref(held[0])
    del held, average
    assert alive() is None
    # Another dtype at the same address.
    doubles = [array.view(np.float64) for array in (w, m, v)]
    expected = [array.copy() for array in doubles]
    g = np.ones(4500)
    clip = {name: value for name, value in options.items() if name != "ema"}
    with np.errstate(all="ignore"):
        cyopt.adam_(*map(HostArray, (doubles[0], g, doubles[1], doubles[2])), step=1, **clip)
        cyopt.adam_(expected[0], g, *expected[1:], step=1, **clip)
    assert all(map(same_bits, doubles, expected))


def test_a_list_of_functions_with_other_gradients_missing(gpu):
    arrays = [np.ones(n, np.float32) for n in (5, 9000)]
    twins = [array.copy() for array in arrays]
    held = list(map(HostArray, arrays))
    for step, missing in enumerate((None, 0, 0, 1, None)):
        grads = [np.full_like(a, 0.5 + step) for a in arrays]
        given = [None if i == missing else g for i, g in enumerate(grads)]
        own = [None if g is None else HostArray(g) for g in given]
        cyopt.sgd_(held, own, lr=0.1, skip_nonfinite=step == 3)
        cyopt.sgd_(twins, given, lr=0.1)
        assert all(map(same_bits, arrays, twins))


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


def test_a_stream_given_to_update(gpu):
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


def test_streams_that_are_none(gpu):
    pair = Pair(shapes=[(4,)])
    for stream in ("default", -5, True, 2.5j):
        with pytest.raises(TypeError, match=rf"stream is {stream!r}; expected a stream of torch"):
            pair.step(stream=stream)
    with pytest.raises(TypeError, match="stream is given, but the parameters are on the CPU"):
        pair.cpu.step(pair.grads, stream=11)
