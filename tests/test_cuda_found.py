"""Faults that readers of cyopt.cuda found, each by what it did; see gpu_of_host.py."""

import inspect
import sys
import threading
import types
from types import SimpleNamespace

import numpy as np
import pytest
from gpu_of_host import HostArray, replay
from gpu_pair import Pair, interrupt_behind_the_step, one
from same_bits import same_bits

import cyopt
from cyopt.cuda import cache, compiler, layout, libraries, measure, tables
from cyopt.cuda.source import function_source


@pytest.mark.parametrize("allocation", [1, 2])
def test_a_step_after_one_for_which_there_was_no_memory(gpu, monkeypatch, allocation):
    pair = Pair(clip_norm=0.1, skip_nonfinite=True)
    pair.step()
    allocate, n = gpu.allocate, 0

    def refuse(nbytes):
        nonlocal n
        n += 1
        if n == allocation:
            raise MemoryError
        return allocate(nbytes)

    with monkeypatch.context() as patch:
        patch.setattr(gpu, "allocate", refuse)
        with pytest.raises(MemoryError):
            pair.opt.step([*pair.own_grads[:1], *[None] * len(pair.own_grads[1:])])
    for _ in range(2):
        pair.step()
        pair.same()


@pytest.mark.parametrize(
    "numbers", [{"eps": 1e-60}, {"betas": (0.9, 1 - 1e-12)}, {"lr": 1e60}], ids=str
)
def test_numbers_that_round_to_others_are_refused_in_a_later_call(gpu, numbers):
    arrays = [HostArray(np.full(4, x, np.float32)) for x in (1, 1, 0, 0)]
    cyopt.adam_(*arrays, step=1)
    before = arrays[0].array.copy()
    with pytest.raises(ValueError, match="float32"):
        cyopt.adam_(*arrays, step=2, **numbers)
    assert same_bits(arrays[0].array, before)


def test_a_gradient_on_the_cpu_in_a_later_call(gpu):
    w, g, *state = [HostArray(np.full(4, x, np.float32)) for x in (1, 1, 0, 0)]
    cyopt.adam_(w, g, *state, step=1)
    with pytest.raises(ValueError, match="gradient of '0' is on the CPU"):
        cyopt.adam_(w, g.array, *state, step=2)


@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize("options", [{"clip_norm": 0.1}, {}], ids=str)
def test_norms_are_not_waited_for(gpu, monkeypatch, options, norms):
    opt, grads = one(**options)
    with monkeypatch.context() as patch:
        patch.setattr(gpu, "download", None)
        for _ in range(3):
            opt.step(grads, norms=norms)
        opt.clip_norm = None
        opt.step(grads)
        assert opt.grad_norm is None
    opt.clip_norm = 0.1
    opt.step(grads)
    assert opt.grad_norm == 2.0


@pytest.mark.parametrize(
    ("options", "norms"),
    [
        ({"ema": 0.5, "zero_grads": True}, False),
        ({"clip_norm": 0.1}, True),
        ({"skip_nonfinite": True, "zero_grads": True}, True),
    ],
    ids=str,
)
def test_an_interrupt_in_a_function_of_python(gpu, monkeypatch, options, norms):
    """Those that clear and copy; launches are compiled, so no signal handler runs in them."""
    do, n = gpu._do, 0

    def interrupted(name, *args):
        nonlocal n
        n += name in ("clear", "copy")
        if n == last:
            raise KeyboardInterrupt
        do(name, *args)

    last, interrupts = 1, True
    while interrupts:
        pair = Pair(shapes=[(6, 6), (3,)], **options)
        wide = np.array(pair.grads[0]).repeat(2, axis=1)
        pair.own_grads[0] = HostArray(wide[:, ::2])
        before = [wide.copy(), pair.opt.state_dict()["steps"]]
        with monkeypatch.context() as patch:
            patch.setattr(gpu, "_do", interrupted)
            n, interrupts = 0, False
            try:
                pair.opt.step(pair.own_grads, norms=norms)
            except KeyboardInterrupt:
                interrupts = True
        if interrupts:
            assert same_bits(wide, before[0])
            assert pair.opt.steps == before[1]
            pair.opt.step(pair.own_grads, norms=norms)
        pair.cpu.step(pair.grads, norms=norms)
        pair.same()
        last += 1
    assert last > 2


