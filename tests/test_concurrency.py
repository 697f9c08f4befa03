"""Python threads: with an optimizer each they get the right bits; with one, each step is whole."""

import itertools
import sys
import threading
import time

import numpy as np
import pytest
from run_python import run_python
from same_bits import same_bits, same_optimizers

import cyopt
from cyopt import _cpu

THREADS = 8
GRAIN = 20_000  # Adam has two threads from 32,000 numbers on
LARGE = 50_000


@pytest.fixture(autouse=True)
def much_switching():
    """Python threads take turns as often as they can; steps use the pool early."""
    _cpu.set_config(grain=GRAIN, num_threads=2)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def at_once(*works):
    """Run these in a thread each, begun together; what they return. An exception is raised."""
    results, errors, begin = {}, [], threading.Barrier(len(works))

    def run(i, work):
        begin.wait(60)
        try:
            results[i] = work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=each, daemon=True) for each in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    for error in errors:
        raise error
    return [results[i] for i in range(len(works))]


# ---- an optimizer for each

KINDS = [
    (cyopt.Adam, {"lr": 0.1}),
    (cyopt.Momentum, {"nesterov": True, "ema": 0.9}),
    (cyopt.RMSProp, {"clip_norm": 1.0}),
    (cyopt.AdamW, {"lr": lambda steps: 0.1 / (1 + steps), "ema": 0.5}),
    (cyopt.AdaGrad, {"clip_value": 0.5, "skip_nonfinite": True}),
]


def trained(seed, steps):
    """An optimizer of arrays of random sizes, after some steps; and its arrays."""
    rng = np.random.default_rng(seed)
    sizes = [int(10 ** rng.uniform(0, 5)) for _ in range(rng.integers(1, 5))]
    dtype = (np.float32, np.float64)[seed % 2]
    cls, hyper = KINDS[seed % len(KINDS)]
    params = [rng.standard_normal(size).astype(dtype) for size in sizes]
    opt = cls(params, **hyper)
    for _ in range(steps):
        grads = [rng.standard_normal(size).astype(dtype)[:: rng.choice([1, -1])] for size in sizes]
        opt.step(grads, norms=bool(rng.integers(2)))
    return params, opt


def same(one, other):
    same_optimizers(one[1], other[1])
    return all(map(same_bits, one[0], other[0]))


def jobs(full):
    return [(seed, 30) for seed in range(THREADS * (20 if full else 3))]


