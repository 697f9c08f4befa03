"""Other threads and interrupts beside steps on a GPU that is this CPU: see gpu_of_host.py."""

import threading
import weakref

import numpy as np
import pytest
from gpu_of_host import HostArray
from gpu_pair import interrupt_behind_the_step, one

import cyopt
from cyopt.cuda import kept, tables
from cyopt.cuda.arrays import DeviceArray


def in_another_thread(function, *args):
    thread = threading.Thread(target=function, args=args)
    thread.start()
    thread.join()


def before_first(gpu, monkeypatch, name, function, *args):
    """Call a function in another thread before the GPU does the first of these things."""
    do = gpu._do

    def first(called, *rest):
        if called == name:
            monkeypatch.setattr(gpu, "_do", do)
            in_another_thread(function, *args)
        do(called, *rest)

    monkeypatch.setattr(gpu, "_do", first)


def test_a_reader_while_a_step_is_launched_loses_no_step(gpu, monkeypatch):
    opt, grads = one(skip_nonfinite=True)
    opt.step(grads)
    before_first(gpu, monkeypatch, "clear", lambda: opt.steps)
    opt.step(grads)
    assert (opt.steps, opt.state_dict()["state"]["0"]["step"], opt.grad_norm) == (2, 2, 2.0)
    before_first(gpu, monkeypatch, "clear", lambda: opt.skipped)
    grads[0].array[0] = np.nan
    opt.step(grads)
    assert opt.skipped


def after_download(gpu, monkeypatch, function, *args):
    """Call a function in another thread after the GPU's counters have been read."""
    download = gpu.download

    def slow(host, address):
        download(host, address)
        monkeypatch.setattr(gpu, "download", download)
        in_another_thread(function, *args)

    monkeypatch.setattr(gpu, "download", slow)


def test_a_step_of_another_thread_while_counts_are_fetched(gpu, monkeypatch):
    opt, grads = one(skip_nonfinite=True)
    opt.step(grads)
    after_download(gpu, monkeypatch, opt.step, grads)
    assert opt.steps == 1
    assert opt.steps == 2
    assert opt.state_dict()["state"]["0"]["step"] == 2


def test_a_state_that_is_loaded_while_counts_are_fetched(gpu, monkeypatch):
    opt, grads = one(skip_nonfinite=True)
    opt.step(grads)
    saved = opt.state_dict()
    opt.step(grads)
    after_download(gpu, monkeypatch, opt.load_state_dict, saved)
    assert opt.steps == 1
    assert opt.state_dict()["state"]["0"]["step"] == 1


def test_a_step_that_the_host_counts_while_counts_are_fetched(gpu, monkeypatch):
    params = [HostArray(np.ones(4, np.float32)) for _ in range(2)]
    grads = [[HostArray(np.ones(4, np.float32))] for _ in range(2)]
    groups = [{"params": [params[0]], "skip_nonfinite": True}, {"params": [params[1]]}]
    opt = cyopt.Adam(groups)
    opt.step(grads)
    after_download(gpu, monkeypatch, opt.step, [[None], grads[1]])
    assert opt.skipped is False
    assert [own["step"] for own in opt.state_dict()["state"].values()] == [1, 2]


def test_an_interrupt_between_new_addresses_and_the_note_of_them(gpu, monkeypatch):
    param, (a, b) = np.zeros(4, np.float32), (HostArray(np.full(4, x, np.float32)) for x in (1, 9))
    opt, put = cyopt.SGD([HostArray(param)], lr=1.0), tables.Table.set
    for _ in range(2):
        opt.step([a])

    def interrupted(table, values, place):
        put(table, values, place)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tables.Table, "set", interrupted)
        with pytest.raises(KeyboardInterrupt):
            opt.step([b])
    opt.step([a])
    assert (param == -3).all()


@pytest.mark.parametrize(
    ("option", "measured"), [("skip_nonfinite", (True, None)), ("clip_norm", (False, 2.0))]
)
def test_an_interrupted_step_leaves_what_the_last_one_measured(gpu, monkeypatch, option, measured):
    opt, grads = one(**{option: 1.0 if option == "clip_norm" else True})
    opt.step(grads)
    if option == "skip_nonfinite":
        grads[0].array[0] = np.nan
        opt.step(grads)

    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(gpu, "_do", interrupted)
        with pytest.raises(KeyboardInterrupt):
            opt.step(grads)
    skipped, norm = measured
    assert opt.skipped is skipped
    assert opt.grad_norm == norm or np.isnan(opt.grad_norm)


