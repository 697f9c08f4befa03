"""Steps on a GPU beside what else a program does with it: captures, contexts, forks, frees."""

import subprocess
import sys
import threading
from textwrap import dedent

import numpy as np
import pytest
from places import held, shifted
from same_bits import same_bits

import cyopt
from cyopt.cuda import driver

LONG = 500_000_000  # cycles of a GPU: a fraction of a second


def script(text):
    """What a Python of its own prints."""
    command = [sys.executable, "-c", dedent(text)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Exception ignored" not in done.stderr, done.stderr  # what finalizers raise
    return done.stdout.split()


def test_a_step_beside_the_capture_of_another_thread(torch):
    """It asks whether copies are done and makes pinned memory, which end a capture if asked so."""
    params = [torch.ones(n, device="cuda") for n in (5, 9_000)]
    expected = [p.cpu().numpy() for p in params]
    opt, cpu = cyopt.Adam(params), cyopt.Adam(expected)
    grads = [[torch.randn(p.shape, device="cuda") for p in params] for _ in range(3)]
    opt.step(grads[0])
    cpu.step([g.cpu().numpy() for g in grads[0]])
    torch.cuda.synchronize()
    x, graph = torch.ones(3, device="cuda"), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="global"):
        x += 1
        others = threading.Thread(target=lambda: [opt.step(g) for g in grads[1:]])
        others.start()
        others.join()
        x *= 2
    for moved in grads[1:]:
        cpu.step([g.cpu().numpy() for g in moved])
    assert opt.steps == 3
    assert all(same_bits(p.cpu().numpy(), e) for p, e in zip(params, expected, strict=True))
    graph.replay()
    assert x.tolist() == [4, 4, 4]


def test_a_graph_of_some_of_the_streams_is_refused(torch):
    """By the step; the graph is as if the step had not been asked for."""
    cupy = pytest.importorskip("cupy")
    params = [torch.ones(3, device="cuda"), cupy.ones(3, "float32")]
    opt = cyopt.SGD(params, lr=0.5, capturable=True)
    opt.step([params[0].clone(), params[1].copy()])
    grads = [params[0].clone(), params[1].copy()]
    x, graph = torch.ones(3, device="cuda"), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        x += 1
        with pytest.raises(RuntimeError, match="captures the stream of some of the"):
            opt.step(grads)
    graph.replay()
    assert x.tolist() == [2, 2, 2]
    assert opt.steps == 1
    opt.step(grads)
    assert params[0].tolist() == params[1].tolist() == [0.25] * 3


@pytest.mark.parametrize("steps_before", [0, 1])
def test_a_context_of_the_program_is_current_again(steps_before):
    w, g = np.linspace(-1, 1, 1000), np.linspace(3, -5, 1000)
    place, expected = shifted(w, 0), w.copy()
    opt, cpu = cyopt.Adam([place]), cyopt.Adam([expected])
    grads = [shifted(g, 0), shifted(g, 1)]
    told = []

    def in_a_thread_with_a_context():
        from cuda.bindings import driver as cuda

        for _ in range(steps_before):
            opt.step(grads[:1])
        made = cuda.cuCtxCreate(None, 0, 0)[1]
        for grad in (*grads, *grads):
            opt.step([grad])
            told.append(int(cuda.cuCtxGetCurrent()[1]) == int(made))
        told.append(cuda.cuCtxSynchronize()[0] == 0)
        cuda.cuCtxDestroy(made)

    thread = threading.Thread(target=in_a_thread_with_a_context)
    thread.start()
    thread.join()
    assert told == [True] * 5
    for _ in range(4 + steps_before):
        cpu.step([g])
    assert same_bits(held(place), expected)


def test_a_fork_after_info_can_use_the_gpu():
    printed = script("""
        import os, sys
        import numpy as np
        import cyopt
        assert "driver for CUDA" in cyopt.info()["CUDA"], cyopt.info()["CUDA"]
        if pid := os.fork():
            sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        from cyopt.cuda.arrays import DeviceArray
        w, g = (DeviceArray.from_host(np.ones(3), 0) for _ in range(2))
        cyopt.SGD([w], lr=0.5).step([g])
        print(*w.copy_to_host())
    """)
    assert printed == ["0.5"] * 3


