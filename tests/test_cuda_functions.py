"""The functional form on arrays on a GPU that is this CPU: see gpu_of_host.py."""

import weakref

import numpy as np
import pytest
from gpu_of_host import HostArray
from same_bits import same_bits

import cyopt


def test_functions_have_the_bits_of_the_cpu(gpu):
    w, g, m, v = (np.full(9, x) for x in (1.0, 0.5, 0.1, 0.2))
    twins = [array.copy() for array in (w, g, m, v)]
    args = {"step": 3, "lr": 0.1, "clip_norm": 0.1, "like": "keras"}
    assert cyopt.adam_(*map(HostArray, (w, g, m, v)), **args) is True
    cyopt.adam_(*twins, **args)
    assert all(map(same_bits, (w, m, v), (twins[0], twins[2], twins[3])))
    g[3] = np.nan
    assert cyopt.sgd_(HostArray(w), HostArray(g), skip_nonfinite=True, lr=1.0) is False
    assert same_bits(w, twins[0])


def test_each_call_may_lack_other_gradients_of_a_list(gpu):
    arrays = [np.ones(n, np.float32) for n in (5, 9000)]
    twins = [array.copy() for array in arrays]
    held = list(map(HostArray, arrays))
    for step, missing in enumerate((None, 0, 0, 1, None)):
        grads = [np.full_like(a, 0.5 + step) for a in arrays]
        given = [None if i == missing else g for i, g in enumerate(grads)]
        own = [None if g is None else HostArray(g) for g in given]
        cyopt.sgd_(held, own, lr=0.1, skip_nonfinite=step == 3)
        cyopt.sgd_(twins, given, lr=0.1)
        assert all(map(same_bits, arrays, twins))


def test_functions_wait_only_to_know_whether_a_step_was_skipped(gpu, monkeypatch):
    arrays = [HostArray(np.full(9, x)) for x in (1.0, 0.5, 0.1, 0.2)]
    monkeypatch.setattr(gpu, "download", None)
    for step in (1, 2, 3):
        assert cyopt.adam_(*arrays, step=step, clip_norm=0.1) is True
    with pytest.raises(TypeError, match="not callable"):
        cyopt.adam_(*arrays, step=4, skip_nonfinite=True)


@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.1}, {"ema": 0.5}], ids=str)
def test_functions_keep_their_plan_and_no_array(gpu, options, monkeypatch):
    rng = np.random.default_rng(0)
    w, m, v, a = (np.abs(rng.normal(size=(4, 9000))).astype(np.float32)[i] for i in range(4))
    twins = [array.copy() for array in (w, m, v, a)]
    held = list(map(HostArray, (w, m, v, a)))
    average = {"average": held[3]} if "ema" in options else {}
    for n, step in enumerate((1, 2, 7, 3, 3)):
        g = rng.normal(size=9000).astype(np.float32)
        grad = HostArray(g)
        with monkeypatch.context() as patch:
            if n > 0:
                patch.setattr(cyopt.full_call, "as_params", None)
            args = {"step": step, "lr": 0.1 / step, **options}
            assert cyopt.adam_(held[0], grad, held[1], held[2], **args, **average)
        own = {"average": twins[3]} if average else {}
        cyopt.adam_(twins[0], g, twins[1], twins[2], **args, **own)
        alive = weakref.ref(grad)
        del grad
        assert alive() is None
        for one, other in zip((w, m, v), twins, strict=False):
            assert same_bits(one, other)
    assert same_bits(a, twins[3])
    alive = weakref.ref(held[0])
    del held, average
    assert alive() is None
    # Another dtype at the same address.
    doubles = [array.view(np.float64) for array in (w, m, v)]
    expected = [array.copy() for array in doubles]
    g = np.ones(4500)
    clip = {name: value for name, value in options.items() if name != "ema"}
    with np.errstate(all="ignore"):
        cyopt.adam_(*map(HostArray, (doubles[0], g, doubles[1], doubles[2])), step=1, **clip)
        cyopt.adam_(expected[0], g, *expected[1:], step=1, **clip)
    assert all(map(same_bits, doubles, expected))


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


def test_a_gradient_on_the_cpu_is_refused_in_a_later_call(gpu):
    w, g, *state = [HostArray(np.full(4, x, np.float32)) for x in (1, 1, 0, 0)]
    cyopt.adam_(w, g, *state, step=1)
    with pytest.raises(ValueError, match="gradient of '0' is on the CPU"):
        cyopt.adam_(w, g.array, *state, step=2)
