"""Other threads beside steps on a GPU that is this CPU: see gpu_of_host.py."""

import threading
import weakref

import numpy as np
from gpu_of_host import HostArray
from gpu_pair import one

import cyopt
from cyopt.cuda import kept


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


def test_a_step_of_another_thread_while_counts_are_fetched_is_counted(gpu, monkeypatch):
    opt, grads = one(skip_nonfinite=True)
    opt.step(grads)
    after_download(gpu, monkeypatch, opt.step, grads)
    assert opt.steps == 1
    assert opt.steps == 2
    assert opt.state_dict()["state"]["0"]["step"] == 2


def test_state_that_is_loaded_while_counts_are_fetched_stays(gpu, monkeypatch):
    opt, grads = one(skip_nonfinite=True)
    opt.step(grads)
    saved = opt.state_dict()
    opt.step(grads)
    after_download(gpu, monkeypatch, opt.load_state_dict, saved)
    assert opt.steps == 1
    assert opt.state_dict()["state"]["0"]["step"] == 1


def test_a_step_that_the_host_counts_while_counts_are_fetched_is_counted(gpu, monkeypatch):
    params = [HostArray(np.ones(4, np.float32)) for _ in range(2)]
    grads = [[HostArray(np.ones(4, np.float32))] for _ in range(2)]
    groups = [{"params": [params[0]], "skip_nonfinite": True}, {"params": [params[1]]}]
    opt = cyopt.Adam(groups)
    opt.step(grads)
    after_download(gpu, monkeypatch, opt.step, [[None], grads[1]])
    assert opt.skipped is False
    assert [own["step"] for own in opt.state_dict()["state"].values()] == [1, 2]


def test_a_plan_may_be_dropped_while_another_one_is(gpu, monkeypatch):
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


def test_a_reader_that_is_late_lowers_no_count(gpu, monkeypatch):
    """It notes the counts of the first step while another thread fetches those of the second."""
    params = [HostArray(np.ones(4, np.float32)) for _ in range(2)]
    grads = [[HostArray(np.ones(4, np.float32))] for _ in range(2)]
    opt = cyopt.Adam([{"params": [params[0]], "skip_nonfinite": True}, {"params": [params[1]]}])
    opt.step(grads)
    has_read, may_continue = threading.Event(), threading.Event()
    reader = threading.Thread(target=lambda: opt.steps)
    download, perform = gpu.download, cyopt._cpu.perform

    def slow(host, address):
        download(host, address)
        if threading.current_thread() is reader:
            has_read.set()
            may_continue.wait()

    def interleaved(calls, pairs, *guard):
        done = perform(calls, pairs, *guard)
        if guard and threading.current_thread() is not reader:
            may_continue.set()
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


def test_a_call_of_another_thread_between_launches_leaves_a_step_its_numbers(gpu, monkeypatch):
    """The GIL is released during a launch."""
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
