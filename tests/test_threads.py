"""Threads: how many a step uses, who limits them, forks, the GIL, several Python threads."""

import os
import sys
import threading
import time

import numpy as np
import pytest
from run_python import run_python
from same_bits import same_bits, same_optimizers

import cyopt
from cyopt import _cpu
from cyopt.runtime import thread_limit

needs_threads = pytest.mark.skipif(not _cpu.HAS_THREADS, reason="built without threads")
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc of Linux")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def arrays(sizes, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(size).astype(dtype) for size in sizes]


def team_of(sizes, dtype=np.float32, skip=(), cls=cyopt.SGD):
    """For how many threads a step over arrays of these sizes is cut."""
    grads = [None if i in skip else g for i, g in enumerate(arrays(sizes, dtype, 1))]
    opt = cls(arrays(sizes, dtype), lr=0.1)
    opt.step(grads)
    return opt._lists[None].plan.team


# ---- how many


@needs_threads
@pytest.mark.parametrize(
    ("lines", "team"), [(1, 1), (4, 1), (5, 2), (8, 2), (9, 3), (12, 3), (13, 3), (1000, 3)]
)
def test_a_thread_for_each_grain(lines, team):
    """A line of SGD costs 2, one of Adam 10."""
    _cpu.set_config(grain=8, num_threads=3)
    assert team_of([16 * lines]) == team
    assert team_of([8 * lines], np.float64) == team
    assert team_of([16] * lines) == team
    assert team_of([16] * lines + [10_000], skip=[lines]) == team
    _cpu.set_config(grain=40)
    assert team_of([16 * lines], cls=cyopt.Adam) == team


@needs_threads
def test_a_part_of_a_line_counts_as_a_line():
    _cpu.set_config(grain=1, num_threads=8)
    assert [team_of([size]) for size in (0, 1, 16, 17, 32, 33)] == [1, 1, 1, 2, 2, 3]


def test_a_small_model_stays_on_one_thread():
    assert team_of([32 * 784, 32, 10 * 32, 10]) == 1


SMALL = """
    import os, numpy as np, cyopt
    from cyopt import _cpu
    params = [np.ones(1000, np.float32) for _ in range(6)]
    grads = [np.ones(1000, np.float32) for _ in range(6)]
    opt = cyopt.Adam(params)
    tasks = lambda: len(os.listdir("/proc/self/task"))
    before = tasks()
"""


@needs_linux
def test_a_small_step_starts_no_thread():
    assert run_python("[opt.step(grads) for _ in range(100)]; print(tasks() - before)", SMALL) == (
        "0\n"
    )


@needs_linux
@needs_threads
def test_helpers_are_started_once_and_kept():
    code = """
        _cpu.set_config(grain=1)
        for threads in (3, 2, 3, 1, 3, 4):
            cyopt.set_num_threads(threads)
            [opt.step(grads) for _ in range(20)]
            print(threads, tasks() - before, opt._lists[None].plan.team)
    """
    printed = [tuple(map(int, line.split())) for line in run_python(code, SMALL).splitlines()]
    assert printed == [(3, 2, 3), (2, 2, 2), (3, 2, 3), (1, 2, 1), (3, 2, 3), (4, 3, 4)]


# ---- who says how many


def test_set_num_threads_sets_and_resets():
    cyopt.set_num_threads(1)
    assert cyopt.get_num_threads() == 1
    cyopt.set_num_threads(np.int64(3))
    assert cyopt.get_num_threads() == (3 if _cpu.HAS_THREADS else 1)
    cyopt.set_num_threads(None)
    assert 1 <= cyopt.get_num_threads() <= os.cpu_count()


@pytest.mark.parametrize("n", [0, -1])
def test_a_number_of_threads_below_one_is_refused(n):
    with pytest.raises(ValueError, match=f"n is {n}; expected at least 1"):
        cyopt.set_num_threads(n)


@pytest.mark.parametrize("n", [1.0, "2", True, [1]])
def test_what_is_not_a_number_of_threads_is_refused(n):
    with pytest.raises(TypeError, match="expected an integer or None"):
        cyopt.set_num_threads(n)