def in_threads(jobs):
    """Some threads, each doing some of the jobs; what they return, in the order of the jobs."""

    def work(i):
        return [trained(*job) for job in jobs[i::THREADS]]

    shares = at_once(*(lambda i=i: work(i) for i in range(THREADS)))
    return [shares[i % THREADS][i // THREADS] for i in range(len(jobs))]


def test_threads_with_an_optimizer_each_get_the_right_bits(full):
    expected = [trained(*job) for job in jobs(full)]
    assert all(map(same, in_threads(jobs(full)), expected))


def test_settings_that_change_while_threads_step_change_no_bit(full):
    """There are no subnormals, of which a setting would change bits."""
    expected = [trained(*job) for job in jobs(full)]
    stop = threading.Event()

    def change(set_one, values):
        for value in itertools.cycle(values):
            if stop.wait(1e-4):
                return
            set_one(value)

    settings = [
        (cyopt.set_num_threads, (1, 2, 5, None)),
        (cyopt.set_isa, _cpu.ISAS_AVAILABLE),
        (cyopt.set_subnormals, ("keep", "flush")),
    ]
    changing = [threading.Thread(target=change, args=setting) for setting in settings]
    for thread in changing:
        thread.start()
    try:
        assert all(map(same, in_threads(jobs(full)), expected))
    finally:
        stop.set()
        for thread in changing:
            thread.join()


def test_optimizers_may_come_and_go_while_others_step():
    """Plans and arrays are freed by whichever thread lets go last, while others step."""

    def live(seed):
        rng = np.random.default_rng(seed)
        for _ in range(60):
            size = int(10 ** rng.uniform(1, 5))
            params = {"w": np.zeros(size, np.float32)}
            opt = cyopt.SGD(params, lr=1.0)
            for _ in range(3):
                params["w"] = np.zeros(size, np.float32)
                opt.step({"w": np.ones(size, np.float32)})
            assert (params["w"] == -1).all() and opt.steps == 3
        return True

    assert all(at_once(*(lambda seed=seed: live(seed) for seed in range(THREADS))))


# ---- one for all


def bound(param, **hyper):
    opt = cyopt.Adam([param], **hyper)
    return opt, lambda grad: opt.step([grad])


def unbound(param, **hyper):
    opt = cyopt.Adam(**hyper)
    return opt, lambda grad: opt.step([grad], [param])


def keyed(param, **hyper):
    opt = cyopt.Adam(**hyper)
    return opt, lambda grad: opt.update("w", param, grad)


def made(call):
    """Whether this call was let in; if not, after a pause for the one that was."""
    try:
        call()
    except RuntimeError as error:
        assert "in a step already" in str(error)
        time.sleep(1e-4)
        return False
    return True


HYPERS = [{"lr": 0.1}, {"lr": lambda steps: 0.1, "clip_norm": 1.0, "ema": 0.5}]


@pytest.mark.parametrize("size", [10, LARGE])
@pytest.mark.parametrize("hyper", HYPERS, ids=["number", "schedule"])
@pytest.mark.parametrize("way", [bound, unbound, keyed])
def test_a_call_of_a_shared_optimizer_is_whole_or_refused(way, hyper, size):
    """The gradient is always the same."""
    param, twin, grad = np.ones(size), np.ones(size), np.full(size, 0.5)
    opt, step = way(param, **hyper)
    other, alone = way(twin, **hyper)

    def steps():
        return sum(made(lambda: step(grad)) for _ in range(200))

    done = sum(at_once(*[steps] * THREADS))
    assert done == opt.steps > 0
    for _ in range(done):
        alone(grad)
    assert same_bits(param, twin)
    same_optimizers(opt, other)


def beside(other, step, steps=400):
    """Make steps in one thread while `other` is called in another, over and over."""
    done = threading.Event()

    def all_steps():
        try:
            left = steps
            while left:
                left -= made(step)
        finally:
            done.set()

    def others():
        while not done.wait(1e-4):
            other()

    at_once(all_steps, others)


@pytest.mark.parametrize("size", [10, LARGE])
def test_state_saved_beside_steps_is_of_whole_steps(size):
    opt = cyopt.AdaGrad([np.zeros(size)])
    saved = []
    beside(lambda: made(lambda: saved.append(opt.state_dict())), lambda: opt.step([np.ones(size)]))
    assert opt.steps == 400
    for each in saved:
        entry = each["state"]["0"]
        assert entry["step"] == each["steps"]
        assert (entry["sum"] == each["steps"]).all()


@pytest.mark.parametrize("size", [10, LARGE])
def test_containers_may_change_beside_steps(size):
    """A step takes what it finds, and all of it: one parameter, one gradient, one number."""
    a, b = np.zeros(size), np.zeros(size)
    params, grads = {"w": a}, {"w": np.ones(size)}
    opt = cyopt.SGD(params, lr=1.0)
    turns = itertools.cycle([(a, 1.0, 1.0), (b, 2.0, 4.0), (a, 2.0, 1.0), (b, 1.0, 2.0)])

    def change():
        params["w"], value, opt.lr = next(turns)
        grads["w"] = np.full(size, value)  # nobody else holds the former one

    beside(change, lambda: opt.step(grads))
    assert opt.steps == 400
    for array in (a, b):
        assert (array == array[0]).all()
    assert 400 <= -(a[0] + b[0]) <= 8 * 400


def test_a_program_may_end_while_a_thread_steps():
    code = """
        import threading, time
        import numpy as np, cyopt
        cyopt._cpu.set_config(grain=1, num_threads=3)
        opts = [cyopt.Adam([np.ones(200_000)]) for _ in range(2)]

        def step_on(opt):
            while True:
                opt.step([np.ones(200_000)])

        for opt in opts:
            threading.Thread(target=step_on, args=[opt], daemon=True).start()
        while not all(opt.steps > 20 for opt in opts):
            time.sleep(1e-3)
    """
    for _ in range(3):
        run_python(code, OPENBLAS_NUM_THREADS="1")


def test_numbers_that_two_threads_set_are_both_set():
    group, stop = cyopt.Adam().groups[0], threading.Event()

    def other():
        while not stop.is_set():
            group.lr = 0.5

    thread, before = threading.Thread(target=other), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        for i in range(3000):
            group.weight_decay = float(i)
            assert group.weight_decay == i
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(before)


def test_state_can_be_read_while_another_thread_adds_keys():
    opt, stop = cyopt.SGD(), threading.Event()

    def add():
        for key in range(3000):
            opt.update(key, np.ones(1), np.ones(1))
        stop.set()

    thread = threading.Thread(target=add)
    thread.start()
    while not stop.is_set():
        assert len(opt.state) <= 3000
        repr(opt)
    thread.join()
