"""Norms, clipping and skipping on a GPU, without a GPU: see gpu_of_host.py."""

import copy

import numpy as np
import pytest
from gpu_of_host import HostArray, names
from gpu_pair import Pair, one
from same_bits import same_bits, same_optimizers

import cyopt


@pytest.mark.parametrize("framework", ["sklearn", "thinc", "keras", "autograd"])
def test_clipping_follows_the_formula_of_a_framework(gpu, framework):
    """With some of them the host computes the scalars of each step."""
    w, g = np.linspace(-1, 1, 30), np.linspace(3, -5, 30)
    there, expected = HostArray(w.copy()), w.copy()
    opt, cpu = (
        cyopt.Adam.like(framework, [param], lr=0.1, clip_norm=0.5) for param in (there, expected)
    )
    cyopt.set_subnormals("keep")
    for _ in range(4):
        opt.step([HostArray(g)])
        cpu.step([g])
        assert same_bits(there.array, expected)


@pytest.mark.parametrize("skip", [False, True])
def test_clipping_can_be_turned_on_and_off(gpu, skip):
    pair = Pair(skip_nonfinite=skip)
    for clip_norm in (None, 0.1, None, 0.2):
        pair.opt.clip_norm = pair.cpu.clip_norm = clip_norm
        assert pair.step() is (None if skip else True)
        pair.step()
        pair.same()
        assert pair.opt.grad_norm == pair.cpu.grad_norm
    assert pair.opt.steps == 8


def test_one_of_two_groups_may_skip(gpu):
    """Which parameters have a gradient decides whether the host knows that the step counts."""
    arrays = [np.ones(3, np.float32), np.ones(4, np.float32)]
    twins = copy.deepcopy(arrays)

    def made(params):
        groups = [{"params": [params[0]], "skip_nonfinite": True}, {"params": [params[1]]}]
        return cyopt.Adam(groups, clip_norm=1.0)

    opt, cpu = made(list(map(HostArray, arrays))), made(twins)
    for which in ("both", "second", "first", "nan", "second", "both"):
        grads = [np.full_like(a, np.nan if which == "nan" else 0.5) for a in arrays]
        given = [grads[0] if which != "second" else None, grads[1] if which != "first" else None]
        opt.step([[None if g is None else HostArray(g)] for g in given])
        cpu.step([[g] for g in given])
    same_optimizers(opt, cpu)
    assert opt.steps == 5


def test_whether_a_step_was_skipped_is_fetched_when_asked_for(gpu):
    pair = Pair(skip_nonfinite=True, zero_grads=True, ema=0.5)
    pair.step()
    pair.own_grads[3].array[77] = pair.grads[3][77] = np.inf
    gpu.log.clear()
    assert pair.step() is None
    assert "upload" not in names(gpu.log)
    assert pair.opt.skipped and pair.cpu.skipped
    assert pair.opt.steps == 1 and not pair.own_grads[3].array.any()
    pair.own_grads[3].array[...] = pair.grads[3][...] = 0.25
    for own, grad in zip(pair.own_grads, pair.grads, strict=True):
        own.array[...] = grad
    pair.step()
    pair.same()


@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize("options", [{"clip_norm": 0.1}, {}], ids=str)
def test_a_step_does_not_wait_for_its_norms(gpu, monkeypatch, options, norms):
    opt, grads = one(**options)
    with monkeypatch.context() as patch:
        patch.setattr(gpu, "download", None)
        for _ in range(3):
            opt.step(grads, norms=norms)
        opt.clip_norm = None
        opt.step(grads)
        assert opt.grad_norm is None
    opt.clip_norm = 0.1
    opt.step(grads)
    assert opt.grad_norm == 2.0


def test_arrays_whose_sums_are_equal_all_count_in_the_norm(gpu):
    """Each has a place of its own when they are sorted."""
    grads = [np.full(4, x) for x in (0.5, 2.0, 0.5, 0.5, 2.0)]
    opt = cyopt.SGD([HostArray(np.ones(4)) for _ in grads], clip_norm=100.0)
    opt.step([HostArray(grad) for grad in grads])
    assert opt.grad_norm == np.sqrt(35)


def test_there_is_no_norm_after_a_step_that_measures_nothing(gpu):
    arrays = {key: HostArray(np.ones(4, np.float32)) for key in "ab"}
    grad, opt = HostArray(np.ones(4, np.float32)), cyopt.Adam(clip_norm=1)
    for key in "ab":
        opt.update(key, arrays[key], grad)
    opt.clip_norm = None
    opt.update("b", arrays["b"], grad)
    assert opt.grad_norm is None
    opt.clip_norm = 1
    opt.update("a", arrays["a"], grad)
    opt.clip_norm = None
    opt.update("b", arrays["b"], grad)
    assert opt.grad_norm is None


def test_the_norm_is_that_of_the_last_key_on_the_gpu_or_the_cpu(gpu):
    there, here = HostArray(np.ones(4, np.float32)), np.ones(4, np.float32)
    grad, large = HostArray(np.ones(4, np.float32)), np.full(4, 3, np.float32)
    opt = cyopt.Adam(clip_norm=1)
    for _ in range(2):
        opt.update("a", there, grad)
        opt.update("b", here, large)
        assert opt.grad_norm == 6.0
    opt.update("a", there, grad)
    assert opt.grad_norm == 2.0


def test_what_is_measured_is_of_the_last_step_of_any_key(gpu):
    good, bad = (HostArray(np.full(4, x, np.float32)) for x in (0.5, np.nan))
    opt = cyopt.Adam(skip_nonfinite=True)
    params = {k: HostArray(np.ones(4, np.float32)) for k in "ab"}
    for key, grad in (("a", good), ("b", good), ("a", bad)):
        opt.update(key, params[key], grad)
    assert opt.skipped
    assert np.isnan(opt.grad_norm)
    for key, grad in (("a", bad), ("b", good)):
        opt.update(key, params[key], grad)
    assert opt.grad_norm == 1.0
