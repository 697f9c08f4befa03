"""C kernels against cyopt/rules.py, bit for bit: every rule, ISA, thread count and content."""

import itertools
import random

import numpy as np
import pytest
from same_bits import same_bits
from variants import FORMULAS, VARIANTS, name

import cyopt
from cyopt import _cpu

WIDEST = 16  # elements of an AVX-512 vector of float32
# Each tail of a vector loop, then lines, and a size that every thread has a share of.
SIZES = [*range(4 * WIDEST + 4), 127, 128, 129, 1023, 1024, 1025, 100_003]
THREADS = (1, 2, 3, 7)
OFFSETS = (0, 1, 3)  # elements: alignment of param and gradient
STEPS = 3

HUGE = {"float32": 1e37, "float64": 1e307}
SUBNORMAL = {"float32": 1e-41, "float64": 1e-310}


def content(kind, n, dtype, rng):
    """n numbers; the odd kinds are mixed with ordinary ones."""
    x = rng.normal(size=n)
    odd = rng.random(n) < 0.3
    if kind == "zeros":
        x[odd] = 0.0
        x[rng.random(n) < 0.2] = -0.0
    elif kind == "huge":
        x[odd] *= HUGE[dtype]
    elif kind == "infinite":
        x[odd] = np.copysign(np.inf, x[odd])
    elif kind == "nan":
        x[odd] = np.nan
    elif kind == "subnormal":
        x[odd] *= SUBNORMAL[dtype]
    return x.astype(dtype)


CONTENTS = ("normal", "zeros", "huge", "infinite", "nan", "subnormal")


def shifted(array, offset):
    """A copy whose data start `offset` elements past an aligned address."""
    room = np.empty(array.size + offset + 64, array.dtype)
    start = -room.ctypes.data % 64 // array.itemsize + offset
    moved = room[start : start + array.size]
    moved[:] = array
    return moved


class Trajectory:
    """Parameters and gradients of all sizes, and where cyopt/rules.py takes them."""

    def __init__(self, variant, dtype, kind, offset, sizes=SIZES):
        self.variant, self.offset = variant, offset
        rng = np.random.default_rng([len(kind), offset, *map(ord, name(variant))])
        self.start = [content(kind, n, dtype, rng) for n in sizes]
        self.grads = [[content(kind, n, dtype, rng) for n in sizes] for _ in range(STEPS)]
        self.expected, self.state = self.run(reference=True)

    def run(self, reference=False):
        cls, kwargs = self.variant
        params = [shifted(array, self.offset) for array in self.start]
        opt = cls(params, **kwargs)
        if reference:
            cyopt.reference.attach(opt)
        for grads in self.grads:
            opt.step([shifted(g, (2 * self.offset) % 5) for g in grads])
        self.team = getattr(opt._lists[None].plan, "team", 1)
        return params, [array for entry in opt.state.values() for array in entry.values()]

    def check(self):
        params, state = self.run()
        for i, (a, b) in enumerate(zip(params, self.expected, strict=True)):
            assert same_bits(a, b), f"parameter of size {a.size} (number {i}) differs"
        for a, b in zip(state, self.state, strict=True):
            assert same_bits(a, b), f"state of size {a.size} differs"


def lines(arrays):
    return sum(-(-array.nbytes // 64) for array in arrays)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("variant", VARIANTS, ids=name)
def test_kernels_have_the_bits_of_the_rules(variant, dtype, full):
    cyopt.set_subnormals("keep")
    _cpu.set_config(grain=1)
    inputs = list(itertools.product(CONTENTS, OFFSETS))
    runs = list(itertools.product(_cpu.ISAS_AVAILABLE, THREADS))
    if not full:
        chosen = random.Random(name(variant) + dtype)
        inputs, runs = chosen.sample(inputs, 2), chosen.sample(runs, 4)
    for kind, offset in inputs:
        trajectory = Trajectory(variant, dtype, kind, offset)
        for isa, threads in runs:
            cyopt.set_isa(isa)
            cyopt.set_num_threads(threads)
            trajectory.check()
            assert trajectory.team == (threads if _cpu.HAS_THREADS else 1), (kind, offset, isa)


@pytest.mark.parametrize("variant", FORMULAS, ids=name)
def test_flushing_changes_no_bit_where_no_subnormal_occurs(variant):
    trajectory = Trajectory(variant, "float32", "normal", 0, sizes=[1000])
    assert cyopt.get_subnormals() == "flush"
    trajectory.check()


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 31, 32, 33, 111, 112, 113, 1000])
def test_one_array_cut_into_threads(n, threads):
    """The cuts fall at lines of 64 bytes: every thread gets a share or there are fewer of them."""
    _cpu.set_config(grain=1)
    cyopt.set_num_threads(threads)
    trajectory = Trajectory((cyopt.Adam, {}), "float32", "normal", 1, sizes=[n])
    trajectory.check()
    assert trajectory.team == (min(threads, -(-n // 16)) if _cpu.HAS_THREADS else 1)


@pytest.mark.parametrize("count", [0, 1, 2, 300])
@pytest.mark.parametrize("threads", THREADS)
def test_lists_of_mixed_sizes_and_dtypes(count, threads):
    _cpu.set_config(grain=1)
    cyopt.set_num_threads(threads)
    rng = np.random.default_rng(count)
    dtypes = [("float32", "float64")[i] for i in rng.integers(2, size=count)]
    sizes = [int(n) for n in rng.integers(0, 200, size=count)]

    def arrays(seed):
        draw = np.random.default_rng([count, seed])
        return [draw.normal(size=n).astype(d) for n, d in zip(sizes, dtypes, strict=True)]

    params, expected = arrays(0), arrays(0)
    opt = cyopt.AdamW(params, lr=0.1)
    ref = cyopt.reference.attach(cyopt.AdamW(expected, lr=0.1))
    for seed in (1, 2):
        opt.step(arrays(seed))
        ref.step(arrays(seed))
    assert all(map(same_bits, params, expected))
    if _cpu.HAS_THREADS:
        assert opt._lists[None].plan.team == max(1, min(threads, lines(params)))


@pytest.mark.parametrize("isa", _cpu.ISAS_AVAILABLE)
def test_state_at_any_offset(isa):
    """The classes align their state; a caller's state in the functional form may lie anywhere."""
    cyopt.set_isa(isa)
    rng = np.random.default_rng(5)
    for offsets in itertools.product(OFFSETS, repeat=3):
        n = 67
        start, grad = (rng.normal(size=n).astype("f4") for _ in range(2))
        state = [abs(rng.normal(size=n)).astype("f4") for _ in range(2)]
        p = shifted(start, offsets[0])
        m, v = (shifted(s, o) for s, o in zip(state, offsets[1:], strict=True))
        cyopt.adam_(p, grad, m, v, step=3)
        hyper = cyopt.Adam().groups[0].at(0)
        cyopt.reference.update(start, grad, [*state, None], cyopt.rules.prepare(hyper, 3))
        for ours, theirs in [(p, start), (m, state[0]), (v, state[1])]:
            assert same_bits(ours, theirs)
