"""Interrupts and exceptions: a step is made and counted, or not at all."""

import collections
import copy
import functools
import random
import signal
import subprocess
import sys
import textwrap
import time
import timeit

import numpy as np
import pytest
from models import Foreign, Model
from same_bits import same_bits, same_optimizers

import cyopt
from cyopt import _cpu

needs_signals = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX signals")

# ---- interrupts


def arrays(seed, size=700):
    rng = np.random.default_rng(seed)
    return {"w": rng.standard_normal((3, 5)), "b": rng.standard_normal(size)}


@functools.cache
def gradients(size):
    return [arrays(1 + step, size) for step in range(3)]


def grads_at(step, params):
    return gradients(params["b"].size)[step % 3]


def bound(opt, params):
    opt.step(grads_at(opt.steps, params))


def unbound(opt, params):
    opt.step(grads_at(opt.steps, params), params)


def groups(opt, params):
    opt.step(list(grads_at(opt.steps, params).values()))


def lr_set_each_time(opt, params):
    opt.lr = 0.1 / (1 + opt.steps)
    bound(opt, params)


def zeroed(opt, params):
    opt.step(copy.deepcopy(grads_at(opt.steps, params)))


def keyed(opt, params):
    """Each key up to one step more than any has made."""
    steps = opt.steps
    for key, param in params.items():
        while (done := opt._lists[key].counts[0] if key in opt._lists else 0) <= steps:
            opt.update(key, param, grads_at(done, params)[key])


def schedule(steps):
    return 0.1 / (1 + steps)


# What makes one step from the completed ones, an optimizer for it, and the size of an array.
LOOPS = {
    "plain": (bound, cyopt.Adam, 700),
    "schedule": (bound, lambda p: cyopt.Adam(p, lr=schedule, ema=schedule), 700),
    "lr": (lr_set_each_time, cyopt.Adam, 700),
    "zero_grads": (zeroed, lambda p: cyopt.Momentum(p, zero_grads=True), 700),
    "ema": (bound, lambda p: cyopt.Adam(p, ema=0.9), 700),
    "clip_norm": (bound, lambda p: cyopt.Adam(p, clip_norm=1.0), 700),
    "groups": (groups, lambda p: cyopt.SGD([{"params": a} for a in p.values()], lr=0.1), 700),
    "keyed": (keyed, lambda p: cyopt.Adam(ema=0.9, lr=schedule), 700),
    "unbound": (unbound, lambda p: cyopt.Adam(clip_norm=1.0), 700),
    "two threads": (bound, lambda p: cyopt.Adam(p, ema=0.9, clip_norm=1.0), 60_000),
}


@pytest.fixture
def until_interrupted():
    """Call something over and over, until the alarm clock interrupts it as Ctrl-C does."""
    armed = False

    def interrupt(*_):
        if armed:
            raise KeyboardInterrupt

    def run(action, wait):
        nonlocal armed
        try:
            armed = True
            signal.setitimer(signal.ITIMER_REAL, wait)
            while True:
                action()
        except KeyboardInterrupt:
            pass
        finally:
            armed = False

    before = signal.signal(signal.SIGALRM, interrupt)
    yield run
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@needs_signals
@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_that_is_interrupted_goes_on(until_interrupted, full, loop):
    step, make, size = LOOPS[loop]
    _cpu.set_config(grain=2000, num_threads=2)
    rng = random.Random(loop)
    for _ in range(1000 if full else 50):
        params, others = arrays(0, size), arrays(0, size)
        opt, twin = make(params), make(others)
        for _ in range(3):
            until_interrupted(functools.partial(step, opt, params), rng.uniform(1e-5, 1e-3))
        step(opt, params)
        while twin.steps < opt.steps:
            step(twin, others)
        assert all(map(same_bits, params.values(), others.values()))
        same_optimizers(opt, twin)


@needs_signals
@pytest.mark.parametrize("bound", [True, False])
def test_parameters_and_counters_agree_after_an_interrupt(bound):
    """Whenever it comes, a step has been made and counted, or not at all; the next one works."""

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for wait in np.linspace(1e-5, 2e-3, 60):
            params = {"w": np.zeros(100_000, np.float32)}
            opt = cyopt.SGD(params if bound else None, lr=1.0)
            grads = {"w": -np.ones(100_000, np.float32)}
            try:
                signal.setitimer(signal.ITIMER_REAL, wait)
                while True:
                    opt.step(grads, *([] if bound else [params]))
            except KeyboardInterrupt:
                pass
            made = int(params["w"][0])
            assert (params["w"] == made).all()
            assert opt.steps == made
            entries = opt.state_dict()["state"]
            assert all(entry["step"] == made for entry in entries.values())
            opt.step(grads, *([] if bound else [params]))
            assert opt.steps == made + 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@needs_signals
