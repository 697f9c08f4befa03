"""Groups that are read in one pass in C, and those that are left to the full look."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch_pair import counts, emptied, leaf, steps  # noqa: E402

from cyopt.integrations import _tensors  # noqa: E402
from cyopt.integrations import torch as ours  # noqa: E402

in_one_pass = pytest.mark.skipif(_tensors._GROUPS is None, reason="torch is older than 2.10")

OPTIMIZERS = [
    ("SGD", {}),
    ("SGD", {"momentum": 0.9, "dampening": 0.5}),
    ("RMSprop", {"centered": True, "momentum": 0.9}),
    ("Adagrad", {"lr_decay": 0.1}),
    ("Adam", {"amsgrad": True, "weight_decay": 0.1}),
]


def made(name="Adam", dtype=torch.float32, **kwargs):
    """An optimizer of five parameters that has made two steps; the third has no gradient now."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(5,), (3, 4), (2,), (), (2, 3, 2)]
    params = [torch.randn(s, generator=generator, dtype=dtype).requires_grad_() for s in shapes]
    params[1] = torch.nn.Parameter(params[1].detach())
    opt = getattr(ours, name)(params, lr=0.1, **kwargs)
    steps(opt, params, 2)
    params[2].grad = None
    return params, opt


def read(opt):
    (group,) = opt.param_groups
    return _tensors.read_group(group["params"], opt.state, opt._slots(group), opt._counted)


def numbers(params, opt):
    """All that a step writes."""
    states = [opt.state[p] for p in params if p in opt.state]
    tensors = [*params, *(state[key] for state in states for key in sorted(state))]
    return [t.detach().numpy().copy() for t in tensors if t is not None]


@in_one_pass
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("name", "kwargs"), OPTIMIZERS)
def test_what_is_read_is_what_the_group_has(name, kwargs, dtype):
    params, opt = made(name, dtype, **kwargs)
    slots = opt._slots(opt.param_groups[0])
    columns, arrays, counters, count = read(opt)
    stepped = [p for p in params if p.grad is not None]
    states = [opt.state[p] if opt.state else {} for p in stepped]
    expected = [stepped, [p.grad for p in stepped], *([s[slot] for s in states] for slot in slots)]
    if opt._counted:
        assert count == 2
        assert all(c is s["step"] for c, s in zip(counters, states, strict=True))
    else:
        assert (counters, count) == ([], 1)
    for column, own, theirs in zip(columns, arrays, expected, strict=True):
        for tensor, array, other in zip(column, own, theirs, strict=True):
            assert tensor is other
            assert array.ctypes.data == tensor.data_ptr() and array.base is tensor
            assert np.array_equal(array, tensor.detach().numpy())
    on_gpu = _tensors._GROUPS.read(params, opt.state, slots, False, opt._counted)
    assert on_gpu[1] is on_gpu[0]
    assert [list(map(id, c)) for c in on_gpu[0]] == [list(map(id, c)) for c in columns]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("name", "kwargs"), OPTIMIZERS)
def test_the_full_look_makes_the_same_steps(name, kwargs, dtype, monkeypatch):
    def run():
        params, opt = made(name, dtype, **kwargs)
        opt.step()
        params[2].grad = torch.ones_like(params[2])
        opt.step()  # the counts differ from here on
        opt.param_groups[0]["params"].reverse()
        opt.step()
        versions = [p._version for p in params]
        return numbers(params, opt), versions, counts(opt) if opt._counted else []

    quick = run()
    monkeypatch.setattr(_tensors, "_GROUPS", None)
    full = run()
    assert quick[1:] == full[1:]
    assert all(map(np.array_equal, quick[0], full[0]))


def changed(p, opt, **entries):
    opt.state[p].update(entries)


class Tagged(torch.Tensor):
    """A subclass, which may be more than its memory."""


# What makes a group unusual, where the full look can make the step.
UNUSUAL = {
    "another count": lambda p, opt: changed(p, opt, step=torch.tensor(7.0)),
    "a count in float64": lambda p, opt: changed(p, opt, step=torch.tensor(2.0).double()),
    "a count in a vector": lambda p, opt: changed(p, opt, step=torch.tensor([2.0])),
    "no count": lambda p, opt: opt.state[p].pop("step"),
    "no state": lambda p, opt: opt.state.pop(p),
    "a negated gradient": lambda p, opt: setattr(p, "grad", torch._neg_view(p.grad)),
    "state in another order": lambda p, opt: changed(
        p, opt, exp_avg=opt.state[p]["exp_avg"].t().contiguous().t()
    ),
    "another order": lambda p, opt: setattr(p, "data", p.detach().t().contiguous().t()),
    "a subclass": lambda p, opt: setattr(p, "grad", p.grad.as_subclass(Tagged)),
    "a mapping as state": lambda p, opt: opt.state.update({p: _Dict(opt.state[p])}),
}


class _Dict(dict):
    pass


