"""Mistakes of other optimizers that their users reported: a test for each that cyopt is right.

In brackets: the project that made the mistake.
"""

import copy
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from models import Model, OnCuda, arrays, grads_at, train
from variants import FORMULAS, VARIANTS, name

import cyopt

SOURCES = Path(__file__).parents[1] / "src_c"
every_formula = pytest.mark.parametrize("variant", FORMULAS, ids=name)
both_types = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@both_types
@every_formula
def test_elements_in_tails_and_in_full_blocks_are_updated(variant, dtype):
    """Each size around the vector widths, every element compared with one alone (PyTorch)."""
    cls, hypers = variant
    alone = np.ones(1, dtype)
    train_alone = cls(alone, **hypers)
    sizes = [*range(1, 70), 127, 128, 129]
    params = [np.ones(n, dtype) for n in sizes]
    opt = cls(params, **hypers)
    for step in range(3):
        train_alone.step(np.full(1, step - 0.5, dtype))
        opt.step([np.full(n, step - 0.5, dtype) for n in sizes])
    for param in params:
        assert np.array_equal(param, np.broadcast_to(alone, param.shape))


@both_types
@pytest.mark.parametrize(
    "view",
    [
        np.asfortranarray,
        lambda g: np.repeat(g, 2, axis=1)[:, ::2],
        lambda g: g[::-1].copy()[::-1],
        lambda g: np.ascontiguousarray(g.T).T,
        lambda g: np.stack([g, g], axis=-1)[..., 1],
    ],
)
def test_a_noncontiguous_gradient_is_read_in_its_order(view, dtype):
    """Read as if it were contiguous it would be another gradient (PyTorch, bitsandbytes)."""
    plain, viewed = np.ones((5, 7), dtype), np.ones((5, 7), dtype)
    opt, other = cyopt.Adam(plain), cyopt.Adam(viewed)
    for step in range(3):
        grad = grads_at(step, {"g": plain})["g"]
        assert not view(grad).flags.c_contiguous
        opt.step(grad)
        other.step(view(grad))
        assert np.array_equal(plain, viewed)


def test_a_noncontiguous_parameter_is_refused():
    """It is not updated in a contiguous copy that nobody sees."""
    with pytest.raises(ValueError, match="ascontiguousarray"):
        cyopt.SGD(np.ones((4, 4))[:, :2])


@every_formula
def test_a_refused_step_leaves_state_and_counters(variant):
    """Momentum and counters of a step that is not made (fused SGD of LibreYOLO)."""
    cls, hypers = variant
    model = Model(lambda params: cls(params, **hypers), steps=3)
    bad = {**model.grads, "b": model.grads["b"].astype(np.float64)}
    model.refuses(lambda: model.opt.step(bad), TypeError, "float64 scalar")


def test_grad_scale_acts_without_skipping_of_steps():
    """The scale is exact and acts on its own (PyTorch ties it to the skipping of steps)."""
    scaled, plain = arrays(), arrays()
    one, other = cyopt.Adam(scaled, grad_scale=1024.0), cyopt.Adam(plain)
    for step in range(3):
        grads = grads_at(step, plain)
        one.step({k: 1024 * g for k, g in grads.items()})
        other.step(grads)
    assert np.array_equal(scaled["w"], plain["w"])


@pytest.mark.parametrize("variant", VARIANTS, ids=name)
def test_a_resumed_run_has_the_same_bits(variant):
    """Saved in the middle, loaded into a new optimizer, the same end bit for bit (PyTorch)."""
    cls, hypers = variant
    params = {"f": np.ones(5, np.float32), "d": np.linspace(-1, 1, 4)}
    opt = cls(params, **hypers)
    train(opt, params, 3)
    saved, resumed = copy.deepcopy(opt.state_dict()), copy.deepcopy(params)
    other = cls(resumed, **{**hypers, "lr": 9.0})
    other.load_state_dict(saved)
    for key, entry in saved["state"].items():
        assert {a.dtype for k, a in entry.items() if k != "step"} <= {params[key].dtype}
    train(opt, params)
    train(other, resumed)
    assert all(np.array_equal(params[key], resumed[key]) for key in params)