@pytest.mark.parametrize(
    ("omp_num_threads", "quota", "limit"),
    [
        (None, 0, 8),
        (None, 3, 3),
        (None, 9, 8),
        ("2", 0, 2),
        ("2", 3, 2),
        ("4", 3, 3),
        ("1000", 0, 8),
        (" 2 , 4", 0, 2),
        ("", 0, 8),
        ("0", 0, 8),
        ("-1", 0, 8),
        ("many", 3, 3),
    ],
)
def test_the_limit_of_the_environment(monkeypatch, omp_num_threads, quota, limit):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    environment = {} if omp_num_threads is None else {"OMP_NUM_THREADS": omp_num_threads}
    assert thread_limit(environment, quota) == limit


@needs_threads
def test_omp_num_threads_is_the_first_number():
    code = "import cyopt; print(cyopt.get_num_threads()); cyopt.set_num_threads(3)"
    code += "; print(cyopt.get_num_threads())"
    assert run_python(code, OMP_NUM_THREADS="1") == "1\n3\n"


@needs_linux
@needs_threads
def test_threads_are_as_many_as_cpus_of_the_affinity():
    code = """
        import os, cyopt
        cpus = os.sched_getaffinity(0)
        before = cyopt.get_num_threads()
        os.sched_setaffinity(0, {min(cpus)})
        assert cyopt.get_num_threads() == 1
        os.sched_setaffinity(0, cpus)
        assert cyopt.get_num_threads() == before
    """
    run_python(code)


# ---- the quota of a cgroup: see test_cgroup.py


@needs_threads
def test_the_quota_limits_only_the_automatic_number():
    _cpu.set_config(max_threads=1)
    assert cyopt.get_num_threads() == 1
    cyopt.set_num_threads(2)
    assert cyopt.get_num_threads() == 2


# ---- forks

FORK = """
    import multiprocessing, os, threading, numpy as np, cyopt
    from cyopt import _cpu
    _cpu.set_config(grain=1, num_threads=2)

    def train(steps=5):
        params, grad = [np.linspace(-1, 1, 50_000)], np.linspace(2, -3, 50_000)
        opt = cyopt.Adam(params, lr=0.1)
        for _ in range(steps):
            opt.step([grad])
        return params[0]

    def child(expected):
        same = np.array_equal(train(), expected)
        helped = not os.path.exists("/proc/self/task") or len(os.listdir("/proc/self/task")) == (
            2 if _cpu.HAS_THREADS else 1
        )
        os._exit(0 if same and helped else 1)

    def fork(work, *args):
        pid = os.fork()
        if pid == 0:
            try:
                work(*args)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    cyopt.set_num_threads(1)
    expected = train()
    cyopt.set_num_threads(2)
"""
FORKS = {
    "before the parent used threads": "fork(child, expected)",
    "after the parent used threads": "train(); fork(child, expected)",
    "from a thread": """
        train()
        failed = []
        threading.excepthook = failed.append
        thread = threading.Thread(target=fork, args=(child, expected))
        thread.start()
        thread.join()
        assert not failed
    """,
    "nested": "train(); fork(lambda: (train(), fork(child, expected), os._exit(0)))",
    "an optimizer of the parent": """
        params, grad = [np.linspace(-1, 1, 50_000)], np.linspace(2, -3, 50_000)
        opt = cyopt.Adam(params, lr=0.1)
        opt.step([grad])

        def go_on():
            for _ in range(4):
                opt.step([grad])
            os._exit(0 if np.array_equal(params[0], expected) else 1)

        fork(go_on)
    """,
    "multiprocessing": """
        train()
        with multiprocessing.get_context("fork").Pool(2) as pool:
            for got in pool.map_async(train, [5] * 8).get(timeout=30):
                assert np.array_equal(got, expected)
    """,
}


@needs_fork
@pytest.mark.parametrize("case", FORKS)
def test_a_fork_steps_with_the_right_bits(case):
    run_python("assert np.array_equal(train(), expected)", FORK, FORKS[case])


