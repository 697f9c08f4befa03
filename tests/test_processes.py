"""Forks, other processes, other interpreters: each steps with the right bits, and none hangs."""

import importlib.util
import multiprocessing
import os
import pickle
import sys

import numpy as np
import pytest
from run_python import run_python
from same_bits import same_bits, same_optimizers

import cyopt
from cyopt import _cpu

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def trained(steps=5, size=50_000):
    """Parameters after some steps on two threads, from data that are the same in each process."""
    _cpu.set_config(grain=1, num_threads=2)
    param, grad = np.linspace(-1, 1, size), np.linspace(2, -3, size)
    opt = cyopt.Adam([param], lr=0.1)
    for _ in range(steps):
        opt.step([grad])
    return param


FORK = """
    import os, signal, threading
    import numpy as np, cyopt
    from cyopt import _cpu
    from test_processes import trained

    expected = trained()

    def same():
        return np.array_equal(trained(), expected)

    def fork(ask):
        pid = os.fork()
        if pid == 0:
            signal.alarm(50)
            os._exit(0 if ask() else 1)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    def beside(work):
        thread = threading.Thread(target=work)
        thread.start()
        return thread
"""


@needs_fork
def test_forks_from_a_thread_while_the_main_thread_steps():
    code = """
        children = []
        thread = beside(lambda: children.extend(fork(same) for _ in range(15)))
        while thread.is_alive():
            assert same()
        assert children == [True] * 15
    """
    run_python(code, FORK)


@needs_fork
def test_a_child_forks_beside_threads_of_its_own():
    code = """
        def family(depth):
            threads = [beside(trained) for _ in range(2)]
            right = same() and (depth == 0 or fork(lambda: family(depth - 1)))
            for thread in threads:
                thread.join()
            return right and same()

        assert family(3)
    """
    run_python(code, FORK)


@needs_fork
def test_a_child_knows_that_a_step_of_its_parent_was_cut_off():
    """A copy of an optimizer that another thread was stepping has whole steps, or is refused."""
    code = """
        stop = threading.Event()
        param, grad = np.zeros(300_000), np.ones(300_000)
        opt = cyopt.SGD([param], lr=1.0)

        def step_on():
            while not stop.is_set():
                opt.step([grad])

        def whole_or_refused():
            try:
                opt.step([grad])
            except RuntimeError:
                return True
            return bool((param == -opt.steps).all())

        thread = beside(step_on)
        children = [fork(whole_or_refused) for _ in range(30)]
        stop.set()
        thread.join()
        assert all(children) and (param == -opt.steps).all()
    """
    run_python(code, FORK)


def test_spawned_processes():
    expected = trained()
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for got in pool.map_async(trained, [5] * 4).get(timeout=60):
            assert same_bits(got, expected)


LOKY = """
    import numpy as np, cyopt
    from joblib import Parallel, delayed

    def step(opt, size):
        param = np.linspace(-1, 1, size)
        opt.step([param[::-1].copy()], [param])
        return param, opt

    def optimizer(size):
        return step(cyopt.Adam(lr=0.1), size)[1]
"""


@pytest.mark.skipif(not importlib.util.find_spec("joblib"), reason="needs joblib")
def test_joblib_lends_large_state_read_only():
    """It maps arrays from 1 MB on: a step in a worker would write where it must not."""
    code = """
        expected = step(optimizer(300_000), 300_000)
        jobs = (delayed(step)(optimizer(300_000), 300_000) for _ in range(2))
        for param, opt in Parallel(n_jobs=2, timeout=50)(jobs):
            assert np.array_equal(param, expected[0]) and opt.steps == 2
            assert np.array_equal(opt.state["0"]["exp_avg"], expected[1].state["0"]["exp_avg"])
    """
    run_python(code, LOKY)


def at_an_odd_address(buffer):
    return memoryview(b"x" + bytes(buffer))[1:]


@pytest.mark.parametrize("lend", [bytes, at_an_odd_address])
def test_state_unpickled_from_lent_buffers(lend):
    opt, params, copies = cyopt.Adam(lr=0.1, ema=0.9), [np.ones(700)], [np.ones(700)]
    opt.step([np.ones(700)], params)
    buffers = []
    pickled = pickle.dumps(opt, protocol=5, buffer_callback=buffers.append)
    lent = [lend(buffer) for buffer in buffers]
    before = [bytes(buffer) for buffer in lent]
    copied = pickle.loads(pickled, buffers=lent)
    copies[0][:] = params[0]
    for _ in range(2):
        assert opt.step([np.cos(np.arange(700.0))], params)
        assert copied.step([np.cos(np.arange(700.0))], copies)
    assert same_bits(params[0], copies[0])
    same_optimizers(opt, copied)
    assert [bytes(buffer) for buffer in lent] == before


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="needs interpreters in a process")
def test_a_second_interpreter_is_refused():
    """NumPy's refusal or Cython's; with NumPy and one GIL for all, the first one may be any."""
    code = """
        import os, cyopt, numpy as np
        try:
            import _interpreters as interpreters
            new = interpreters.create("legacy")
        except ImportError:
            import _xxsubinterpreters as interpreters
            new = interpreters.create(isolated=False)
        refused = "try: import cyopt\\nexcept ImportError: print('refused', flush=True)"
        interpreters.run_string(new, refused)
        print(cyopt.SGD([np.ones(3)]).step([np.ones(3)]), flush=True)
        os._exit(0)  # with NumPy in two interpreters Python sometimes hangs while it ends
    """
    assert run_python(code).split() == ["refused", "True"]