@pytest.mark.parametrize("how", UNUSUAL)
def test_an_unusual_group_is_left_to_the_full_look(how, monkeypatch):
    def run():
        params, opt = made(amsgrad=False)
        UNUSUAL[how](params[1], opt)
        seen = read(opt)
        opt.step()
        return seen, numbers(params, opt)

    seen, quick = run()
    assert seen is None
    monkeypatch.setattr(_tensors, "_GROUPS", None)
    _, full = run()
    assert all(map(np.array_equal, quick, full))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p, opt: opt.state[p].pop("exp_avg"), "has no exp_avg"),
        (lambda p, opt: changed(p, opt, exp_avg=None), "has no exp_avg"),
        (lambda p, opt: changed(p, opt, exp_avg=torch.ones(12)), "shape"),
        (lambda p, opt: changed(p, opt, exp_avg=torch.ones(3, 4).double()), "float64"),
        (lambda p, opt: setattr(p, "grad", p.grad.to_sparse()), "sparse"),
        (lambda p, opt: setattr(p, "data", torch._neg_view(p.data)), "does not expose"),
        (lambda p, opt: changed(p, opt, exp_avg=torch._neg_view(torch.ones(3, 4))), "not expose"),
        (lambda p, opt: changed(p, opt, step=torch.tensor(-1.0)), "step is"),
        (lambda p, opt: changed(p, opt, step=torch.tensor(float("nan"))), "step is"),
        (lambda p, opt: changed(p, opt, step=torch._neg_view(torch.tensor(2.0))), "step is"),
    ],
)
def test_what_is_wrong_with_a_group_is_told_by_the_full_look(spoil, message):
    params, opt = made()
    spoil(params[1], opt)
    before = [p.detach().clone() for p in params]
    assert read(opt) is None
    with pytest.raises((TypeError, ValueError), match=message):
        opt.step()
    assert all(torch.equal(p.detach(), b) for p, b in zip(params, before, strict=True))


def test_one_counter_for_two_parameters_is_refused():
    params, opt = made()
    step = opt.state[params[0]]["step"]
    changed(params[1], opt, step=step.detach())
    before = [p.detach().clone() for p in params]
    assert read(opt) is None
    with pytest.raises(TypeError, match="share a tensor that counts"):
        opt.step()
    assert step == 2
    assert all(torch.equal(p.detach(), b) for p, b in zip(params, before, strict=True))


def inference(value):
    with torch.inference_mode():
        return torch.tensor(value)


@pytest.mark.parametrize("value", [2.0, 3.5, 2.0**24 - 1])
@pytest.mark.parametrize("make", [torch.tensor, inference])
def test_a_refused_step_leaves_counters_as_they_are(make, value):
    """Those made for inference too, which are refused themselves before torch 2.10."""
    w = leaf(4)
    opt = ours.Adam([w])
    steps(opt, [w])
    opt.state[w]["step"] = make(value)
    w.grad = w.detach()
    is_taken = make is torch.tensor or _tensors._GROUPS is not None
    with pytest.raises(
        ValueError if is_taken else TypeError, match="memory" if is_taken else "step is"
    ):
        opt.step()
    assert float(opt.state[w]["step"]) == value


@pytest.mark.parametrize(
    ("dtype", "last"),
    [
        (torch.float32, 2**24 - 1),
        (torch.float16, 2**11 - 1),
        (torch.bfloat16, 2**8 - 1),
        (torch.uint8, 2**8 - 2),
    ],
    ids=str,
)
def test_a_counter_that_cannot_count_on_is_refused(dtype, last):
    w = leaf(4)
    opt = ours.Adam([w])
    steps(opt, [w])
    opt.state[w]["step"] = counter = torch.tensor(last, dtype=dtype)
    opt.step()
    assert counter == last + 1
    before = w.tolist()
    with pytest.raises(TypeError, match="to which 1 can be added"):
        opt.step()
    assert (int(counter), w.tolist()) == (last + 1, before)


@pytest.mark.parametrize("kind", [tuple, set, dict.fromkeys, iter])
def test_parameters_may_be_in_any_iterable(kind):
    a, b = leaf(4), leaf(2)
    opt = ours.SGD([a, b], lr=0.5)
    opt.param_groups[0]["params"] = kind([a, b])
    steps(opt, [a])
    assert (a == 0.5).all() and (b == 1).all()


def test_a_parameter_that_is_there_twice_is_refused():
    w = leaf(4)
    with pytest.warns(UserWarning, match="duplicate"):
        opt = ours.Adagrad([w, w], lr=0.1)
    for _ in range(2):
        with pytest.raises(TypeError, match="is there twice"):
            steps(opt, [w])
    assert (w == 1).all() and opt.state[w]["step"] == 0


@in_one_pass
def test_a_frozen_parameter_does_not_decide_where_a_group_is(monkeypatch):
    w, frozen = leaf(4), leaf(4)
    opt = ours.Adam([frozen, w])
    steps(opt, [frozen, w])
    frozen.grad = None
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda tensor: tensor is frozen))
    _, arrays, *_ = read(opt)
    assert arrays[0][0].base is w


def test_a_group_without_gradients_is_no_usual_one():
    params, opt = made()
    for p in params:
        p.grad = None
    assert read(opt) is None
    before = copy.deepcopy(counts(opt))
    opt.step()
    assert counts(opt) == before


@pytest.mark.parametrize("which", ["data", "grad"])
def test_a_tensor_without_memory_is_no_usual_one(which):
    w = leaf(4)
    opt = ours.Adam([w])
    steps(opt, [w])
    setattr(w, which, emptied())
    assert read(opt) is None


def test_tensors_of_one_element_may_have_any_strides():
    w = torch.as_strided(torch.ones(8), (1, 4), (77, 1)).requires_grad_()
    opt = ours.Adam([w])
    steps(opt, [w])
    assert w.stride() == (77, 1)
    steps(opt, [w])
    assert counts(opt) == [2]