@needs_fork
def test_a_fork_beside_a_thread_that_steps_steps_right():
    code = """
        stop = threading.Event()

        def step_on():
            while not stop.is_set():
                train()

        thread = threading.Thread(target=step_on)
        thread.start()
        for _ in range(20):
            fork(child, expected)
        stop.set()
        thread.join()
    """
    run_python(code, FORK)


# ---- Python threads


@pytest.fixture
def no_forced_switch():
    """Python threads take turns only where one gives the GIL away of itself."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000.0)
    yield
    sys.setswitchinterval(before)


class Background(threading.Thread):
    """A thread whose exception is raised by join."""

    def __init__(self, work):
        super().__init__()
        self.work, self.error = work, None
        self.start()

    def run(self):
        try:
            self.work()
        except Exception as error:
            self.error = error

    def join(self, timeout=60):
        super().join(timeout)
        assert not self.is_alive()
        if self.error:
            raise self.error


def test_the_gil_is_released(no_forced_switch):
    (param,), (grad,) = arrays([1_000_000]), arrays([1_000_000], seed=1)
    opt = cyopt.Adam([param])
    opt.step([grad])
    stop, started, count = threading.Event(), threading.Event(), 0

    def work():
        nonlocal count
        while not stop.is_set():
            count += 1
            started.set()
            time.sleep(1e-5)

    thread = Background(work)
    started.wait()
    for _ in range(1000):
        before = count
        opt.step([grad])
        if count > before:
            break
    stop.set()
    thread.join()
    assert count > before


def trained(seed, steps=20):
    sizes = [1000, 17, 70_000]
    params = arrays(sizes, seed=seed)
    opt = cyopt.ALL[seed % len(cyopt.ALL)](params, lr=0.01)
    for step in range(steps):
        opt.step(arrays(sizes, seed=100 * seed + step))
    return params, opt


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_python_threads_step_their_own_optimizers(threads):
    cyopt.set_num_threads(1)
    serial = [trained(seed) for seed in range(6)]
    _cpu.set_config(grain=1, num_threads=threads)
    results = {}
    workers = [
        Background(lambda seed=seed: results.update({seed: trained(seed)})) for seed in range(6)
    ]
    for worker in workers:
        worker.join()
    for seed, (params, opt) in enumerate(serial):
        assert all(map(same_bits, params, results[seed][0]))
        same_optimizers(opt, results[seed][1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_who_takes_a_piece_changes_no_bit(dtype):
    sizes = [200_003, 5, 0, 90_000, 1, 64]
    alone, together = arrays(sizes, dtype), arrays(sizes, dtype)
    cyopt.set_num_threads(1)
    one = cyopt.Adam(alone)
    for step in range(10):
        one.step(arrays(sizes, dtype, step))
    _cpu.set_config(grain=1)
    many = cyopt.Adam(together)
    for step in range(10):
        cyopt.set_num_threads((2, 3, 16, 64, 100)[step % 5])
        many.step(arrays(sizes, dtype, step))
    assert all(map(same_bits, alone, together))
    same_optimizers(one, many)


def test_an_exception_in_a_step_frees_the_optimizer():
    def schedule(steps):
        if steps == 1:
            raise OSError("no learning rate today")
        return 0.1

    params = arrays([100])
    opt = cyopt.SGD(params, lr=schedule)
    opt.step(arrays([100], seed=1))
    before = params[0].copy()
    with pytest.raises(OSError, match="today"):
        opt.step(arrays([100], seed=2))
    with pytest.raises(ValueError, match="expected"):
        opt.lr = 0.1
        opt.step(arrays([99]))
    assert opt.steps == 1
    assert same_bits(params[0], before)
    assert opt.step(arrays([100], seed=2))


def test_a_thread_with_a_small_stack_can_step():
    """64 KiB; tiles of 32 KiB are not on the stack."""
    code = """
        import threading, numpy as np, cyopt

        def run():
            p = [np.ones((130, 70), np.float32)]
            opt = cyopt.Adam(p, cast_grads=True, clip_norm=1.0, ema=0.5)
            opt.step([np.ones((70, 260)).T[::2]], norms=True)
            print("stepped")

        threading.stack_size(64 * 1024)
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    """
    assert run_python(code) == "stepped\n"