def test_a_fork_takes_nothing_from_its_parent():
    """Its copies of optimizers and arrays are dropped; the parent steps on."""
    printed = script("""
        import gc, os
        import numpy as np
        import cyopt
        from cyopt.cuda.arrays import DeviceArray
        w, g = (DeviceArray.from_host(np.ones(3), 0) for _ in range(2))
        opt = cyopt.SGD([w], lr=0.5, momentum=0.5, clip_norm=10.0)
        opt.step([g])
        if not (pid := os.fork()):
            del opt, w, g
            gc.collect()
            raise SystemExit
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        opt.step([g])
        print(opt.steps, *w.copy_to_host())
    """)
    assert printed == ["2", *["-0.25"] * 3]


@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0}], ids=str)
def test_an_optimizer_is_dropped_while_its_step_waits(torch, options):
    """Tables and what they are copied from are freed after the step that reads them."""
    param, grad = torch.ones(9_000, device="cuda"), torch.randn(9_000, device="cuda")
    expected = param.cpu().numpy()
    cyopt.Adam([param.clone()], **options).step([grad])  # compiles the kernels
    opt = cyopt.Adam([param], **options)
    side = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(LONG)
        opt.step([grad])
        is_done = side.query()
        del opt
        others = [driver.device(0).pinned((9,)) for _ in range(20)]
        for other in others:
            other.array[...] = -1
    side.synchronize()
    cyopt.Adam([expected], **options).step([grad.cpu().numpy()])
    assert not is_done, "the step did not wait"
    assert same_bits(param.cpu().numpy(), expected)


@pytest.mark.parametrize("behind", ["gradient", "step"])
def test_streams_of_two_libraries_wait_for_each_other(torch, behind):
    """The gradient comes late, or the step does; then the gradient's memory is used again."""
    cupy = pytest.importorskip("cupy")
    ours, theirs = torch.cuda.Stream(), cupy.cuda.Stream(non_blocking=True)
    param, grad = torch.zeros(1 << 22, device="cuda"), cupy.zeros(1 << 22, "float32")
    opt = cyopt.SGD([param], lr=1.0)
    opt.step([grad])
    grad.fill(1)
    grad.fill(0)
    torch.cuda.synchronize()
    slow = torch.cuda.ExternalStream(theirs.ptr) if behind == "gradient" else ours
    with torch.cuda.stream(slow):
        torch.cuda._sleep(LONG)
    with torch.cuda.stream(ours), theirs:
        if behind == "gradient":
            grad.fill(1)
        opt.step([grad])
        grad.fill(7)
    torch.cuda.synchronize()
    assert (param == (-1 if behind == "gradient" else 0)).all()


def test_averages_are_torchs(torch):
    param, expected = torch.ones(300, device="cuda"), np.ones(300, np.float32)
    opt, cpu = cyopt.Adam({"w": param}, ema=0.9), cyopt.Adam({"w": expected}, ema=0.9)
    for _ in range(3):
        opt.step({"w": torch.ones_like(param)})
        cpu.step({"w": np.ones(300, np.float32)})
    average = torch.as_tensor(opt.averages["w"], device="cuda")
    assert same_bits(average.cpu().numpy(), cpu.averages["w"])


def test_functions_on_a_stream_and_the_graphs_of_what_they_write(torch):
    """With `stream=` a step is ordered by that stream alone."""
    arrays = [torch.full((5000,), x, device="cuda") for x in (1.0, 0.5, 0.0)]
    expected = [array.cpu().numpy() for array in arrays]
    stream, options = torch.cuda.Stream(), {"lr": 0.25, "momentum": 0.5}
    for _ in range(3):
        x = torch.ones(5000, device="cuda", requires_grad=True)
        saved = [(x * array).sum() for array in arrays]
        with torch.cuda.stream(stream):
            torch.cuda._sleep(LONG // 10)
        cyopt.sgd_(*arrays, **options, stream=stream)
        cyopt.sgd_(*expected, **options)
        stream.synchronize()
        for array, other in zip(arrays, expected, strict=True):
            assert same_bits(array.cpu().numpy(), other)
        for graph, is_written in zip(saved, (True, False, True), strict=True):
            if is_written:
                with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                    graph.backward()
            else:
                graph.backward()