def test_an_interrupt_leaves_all_of_out_or_nothing_of_it():
    class InterruptError(Exception):
        pass

    def interrupt(*args):
        raise InterruptError

    rng = np.random.default_rng(0)
    params, grads = ([np.full(3, float(x)) for _ in range(200)] for x in (0, 1))
    seconds = timeit.repeat(lambda: cyopt.sgd(params, grads, lr=1.0, out=params), number=1)[-1]
    old = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(600):
            try:
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.8, 1.8) * seconds)
                while True:
                    cyopt.sgd(params, grads, lr=1.0, out=params)
            except InterruptError:
                assert len({float(p[0]) for p in params}) == 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


SIGINTS = """
    import signal, numpy as np, cyopt
    armed = False

    def interrupt(*_):
        global armed
        if armed:
            armed = False
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    cyopt._cpu.set_config(grain=1, num_threads=3)
    param, grad = np.zeros(200_000, np.float32), np.ones(200_000, np.float32)
    opt = cyopt.SGD([param], lr=1.0)
    print("begun", flush=True)
    for _ in range(200):
        try:
            armed = True
            while True:
                opt.step([grad])
        except KeyboardInterrupt:
            pass
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert opt.step([grad]) and (param == -opt.steps).all()
"""


@needs_signals
def test_ctrl_c_from_outside():
    """SIGINT itself, while helpers run."""
    rng, waits = random.Random(0), 0.0
    command = [sys.executable, "-c", textwrap.dedent(SIGINTS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"begun\n"
        while process.poll() is None and waits < 60:
            process.send_signal(signal.SIGINT)
            time.sleep(wait := rng.uniform(1e-4, 3e-3))
            waits += wait
        process.kill()
    assert process.returncode == 0


# ---- exceptions


class Raising(Foreign):
    def __dlpack__(self, **options):
        raise OSError("broken")


class RaisingDevice(Foreign):
    def __dlpack_device__(self):
        raise OSError("broken")


class Container(collections.UserDict):
    broken = True

    def __getitem__(self, key):
        if self.broken and key == "b":
            raise OSError("broken")
        return super().__getitem__(key)


class Schedule:
    broken = False

    def __call__(self, steps):
        if self.broken:
            raise OSError("broken")
        return 0.5 / (1 + steps)


BROKEN = {
    "__dlpack__": lambda grads: {**grads, "b": Raising(grads["b"])},
    "__dlpack_device__": lambda grads: {**grads, "b": RaisingDevice(grads["b"])},
    "__getitem__": Container,
}
HYPERS = [{}, {"ema": 0.9, "clip_norm": 1.0}, {"skip_nonfinite": True, "clip_value": 0.5}]


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("hyper", HYPERS, ids=str)
@pytest.mark.parametrize("broken", BROKEN)
def test_an_exception_of_a_gradient_changes_nothing(broken, hyper, steps):
    model = Model(lambda params: cyopt.Adam(params, **hyper), steps)
    spoilt = BROKEN[broken](model.grads)
    model.refuses(lambda: model.opt.step(spoilt), OSError, "broken")


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("name", ["lr", "betas", "clip_norm", "ema", "weight_decay"])
def test_an_exception_of_a_schedule_changes_nothing(name, steps):
    schedule = Schedule()
    hyper = {"lr": lambda steps: 0.1, name: (0.5, schedule) if name == "betas" else schedule}
    model = Model(lambda params: cyopt.Adam(params, **hyper), steps)

    def step():
        schedule.broken = True
        try:
            model.opt.step(model.grads)
        finally:
            schedule.broken = False

    model.refuses(step, OSError, "broken")


FIRST = {
    "params": lambda opt, w: opt.step({"w": w, "b": w}, Container(w=w, b=w)),
    "grads": lambda opt, w: opt.step([Raising(w)], [w]),
    "key": lambda opt, w: opt.update("w", w, Raising(w)),
}


@pytest.mark.parametrize("first", FIRST)
def test_an_exception_in_a_first_step_leaves_nothing_of_it(first):
    opt, w = cyopt.SGD(lr=0.5), np.ones(3)
    with pytest.raises(OSError, match="broken"):
        FIRST[first](opt, w)
    assert opt.steps == len(opt.state) == 0
    assert opt.step({"other": np.ones(3)}, {"other": w})
    assert w.tolist() == [0.5] * 3