@pytest.mark.parametrize("count", [2**24 - 1, 2**24, 2**24 + 1, 2**31 - 1, 2**31, 2**40])
@pytest.mark.parametrize(
    ("cls", "hypers"),
    [
        (cyopt.Adam, {"betas": (1 - 1e-9, 1 - 1e-12)}),
        (cyopt.AdaGrad, {"lr": 1e-2, "lr_decay": 1e-3}),
        (cyopt.Momentum, {"dampening": 0.5}),
    ],
)
def test_a_step_counter_is_an_integer(cls, hypers, count):
    """A counter in float32 stops at 2**24, one of 32 bits wraps at 2**31 (PyTorch)."""
    ends = []
    for steps in (count, count + 1):
        params, others = arrays(np.float64), arrays(np.float64)
        opt, reference = cls(params, **hypers), cyopt.reference.attach(cls(others, **hypers))
        saved = opt.state_dict()
        saved["steps"] = steps
        for entry in saved["state"].values():
            entry["step"] = steps
        for each, own in ((opt, params), (reference, others)):
            each.load_state_dict(saved)
            train(each, own, 2)
            after = each.state_dict()
            assert {entry["step"] for entry in after["state"].values()} == {steps + 2}
            assert after["steps"] == steps + 2
            assert type(after["steps"]) is int
        assert np.array_equal(params["w"], others["w"])
        ends.append(params["w"])
    if cls is not cyopt.Momentum and count <= 2**24 + 1:
        assert not np.array_equal(*ends)


@every_formula
def test_equal_groups_stay_equal(variant):
    """beta**t is not kept in one place that every group multiplies on (DeepSpeed)."""
    cls, hypers = variant
    several, alone = [arrays() for _ in range(3)], arrays()
    groups, one = cls([{"params": p} for p in several], **hypers), cls(alone, **hypers)
    for step in range(4):
        grads = grads_at(step, alone)
        groups.step([grads] * 3)
        one.step(grads)
    for params in several:
        assert np.array_equal(params["w"], alone["w"])


@every_formula
def test_a_late_first_gradient_is_in_its_own_first_step(variant):
    """A parameter whose gradients begin late is in its own first step, not in the model's."""
    cls, hypers = variant
    params, alone = arrays(), arrays()["b"]
    opt, other = cls(params, **hypers), cls(alone, **hypers)
    for step in range(5):
        grads = grads_at(step, params)
        opt.step({**grads, "b": grads["b"] if step >= 3 else None})
        if step >= 3:
            other.step(grads["b"])
    assert np.array_equal(params["b"], alone)


def test_what_its_constructor_refuses_is_deleted_in_silence():
    """Its destructor raises nothing (DeepSpeed)."""
    code = (
        "import cyopt\n"
        "for bad in ({'lr': -1}, {'nonsense': 1}):\n"
        "    try: cyopt.Adam([], **bad)\n"
        "    except (TypeError, ValueError): pass\n"
        "cyopt._cpu.Plan.__new__\n"
        "try: cyopt._cpu.Plan()\n"
        "except TypeError: pass\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""


@pytest.mark.parametrize("start", range(8))
@both_types
def test_arrays_may_lie_at_any_address_of_their_type(dtype, start):
    """Any address that its type allows, for all arrays of a step (DeepSpeed dumps core)."""
    param, twin = np.ones(80, dtype)[start : start + 67], np.ones(67, dtype)
    opt, other = cyopt.Adam(param), cyopt.Adam(twin)
    for step in range(3):
        grad = grads_at(step, {"g": twin})["g"]
        opt.step(np.concatenate([np.zeros(7 - start, dtype), grad])[7 - start :])
        other.step(grad)
    assert np.array_equal(param, twin)


def test_an_array_on_a_gpu_is_refused_beside_arrays_on_the_cpu():
    """A kernel for the CPU does not read it (DeepSpeed's segfault)."""
    with pytest.raises((RuntimeError, ValueError), match="GPU"):
        cyopt.SGD([OnCuda()])
    with pytest.raises(ValueError, match="GPU"):
        cyopt.SGD([np.ones((2, 3), np.float32)]).step([OnCuda()])


def test_arrays_may_have_more_than_2_31_elements():
    """Beyond 2**31 elements are updated too (not so in DeepSpeed, TransformerEngine, apex).

    Nothing of that size is allocated here: the source is read for sizes narrower than ptrdiff_t,
    and a gradient whose bytes span more than 2**31 (all of them unmapped zeros) is read rightly.
    """
    for source in SOURCES.glob("*"):
        text = source.read_text()
        assert not re.search(r"\b(int|unsigned|int32_t|long) (size|begin|end|lines|offset)\b", text)
    assert "ptrdiff_t size" in (SOURCES / "cyopt.h").read_text()
    try:
        wide = np.zeros((3, 2**30), np.float32)
    except MemoryError:
        pytest.skip("no address space for 12 GB of untouched zeros")
    wide[:, 5] = 1, 2, 3
    param = np.zeros(3, np.float32)
    cyopt.SGD(param, lr=1.0).step(wide[:, 5])
    assert param.tolist() == [-1, -2, -3]


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.0)])
def test_amsgrads_maximum_keeps_a_nan(betas):
    """A NaN in the second moment stays in the maximum, it does not vanish."""
    param = np.ones(3, np.float32)
    opt = cyopt.Adam(param, betas=betas, amsgrad=True)
    opt.step(np.array([1, np.nan, 2], np.float32))
    assert np.isnan(opt.state["0"]["max_exp_avg_sq"]).tolist() == [False, True, False]
    assert np.isnan(param).tolist() == [False, True, False]