def test_an_interrupt_while_the_first_norms_are_prepared(gpu, monkeypatch):
    """Addresses of 0 were written to in the next step."""
    pair, put = Pair(), tables.Table.set
    pair.step()

    def interrupted(table, values, place):
        if place == np.s_[:, layout.OLD]:
            raise KeyboardInterrupt
        put(table, values, place)

    with monkeypatch.context() as patch:
        patch.setattr(tables.Table, "set", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pair.opt.step(pair.own_grads, norms=True)
    pair.step(norms=True)
    pair.same()


def test_a_kernel_on_the_disk_has_another_name_with_other_constants(monkeypatch, tmp_path):
    monkeypatch.setenv("CYOPT_CACHE_DIR", str(tmp_path))
    source = function_source(measure.decide, "float32")
    before = cache._path(source, (9, 0))
    monkeypatch.setattr(cache, "compiler_text", lambda: "THREADS = 256")
    assert cache._path(source, (9, 0)) != before
    monkeypatch.undo()
    for module in (layout, compiler):
        assert inspect.getsource(module) in cache.compiler_text()


@pytest.mark.parametrize("option", ["skip_nonfinite", "capturable"])
def test_an_interrupt_after_steps_that_the_gpu_alone_counted(gpu, monkeypatch, option):
    pair = Pair(**{option: True})
    for _ in range(5):
        pair.step()
    do = gpu._do

    def interrupted(name, *args):
        if name == "clear":
            raise KeyboardInterrupt
        do(name, *args)

    with monkeypatch.context() as patch:
        patch.setattr(gpu, "_do", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pair.opt.step(pair.own_grads)
    pair.step()
    assert pair.opt.steps == 6
    pair.same()


@pytest.mark.parametrize("options", [{"skip_nonfinite": True}, {"clip_norm": 0.1}, {}], ids=str)
def test_an_interrupt_right_behind_a_step(gpu, monkeypatch, options):
    pair = Pair(**options)
    pair.step()
    assert pair.opt.steps == 1  # the host knows it, and no more
    with interrupt_behind_the_step(monkeypatch):
        pair.opt.step(pair.own_grads)
    pair.cpu.step(pair.grads)
    assert pair.opt.steps == 2
    pair.step()
    pair.same()


def test_what_was_measured_is_not_that_of_a_step_before_one_that_measures_nothing(gpu):
    arrays = {key: HostArray(np.ones(4, np.float32)) for key in "ab"}
    grad, opt = HostArray(np.ones(4, np.float32)), cyopt.Adam(clip_norm=1)
    for key in "ab":
        opt.update(key, arrays[key], grad)
    opt.clip_norm = None
    opt.update("b", arrays["b"], grad)
    assert opt.grad_norm is None
    opt.clip_norm = 1
    opt.update("a", arrays["a"], grad)
    opt.clip_norm = None
    opt.update("b", arrays["b"], grad)
    assert opt.grad_norm is None


def test_what_was_measured_of_keys_there_and_here(gpu):
    there, here = HostArray(np.ones(4, np.float32)), np.ones(4, np.float32)
    grad, large = HostArray(np.ones(4, np.float32)), np.full(4, 3, np.float32)
    opt = cyopt.Adam(clip_norm=1)
    for _ in range(2):
        opt.update("a", there, grad)
        opt.update("b", here, large)
        assert opt.grad_norm == 6.0
    opt.update("a", there, grad)
    assert opt.grad_norm == 2.0


def test_calls_that_share_their_first_array_keep_a_plan_each(gpu, monkeypatch):
    def arrays(n):
        return [HostArray(np.ones(4, np.float32)) for _ in range(n)]

    (first, *others), grads = arrays(3), arrays(2)
    states = {id(p): arrays(2) for p in (first, *others)}

    def call(step, other):
        columns = zip(states[id(first)], states[id(other)], strict=True)
        cyopt.adam_([first, other], grads, *map(list, columns), step=step)

    for step in (1, 2):
        for other in others:
            call(step, other)
    monkeypatch.setattr(gpu, "allocate", None)
    for other in others:
        call(3, other)


def no_home(name):
    raise RuntimeError("Could not determine home directory.")


@pytest.mark.parametrize("unknown", [no_home, lambda name: f"~/.cache/{name}"])
def test_a_kernel_is_compiled_where_the_user_has_no_folder_for_it(monkeypatch, tmp_path, unknown):
    """Some containers run as a user that the system does not know."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CYOPT_CACHE_DIR", raising=False)
    monkeypatch.setitem(sys.modules, "platformdirs", SimpleNamespace(user_cache_dir=unknown))
    monkeypatch.setattr(compiler, "lto_ir", lambda source, capability: source.dtype.encode())
    monkeypatch.setattr(compiler, "link", lambda code, capability: code)
    assert cache.cubin(function_source(measure.decide, "float32"), (9, 0)) == b"float32"
    assert not list(tmp_path.iterdir())


def test_the_norm_of_arrays_whose_sums_are_equal(gpu):
    """Each has a place of its own when they are put in order."""
    grads = [np.full(4, x) for x in (0.5, 2.0, 0.5, 0.5, 2.0)]
    opt = cyopt.SGD([HostArray(np.ones(4)) for _ in grads], clip_norm=100.0)
    opt.step([HostArray(grad) for grad in grads])
    assert opt.grad_norm == np.sqrt(35)


def test_a_gradient_on_the_cpu(gpu):
    opt, grads = one()
    with pytest.raises(ValueError, match=r"is on GPU 0; copy it there: cupy\.asarray"):
        opt.step([grads[0].array])
    with pytest.raises(TypeError, match="is a list; expected"):
        opt.step([[1.0] * 4])


def test_a_gradient_that_is_no_array_at_all(gpu):
    opt, grads = one()
    opt.step(grads)
    with pytest.raises(TypeError, match="gradient of '0' is a cyopt"):
        opt.step([opt])


def test_what_was_measured_is_of_the_last_step_of_all_keys(gpu):
    good, bad = (HostArray(np.full(4, x, np.float32)) for x in (0.5, np.nan))
    opt = cyopt.Adam(skip_nonfinite=True)
    params = {k: HostArray(np.ones(4, np.float32)) for k in "ab"}
    for key, grad in (("a", good), ("b", good), ("a", bad)):
        opt.update(key, params[key], grad)
    assert opt.skipped
    assert np.isnan(opt.grad_norm)
    for key, grad in (("a", bad), ("b", good)):
        opt.update(key, params[key], grad)
    assert opt.grad_norm == 1.0


def test_what_is_loaded_is_copied_by_compiled_calls(gpu, monkeypatch):
    opt, grads = one(ema=0.9)
    saved = opt.state_dict()
    opt.step(grads)
    for name in ("copy", "copy_call"):
        monkeypatch.setattr(gpu, name, None)
    opt.load_state_dict(saved)
    assert opt.steps == 0
    assert not opt.state["0"]["exp_avg"].copy_to_host().any()


def test_norms_are_those_of_the_last_replay(gpu):
    opt, grads = one(capturable=True)
    opt.step(grads, stream=11)
    without, _ = gpu.capture(opt.step, grads, stream=11)
    opt.step(grads, norms=True, stream=11)
    measuring, _ = gpu.capture(opt.step, grads, norms=True, stream=11)
    assert opt.grad_norm == 2.0
    replay(without)
    assert opt.grad_norm is opt.update_norm is opt.param_norm is None
    grads[0].array *= 3
    replay(measuring)
    assert opt.grad_norm == 6.0
    assert opt.param_norm > 1


def test_nothing_is_kept_for_steps_that_no_graph_holds(gpu):
    pair = Pair(capturable=True)
    pair.opt.step(pair.own_grads, stream=11)
    gpu.capture(pair.opt.step, pair.own_grads, stream=11)
    decision = pair.opt._lists[None].plan._decision
    for k in range(1, 20):
        pair.opt.step([g if (k >> i) & 1 else None for i, g in enumerate(pair.own_grads)])
        pair.opt.step(pair.own_grads, stream=11)
    assert len(decision._in_graphs) == 1
    assert len(decision._known) <= 8


def test_gradients_that_come_and_go_allocate_nothing(gpu, monkeypatch):
    """To free memory waits for the GPU."""
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


def test_a_subclass_is_of_the_library_of_its_base():
    base = type("Tensor", (), {"__module__": "torch"})
    own = type("Parameter", (base,), {"__module__": "somebodys.model"})
    assert libraries.of(own()) is libraries.of(base())
    assert libraries.of(own()) is not libraries.of(HostArray(np.ones(1)))


def test_the_stream_of_cupy_is_that_of_the_device(monkeypatch):
    stream = {0: types.SimpleNamespace(ptr=0), 1: types.SimpleNamespace(ptr=7)}
    cuda = types.SimpleNamespace(get_current_stream=lambda device: stream[device])
    monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(cuda=cuda))
    array = type("ndarray", (), {"__module__": "cupy"})()
    assert libraries.of(array).stream(array, 1) == 7
    assert libraries.of(array).stream(array, 0) == libraries.LEGACY_STREAM


def test_a_call_of_another_thread_between_two_launches(gpu, monkeypatch):
    """The GIL is released during a launch; the numbers of a step are those it was called with."""
    params, grads = ([HostArray(np.ones(4, d)) for d in ("f4", "f8")] for _ in range(2))
    cyopt.sgd_(params, grads, lr=0.25)
    do, launched = gpu._do, []

    def interrupted(*call):
        do(*call)
        launched.append(call[0])
        if len(launched) == 1:
            other = threading.Thread(target=cyopt.sgd_, args=(params, grads), kwargs={"lr": 0.0})
            other.start()
            other.join()

    monkeypatch.setattr(gpu, "_do", interrupted)
    cyopt.sgd_(params, grads, lr=0.25)
    assert launched.count("launch") == 4
    assert all((param.array == 0.5).all() for param in params)


def test_an_average_does_not_begin_without_a_gradient(gpu):
    params = [HostArray(np.full(4, x, np.float32)) for x in (1, 2)]
    opt, grads = cyopt.SGD(params, lr=0.5, ema=0.5), [HostArray(np.ones(4, np.float32)), None]
    params[1].array[:] = 3
    for _ in range(2):
        opt.step(grads)
    averages = [opt.state[name]["average"].copy_to_host()[0] for name in "01"]
    assert averages == [0.375, 2.0]


@pytest.mark.parametrize("which", ["params", "grads"])
def test_an_array_that_becomes_read_only(gpu, which):
    param, grad = np.ones(4, np.float32), np.ones(4, np.float32)
    opt = cyopt.SGD([HostArray(param)], lr=0.5, zero_grads=True)
    grads = [HostArray(grad)]
    opt.step(grads)
    {"params": param, "grads": grad}[which].flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        opt.step(grads)
    assert (param == 0.5).all()
