"""Calls of the functional form that are like an earlier one do what the slow path would do."""

import gc
import threading
import weakref

import numpy as np
import pytest
from models import Foreign
from run_python import run_python
from same_bits import same_bits

import cyopt
from cyopt import calls

SIZE = 4096  # bytes of the memory in which all arrays lie
SHAPES = [(8,), (2, 4), (4, 2), (), (0,), (8, 1), (1, 8), (3, 2)]
STATES = {"sgd_": 1, "adagrad_": 1, "rmsprop_": 3, "adam_": 3}


class World:
    """Memory, and calls on views of it that are mostly like the last ones."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        raw = np.zeros(SIZE + 64, np.uint8)
        start = -raw.ctypes.data % 64
        self.memory = raw[start : start + SIZE]
        self.fill()

    def fill(self):
        self.memory.view(np.float64)[:] = np.abs(self.rng.standard_normal(SIZE // 8))

    def chance(self, percent):
        return self.rng.integers(100) < percent

    def view(self, slot, dtype=np.float32, shape=(8,), offset=0):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        start = slot * 128 + offset
        return self.memory[start : start + size].view(dtype).reshape(shape)

    def odd(self, slot):
        """An array in that place which differs from the usual one in something, or in nothing."""
        rng = self.rng
        dtype = [np.float32, np.float32, np.float64, ">f4", np.int32][rng.integers(5)]
        shape = SHAPES[rng.integers(len(SHAPES))]
        array = self.view(slot, dtype, shape, int(rng.choice([0, 0, 0, 4, 64, 2])))
        kind = rng.integers(12)
        if kind == 0:
            array.flags.writeable = False
        elif kind == 1:
            array = array[::-1] if array.ndim == 1 else np.asfortranarray(array)
        elif kind == 2:
            array = array[..., ::2] if array.ndim else array
        elif kind == 3:
            array = Foreign(array)
        elif kind == 4:
            array = array.view(type("Sub", (np.ndarray,), {}))
        elif kind == 5 and array.ndim == 2:
            array = array.T
        elif kind == 6:
            array = None
        elif kind == 7:
            array = np.broadcast_to(array[:1], array.shape) if array.ndim else array
        return array

    def call(self):
        """A function's name, its positional arguments and its keywords."""
        rng = self.rng
        name = str(rng.choice(list(STATES)))
        several = int(rng.choice([0, 0, 1, 2, 3]))
        n_states = int(rng.integers(1, STATES[name] + 1)) if name != "adam_" else rng.integers(2, 4)
        n_states = 1 if name == "rmsprop_" and n_states == 2 else int(n_states)
        slots = iter(range(SIZE // 128))
        arguments = []
        for _ in range(2 + n_states):
            column = []
            for _ in range(max(several, 1)):
                slot = next(slots)
                column.append(self.odd(slot) if self.chance(4) else self.view(slot))
            arguments.append(column if several else column[0])
        if self.chance(4):
            i, j = rng.integers(len(arguments), size=2)
            arguments[i], arguments[j] = arguments[j], arguments[i]
        if several and self.chance(4):
            arguments[rng.integers(len(arguments))] = tuple(arguments[1])
        if several and self.chance(3):
            i = rng.integers(len(arguments))
            arguments[i] = [*arguments[i], self.view(30)]
        if several and self.chance(3):
            arguments[1] = [None, *arguments[1][1:]]
        return name, arguments, self.keywords(name, several, next(slots))

    def keywords(self, name, several, slot):
        rng = self.rng
        odd_numbers = [1, True, -0.0, 0.0, np.float32(0.1), np.float64(0.1), np.nan, -1.0, 1e30]
        keywords = {"step": int(rng.integers(1, 5))}
        if self.chance(70):
            keywords["lr"] = float(rng.choice([0.1, 0.2, 0.3]))
        if self.chance(5):
            keywords["lr"] = odd_numbers[rng.integers(len(odd_numbers))]
        if self.chance(3):
            keywords["step"] = [0, True, 2.0, None, 2**62, np.int64(2)][rng.integers(6)]
        for option, value in [
            ("weight_decay", 0.1),
            ("maximize", True),
            ("clip_norm", 0.5),
            ("cast_grads", True),
            ("zero_grads", True),
            ("skip_nonfinite", True),
            ("clip_value", 0.3),
        ]:
            if self.chance(5):
                keywords[option] = value
        if name == "adam_" and self.chance(20):
            keywords["step_size"] = float(rng.choice([0.1, -0.2, 1e16, np.nan]))
            keywords.pop("step")
            keywords.pop("lr", None)
        if self.chance(20):
            average = [self.view(slot + i) for i in range(max(several, 1))]
            keywords["average"] = average if several else average[0]
            keywords["ema"] = float(rng.choice([0.5, 0.6, 0.0, 1.0, 1 - 1e-9]))
        if self.chance(10):
            keywords["like"] = ["torch", "keras", "sklearn", "thinc", "no"][rng.integers(5)]
        if name == "sgd_" and self.chance(30):
            keywords["momentum"] = 0.5
        return keywords


def outcome(memory, name, arguments, keywords):
    try:
        result = getattr(cyopt, name)(*arguments, **keywords)
    except Exception as error:
        result = f"{type(error).__name__}: {error}"
    return result, memory.tobytes()


def test_random_calls_do_what_they_would_in_a_new_process(monkeypatch, full):
    hits, refused = 0, 0
    for seed in range(40 if full else 8):
        monkeypatch.setattr(calls, "_kept", kept := {})
        world = World(seed)
        for _ in range(1_000):
            if world.chance(2):
                world.fill()
            call = world.call()
            before = world.memory.copy()
            known = set(map(id, kept.values()))
            fast = outcome(world.memory, *call)
            hits += fast[0] is True and set(map(id, kept.values())) == known and bool(known)
            world.memory[:] = before
            monkeypatch.setattr(calls, "_kept", {})
            slow = outcome(world.memory, *call)
            monkeypatch.setattr(calls, "_kept", kept)
            assert fast == slow, (seed, call)
            refused += isinstance(slow[0], str)
    assert hits > 800 and refused > 800, (hits, refused)


def states(n=2, size=5):
    return [np.zeros(size) for _ in range(n)]


def test_a_call_like_the_last_one_takes_the_fast_path(monkeypatch):
    param, grad, (m, v) = np.ones(5), np.ones(5), states()
    cyopt.adam_(param, grad, m, v, step=1, lr=0.1)
    monkeypatch.setattr(cyopt._cpu, "Plan", None)  # the slow path would need it
    cyopt.adam_(param, np.ones(5), m, v, step=2, lr=0.05)
    cyopt.adam_([param][0], grad[::-1], m, v, step=9, lr=0.1)
    cyopt.adam_(param, grad, m, v, step=np.int64(3), lr=np.float64(0.1))  # as np.cos gives it
    average = np.zeros(5)
    monkeypatch.undo()
    cyopt.adam_(param, grad, m, v, step=1, average=average, ema=0.5)
    monkeypatch.setattr(cyopt._cpu, "Plan", None)
    cyopt.adam_(param, grad, m, v, step=2, average=average, ema=0.6)
    with pytest.raises(TypeError):
        cyopt.adam_(param, grad, m, v, step=1, lr=0.1, eps=1e-9)


@pytest.mark.parametrize(
    ("function", "first", "like_it", "others"),
    [
        (
            cyopt.adam_,
            {"betas": (0.9, 0.999)},
            [{"betas": (0.8, 0.999)}, {"betas": (np.float64(0.95), 0.999)}],
            [{"betas": (0.9, 0.99)}, {"betas": (0.0, 0.999)}, {"betas": (1 - 1e-7, 0.999)}],
        ),
        (
            cyopt.rmsprop_,
            {"momentum": 0.9},
            [{"momentum": 0.5}, {"momentum": 0.95}],
            [{"momentum": 1e-35}],
        ),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_call_with_another_momentum_or_beta1_is_like_the_last_one(
    function, first, like_it, others, dtype, monkeypatch
):
    """As one-cycle schedules change them at each step."""
    arrays = [np.full(5, x, dtype) for x in (1.0, 0.5, 0.0, 0.0)]
    twins = [array.copy() for array in arrays]
    state = {2: "square_avg", 3: "momentum_buffer"} if function is cyopt.rmsprop_ else {}

    def step(arrays, n, numbers):
        given = {name: arrays[i] for i, name in state.items()} or {}
        held = arrays[:2] if state else arrays
        function(*held, **given, step=n, **numbers)

    for n, numbers in enumerate([first, *like_it, first, *others, *like_it], start=1):
        with monkeypatch.context() as patch:
            if n > 1 and numbers not in others:
                patch.setattr(cyopt._cpu, "Plan", None)  # the slow path would need it
            step(arrays, n, numbers)
        with monkeypatch.context() as patch:
            patch.setattr(calls, "_kept", {})
            step(twins, n, numbers)
        assert all(map(same_bits, arrays, twins))


@pytest.mark.parametrize(
    ("function", "numbers"),
    [
        (cyopt.sgd_, {"momentum": 0.0}),
        (cyopt.sgd_, {"momentum": 1 - 1e-7}),
        (cyopt.adam_, {"betas": (0.0, 0.99)}),
        (cyopt.adam_, {"betas": (1e-35, 0.99)}),
    ],
)
def test_any_momentum_or_beta1_is_kept(function, numbers, monkeypatch):
    param, grad = np.ones(5), np.ones(5)
    held = states() if function is cyopt.adam_ else states(1) if numbers["momentum"] else []
    function(param, grad, *held, step=1, **numbers)
    monkeypatch.setattr(cyopt._cpu, "Plan", None)
    function(param, grad, *held, step=2, **numbers)


def test_a_stream_is_refused_on_the_cpu_in_a_later_call():
    param, grad, (m, v) = np.ones(5), np.ones(5), states()
    cyopt.adam_(param, grad, m, v, step=1, lr=0.05)
    with pytest.raises(TypeError, match="stream is given, but the arrays are on the CPU"):
        cyopt.adam_(param, grad, m, v, step=2, lr=0.05, stream=1)


def test_no_array_is_kept_alive():
    param, grad, (m, v) = np.ones(5), np.ones(5), states()
    average = np.zeros(5)
    for step in (1, 2):
        cyopt.adam_(param, grad, m, v, step=step, average=average, ema=0.5)
    alive = [weakref.ref(array) for array in (param, grad, m, v, average)]
    assert calls._kept
    del param, grad, m, v, average
    gc.collect()
    assert [ref() for ref in alive] == [None] * 5


def test_an_array_in_freed_memory_is_another_one():
    for dtype in (np.float32, np.float64) * 20:
        size = 64 // np.dtype(dtype).itemsize
        param, grad = np.ones(size, dtype), np.ones(size, dtype)
        cyopt.sgd_(param, grad, lr=0.5)
        assert same_bits(param, np.full(size, 0.5, dtype))
        del param, grad


def test_the_number_of_kept_calls_is_limited():
    arrays = [np.ones(2) for _ in range(calls._MOST_CALLS + 10)]
    for array in arrays:
        cyopt.sgd_(array, np.ones(2), lr=0.5)
    assert len(calls._kept) <= calls._MOST_CALLS
    grad = np.ones(2)
    for i in range(calls._MOST_CALLS + 10):
        cyopt.sgd_(arrays[0], grad, lr=0.5, weight_decay=i * 1e-6)
    assert len(calls._kept) <= calls._MOST_CALLS


def test_the_number_of_kept_parameters_is_limited():
    """A plan takes half a KB for each: 1,024 calls of 1,000 parameters would take 500 MB."""
    params, grads = ([np.ones(2) for _ in range(1000)] for _ in range(2))
    for i in range(30):
        cyopt.sgd_(params, grads, lr=0.5, weight_decay=i * 1e-6)
        assert calls._kept
        assert sum(call.n for call in calls._kept.values()) <= calls._MOST_PARAMS


def test_a_changed_setting_acts_on_a_kept_call():
    param, tiny = np.full(4, 1e-40, np.float32), np.zeros(4, np.float32)
    cyopt.sgd_(param.copy(), tiny, lr=0.5)
    kept = param.copy()
    cyopt.sgd_(kept, tiny, lr=0.5)
    assert not kept.any()
    kept[:] = param
    cyopt.set_subnormals("keep")
    cyopt.sgd_(kept, tiny, lr=0.5)
    assert np.array_equal(kept, param)


def test_calls_in_several_threads_are_whole():
    """Two that meet in one kept plan: one takes the slow path, on a plan of its own."""
    n, rounds = 50_000, 40
    param, grad = np.zeros(n), np.ones(n)
    own = [np.zeros(n) for _ in range(4)]

    def work(array):
        for _ in range(rounds):
            cyopt.sgd_(array, grad, lr=1.0)
            cyopt.sgd_(param, grad, lr=0.0)

    threads = [threading.Thread(target=work, args=(array,)) for array in own]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not param.any()
    assert all((array == -rounds).all() for array in own)


@pytest.mark.parametrize("change", ["shape", "flags", "dtype", "order"])
def test_an_array_that_was_changed_in_place_is_refused(change):
    param, grad, (m, v) = np.ones((2, 4)), np.ones((2, 4)), states(size=(2, 4))
    cyopt.adam_(param, grad, m, v, step=1)
    before = param.copy()
    if change == "shape":
        m.shape = (4, 2)
    elif change == "flags":
        v.flags.writeable = False
    elif change == "order":
        m = m.reshape(4, 2).T
    else:
        m.dtype = np.int64
    with pytest.raises((TypeError, ValueError), match="exp_avg"):
        cyopt.adam_(param, grad, m, v, step=2)
    assert np.array_equal(param, before)


def test_a_gradient_that_has_become_a_state_is_refused():
    param, grad, (m, v) = np.ones(5), np.ones(5), states()
    cyopt.adam_(param, grad, m, v, step=1)
    for taken in (m, v, param):
        with pytest.raises(ValueError, match="shares memory"):
            cyopt.adam_(param, taken, m, v, step=2)
    with pytest.raises(ValueError, match="shares memory"):
        cyopt.adam_(param, grad, v, v, step=2)


def test_arrays_live_until_the_end_of_a_call_though_their_list_is_emptied():
    """Else they would be freed while they are written."""
    run_python("""
        import threading, time
        import numpy as np, cyopt

        n = 8_000_000
        grads = [np.ones(n, np.float32)]
        for _ in range(10):
            lists = [[np.zeros(n, np.float32)] for _ in range(3)]
            for step in (1, 2):
                cyopt.adam_(lists[0], grads, *lists[1:], step=step)
            call = lambda: cyopt.adam_(lists[0], grads, *lists[1:], step=3)
            thread = threading.Thread(target=call)
            thread.start()
            time.sleep(1e-3)
            for arrays in lists:
                arrays.clear()
            thread.join()
    """)


def test_numbers_that_compare_equal_are_told_apart():
    def after(lr):
        p = np.array([-0.0])
        cyopt.sgd_(p, np.array([1.0]), lr=lr)
        return np.signbit(p[0])

    assert after(0.0) and not after(-0.0) and after(0.0)
    w, m, v = np.ones(2), np.zeros(2), np.zeros(2)
    cyopt.adam_(w, w.copy(), m, v, step=1, lr=1.0, betas=(0, 0.5))
    with pytest.raises(TypeError):
        cyopt.adam_(w, w.copy(), m, v, step=1, lr=True, betas=(0, 0.5))
    with pytest.raises(TypeError):
        cyopt.adam_(w, w.copy(), m, v, step=1, lr=1.0, betas=(False, 0.5))
    for betas in ((lambda t: 0.9, 0.999), [lambda t: 0.9, 0.999]):
        with pytest.raises(TypeError, match="schedule"):
            cyopt.adam_(w, w.copy(), m, v, step=1, betas=betas)


@pytest.mark.parametrize("name", ["lr", "ema"])
def test_an_empty_tuple_is_not_taken_for_a_number(name):
    """The key of a call holds () where a number may change from call to call."""
    w, g, a = np.ones(3), np.ones(3), np.ones(3)
    numbers = {"lr": 0.1} if name == "lr" else {"lr": 0.1, "ema": 0.5, "average": a}
    cyopt.sgd_(w, g, step=1, **numbers)
    before = w.copy()
    with pytest.raises(TypeError, match=rf"{name} is \(\)"):
        cyopt.sgd_(w, g, step=2, **{**numbers, name: ()})
    assert np.array_equal(w, before)


def test_a_float32_is_not_taken_for_the_float64_that_prints_alike():
    """NumPy 1 prints both as 0.1."""
    a, b = np.zeros(1), np.zeros(1)
    cyopt.sgd_(a, np.ones(1), lr=0.1)
    cyopt.sgd_(b, np.ones(1), lr=np.float32(0.1))
    assert a[0] == -0.1
    assert b[0] == -float(np.float32(0.1))


def test_text_with_a_lone_surrogate_is_refused():
    param = np.ones(2)
    with pytest.raises(ValueError, match="framework is"):
        cyopt.sgd_(param, np.ones(2), like="\ud800")
    with pytest.raises(TypeError, match="no hyperparameter"):
        cyopt.sgd_(param, np.ones(2), **{"\ud800": 1})