@pytest.mark.parametrize("variant", [v for v in VARIANTS if "weight_decay" in v[1]], ids=name)
def test_c_and_the_reference_agree_on_weight_decay(variant):
    """Elsewhere all tests had weight decay 0 (bitsandbytes, FlagGems); here none has."""
    cls, hypers = variant
    params, others = arrays(), arrays()
    opt, reference = cls(params, **hypers), cyopt.reference.attach(cls(others, **hypers))
    train(opt, params, 5)
    train(reference, others, 5)
    assert all(np.array_equal(params[key], others[key]) for key in params)


@every_formula
def test_without_weight_decay_an_infinite_parameter_stays(variant):
    """g + 0*p is NaN where p is infinite; without decay nothing is added."""
    cls, hypers = variant
    params = {"w": np.array([np.inf, 1.0, -np.inf])}
    train(cls(params, **{**hypers, "weight_decay": 0.0}), params)
    assert np.isinf(params["w"]).tolist() == [True, False, True]


def test_decoupled_decay_is_multiplied_by_lr():
    """Users of PyTorch and optax ask whether it is. A gradient of zeros shows the decay alone."""
    param = np.ones(1)
    cyopt.AdamW(param, lr=0.5, weight_decay=0.5).step(np.zeros(1))
    assert param[0] == 1 - 0.5 * 0.5


@pytest.mark.parametrize("variant", VARIANTS, ids=name)
def test_the_gradient_is_not_changed(variant):
    """Weight decay, maximize and scaling are not done in the caller's gradient."""
    cls, hypers = variant
    params = arrays()
    opt, grads = cls(params, **hypers), grads_at(1, params)
    before = {key: grad.tobytes() for key, grad in grads.items()}
    for grad in grads.values():
        grad.flags.writeable = False
    for _ in range(3):
        opt.step(grads)
    assert before == {key: grad.tobytes() for key, grad in grads.items()}


def test_a_list_of_gradients_that_changes_is_read_again():
    """The plan of the last step holds no gradient: a list that is used again may change."""
    w = np.ones(2)
    opt, grads = cyopt.SGD([w], lr=1.0), [np.ones(2)]
    opt.step(grads)
    grads[0] = np.full(2, 3.0)
    opt.step(grads)
    grads[0] = None
    opt.step(grads)
    assert w.tolist() == [-3, -3]


@pytest.mark.parametrize("bound", [True, False])
def test_a_second_thread_in_a_step_is_refused(bound):
    """Wherever in a step the other thread is (DeepSpeed: overlap with backward)."""
    inside, leave, waiting = threading.Event(), threading.Event(), []

    def schedule(steps):
        if threading.current_thread() in waiting:
            inside.set()
            assert leave.wait(60)
        return 0.5

    w, g = np.ones(3), np.ones(3)
    opt = cyopt.Momentum([w] if bound else None, lr=schedule)
    args = ([g],) if bound else ([g], [w])
    thread = threading.Thread(target=opt.step, args=args)
    waiting.append(thread)
    thread.start()
    try:
        assert inside.wait(60)
        with pytest.raises(RuntimeError, match="thread"):
            opt.step(*args)
    finally:
        leave.set()
        thread.join()
    assert opt.steps == 1
    assert w.tolist() == [0.5] * 3