@pytest.mark.parametrize("keyed", [False, True])
def test_an_interrupt_right_behind_a_first_step_that_the_gpu_counts(gpu, monkeypatch, keyed):
    param, grad = (HostArray(np.ones(4, np.float32)) for _ in range(2))
    opt = cyopt.Adam(skip_nonfinite=True)
    with interrupt_behind_the_step(monkeypatch):
        opt.update("w", param, grad) if keyed else opt.step([grad], [param])
    assert opt.steps == 1
    assert len(opt.state) == 1


def test_a_plan_that_another_thread_drops_while_one_is_dropped(gpu, monkeypatch):
    allocate = gpu.allocate

    def freed():
        for key in list(kept._plans)[:1]:
            kept._plans.pop(key, None)

    def allocate_and_wait(nbytes):
        memory = allocate(nbytes)
        weakref.finalize(memory, freed)
        return memory

    monkeypatch.setattr(gpu, "allocate", allocate_and_wait)
    monkeypatch.setattr(kept, "_MOST", 1)
    monkeypatch.setattr(kept, "_plans", {})
    for _ in range(3):
        arrays = [HostArray(np.ones(4, np.float32)) for _ in range(2)]
        cyopt.sgd_([arrays[0]], [arrays[1]], lr=0.5)
        assert (arrays[0].array == 0.5).all()


def test_an_average_stays_read_only(gpu):
    opt = cyopt.SGD([HostArray(np.ones(4, np.float32))], lr=0.1, ema=0.5)
    opt.step([HostArray(np.ones(4, np.float32))])
    average = opt.averages["0"]
    other = cyopt.SGD([HostArray(np.ones(4, np.float32))], lr=0.1, zero_grads=True)
    other.step([DeviceArray.from_host(np.ones(4, np.float32), 0)])
    with pytest.raises(ValueError, match="read-only"):
        other.step([average])
    assert (average.copy_to_host() == np.float32(0.95)).all()


@pytest.mark.parametrize("stream", [3.7, "12"])
def test_a_stream_that_is_no_handle(gpu, stream):
    opt, grads = one()
    with pytest.raises(TypeError, match=r"stream is .*; expected a stream of torch"):
        opt.step(grads, stream=stream)


def test_a_reader_that_is_late_lowers_no_count(gpu, monkeypatch):
    """It has read the first step's counts, and takes them up while another fetches the second's."""
    params = [HostArray(np.ones(4, np.float32)) for _ in range(2)]
    grads = [[HostArray(np.ones(4, np.float32))] for _ in range(2)]
    opt = cyopt.Adam([{"params": [params[0]], "skip_nonfinite": True}, {"params": [params[1]]}])
    opt.step(grads)
    has_read, may_go_on = threading.Event(), threading.Event()
    reader = threading.Thread(target=lambda: opt.steps)
    download, perform = gpu.download, cyopt._cpu.perform

    def slow(host, address):
        download(host, address)
        if threading.current_thread() is reader:
            has_read.set()
            may_go_on.wait()

    def interleaved(calls, pairs, *guard):
        done = perform(calls, pairs, *guard)
        if guard and threading.current_thread() is not reader:
            may_go_on.set()
            reader.join()
        return done

    monkeypatch.setattr(gpu, "download", slow)
    reader.start()
    has_read.wait()
    opt.step(grads)
    monkeypatch.setattr(cyopt._cpu, "perform", interleaved)
    opt.step([[None], grads[1]])  # which the host counts
    assert opt.steps == 3
    assert [own["step"] for own in opt.state_dict()["state"].values()] == [2, 3]


def test_an_interrupt_behind_a_step_leaves_the_streams_in_order(gpu, monkeypatch):
    """Else the gradient could be overwritten while it is read."""
    w, g = np.ones(4, np.float32), HostArray(np.ones(4, np.float32), stream=9)
    opt = cyopt.SGD([HostArray(w, stream=7)], lr=0.5)
    opt.step([g])
    gpu.log.clear()
    with interrupt_behind_the_step(monkeypatch):
        opt.step([g])
    assert gpu.log == [("order", 7, 9), ("launch", 7), ("order", 9, 7)]
    assert opt.steps == 2
