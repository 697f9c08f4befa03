"""torch's optimizers on cyopt's step, beside torch's own single-tensor implementation."""

import copy
import pickle
import types

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("expecttest")  # by torch's own list of configurations

from torch.testing._internal.common_optimizers import optim_db  # noqa: E402

import cyopt  # noqa: E402
from cyopt.integrations import _tensors  # noqa: E402
from cyopt.integrations import torch as ours  # noqa: E402

NAMES = ["SGD", "RMSprop", "Adagrad", "Adam", "AdamW"]
# The same formulas in another order of operations: of the largest number, after ten steps.
TOLERANCE = {torch.float32: 3e-6, torch.float64: 1e-13}


def configurations():
    """torch's own list, but for what cyopt refuses."""
    for info in optim_db:
        name = info.optim_cls.__name__
        for i, case in enumerate(info.optim_inputs_func("cpu") if name in NAMES else ()):
            if not (case.kwargs.get("capturable") or case.kwargs.get("differentiable")):
                yield pytest.param(name, case.kwargs, id=f"{name}-{i}-{case.desc}")


def tensors(dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(5,), (3, 4), (), (2, 3, 2)]
    return [torch.randn(s, generator=generator, dtype=dtype) for s in shapes]


def run(module, name, kwargs, dtype, steps=10):
    params = [p.requires_grad_() for p in tensors(dtype)]
    own = {} if module is ours else {"foreach": False, "fused": False}
    if name == "RMSprop":
        own.pop("fused", None)
    opt = getattr(module, name)(params, **{**kwargs, **own})
    for step in range(steps):
        for i, (p, grad) in enumerate(zip(params, tensors(dtype, 1 + step), strict=True)):
            p.grad = None if i == 1 and step == 0 else grad  # the second begins later
        opt.step()
    return params, opt


def close(a, b, tolerance):
    return (a - b).abs().max() <= tolerance * b.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("name", "kwargs"), list(configurations()))
def test_every_configuration_of_torchs_own_list(name, kwargs, dtype, monkeypatch):
    if isinstance(kwargs.get("lr"), torch.Tensor):
        kwargs = {**kwargs, "lr": kwargs["lr"].clone()}
    theirs, their_opt = run(torch.optim, name, kwargs, dtype)
    calls = []
    step = type(getattr(ours, name)([torch.ones(1)]))._function
    counted = staticmethod(lambda *args, **kw: calls.append(1) or step(*args, **kw))
    monkeypatch.setattr(getattr(ours, name), "_function", counted)
    mine, opt = run(ours, name, kwargs, dtype)
    # Two in each step in which the second parameter has made fewer; SGD tells only the first apart.
    assert len(calls) in (10, 11, 19)
    for p, other in zip(mine, theirs, strict=True):
        assert close(p, other, TOLERANCE[dtype])
        ours_state, their_state = opt.state[p], their_opt.state[other]
        assert set(ours_state) == set(their_state)
        for key, value in their_state.items():
            assert ours_state[key].dtype == value.dtype, key
            assert close(ours_state[key], value, TOLERANCE[dtype]), key


def test_state_without_a_count_is_that_of_a_first_step():
    w = torch.ones(3, requires_grad=True)
    opt = ours.Adam([w], lr=0.5)
    for _ in range(2):
        w.grad = torch.ones(3)
        opt.step()
        opt.state[w].pop("step")
    w.grad = torch.ones(3)
    opt.step()
    assert opt.state[w]["step"] == 1


@pytest.mark.parametrize(
    "counter",
    [
        *(torch.tensor(x) for x in (3.0, 3, [3.0], 3.5)),
        *(torch.tensor(3.0, dtype=t) for t in (torch.float64, torch.float16, torch.bfloat16)),
    ],
    ids=str,
)
def test_a_count_is_taken_from_whatever_holds_it(counter):
    def stepped(count):
        w = torch.ones(3, requires_grad=True)
        opt = ours.Adam([w], lr=0.5)
        w.grad = torch.tensor([1.0, -2.0, 3.0])
        opt.step()
        opt.state[w]["step"] = torch.tensor(3.0) if count is None else count
        opt.step()
        return w.detach()

    counted = counter.clone()
    assert torch.equal(stepped(counted), stepped(None))
    assert int(counted) == 4


@pytest.mark.parametrize(
    "count",
    [
        *(torch.tensor(x) for x in (float("nan"), float("inf"), True, 3j)),
        *(1, 1.0, torch.ones(2), torch.ones(1).to_sparse(), torch._neg_view(torch.tensor(3.0))),
    ],
    ids=str,
)
def test_a_count_that_is_none_is_refused(count):
    params = [torch.ones(3, requires_grad=True) for _ in range(2)]
    opt = ours.Adam(params)
    for w in params:
        w.grad = torch.ones(3)
    opt.step()
    before, opt.state[params[0]]["step"] = [w.detach().clone() for w in params], count
    with pytest.raises((TypeError, ValueError, OverflowError)):
        opt.step()
    assert all(torch.equal(w.detach(), b) for w, b in zip(params, before, strict=True))
    assert opt.state[params[1]]["step"] == 1


def counts(opt):
    return [float(opt.state[p]["step"]) for group in opt.param_groups for p in group["params"]]


def test_counts_are_those_of_torch_whatever_is_done_to_them():
    def follow(module, **own):
        params = [torch.ones(2, requires_grad=True) for _ in range(3)]
        opt, seen = module.Adam(params, **own), []

        def step(*given):
            for i, p in enumerate(params):
                p.grad = torch.ones(2) if i in given else None
            opt.step()
            seen.extend([counts(opt), [p.tolist() for p in params]])

        step(0, 1, 2)
        held = opt.state[params[0]]["step"]
        step(0, 2)
        seen.append([float(held)])
        opt.state[params[1]]["step"].fill_(7)
        step(0, 1, 2)
        opt.param_groups[0]["params"].reverse()
        step(0)
        step(2)
        opt.state[params[2]]["step"] = torch.tensor(20.0)
        step(1, 2)
        opt.load_state_dict(copy.deepcopy(opt.state_dict()))
        step(0, 1)
        opt.add_param_group({"params": [extra := torch.ones(2, requires_grad=True)]})
        params.append(extra)
        step(0, 1, 2, 3)
        opt.state.clear()
        step(0, 1, 2, 3)
        return seen

    ours_seen, theirs = follow(ours), follow(torch.optim, foreach=False, fused=False)
    for mine, other in zip(ours_seen, theirs, strict=True):
        assert np.allclose(mine, other, rtol=3e-6, atol=0)  # another order of operations


def test_a_state_that_was_taken_away_is_counted_on_as_by_torch():
    def follow(module, **own):
        w = torch.ones(4, requires_grad=True)
        opt = module.Adam([w], lr=0.1, **own)

        def steps(n):
            for _ in range(n):
                w.grad = torch.ones(4)
                opt.step()

        steps(1)
        other = copy.deepcopy(opt.state_dict())
        steps(2)
        saved = opt.state_dict()
        opt.load_state_dict(other)
        steps(1)
        seen = [float(saved["state"][0]["step"])]
        opt.load_state_dict(saved)
        opt.state[w]["step"].share_memory_()
        steps(1)
        opt.state[w]["step"].data = torch.tensor(9.0)
        steps(1)
        return [*seen, *counts(opt), *w.tolist()]

    assert np.allclose(follow(ours), follow(torch.optim, foreach=False), rtol=3e-6, atol=0)


@pytest.mark.skipif(_tensors._TABLE is None, reason="torch is older than 2.10")
def test_one_is_added_to_counters_alone():
    one, two = torch.tensor(1.0), torch.tensor(2.0)
    assert _tensors._TABLE.count([one, two]) and (one, two) == (2, 3)
    others = [
        torch.tensor(1.0).double(),
        torch.tensor(1),
        torch.ones(1),
        torch.tensor(1).bfloat16(),
    ]
    for other in others:
        before = other.clone()
        assert not _tensors._TABLE.count([one, other])
        assert one == 2 and torch.equal(other, before)


class Tagged(torch.Tensor):
    """A subclass, which may be more than its memory."""


def test_subclasses_of_tensors_go_the_long_way(monkeypatch):
    p = torch.nn.Parameter(torch.ones(4).as_subclass(Tagged))
    opt = ours.SGD([p], lr=0.5, momentum=0.5)
    p.grad = torch.ones(4)
    fails = types.SimpleNamespace(count=None, arrays=None)
    monkeypatch.setattr(_tensors, "_TABLE", fails)
    opt.step()
    assert torch.equal(p.detach(), torch.full((4,), 0.5))


@pytest.mark.skipif(_tensors._TABLE is None, reason="torch is older than 2.10")
def test_tensors_as_arrays_of_the_same_memory():
    whole = torch.arange(24.0).reshape(2, 3, 4)
    for tensor in (whole, whole[:, 1:, ::2], whole.permute(2, 0, 1), whole[1, 2, 3]):
        for value in (tensor, tensor.double(), tensor.clone().requires_grad_()):
            (array,) = _tensors._TABLE.arrays([value])
            expected = value.detach().numpy()
            assert np.array_equal(array, expected) and array.dtype == expected.dtype
            assert (array.shape, array.strides) == (expected.shape, expected.strides)
            assert array.ctypes.data == value.data_ptr()
            assert array.flags.writeable and array.base is value
            for flag in ("aligned", "c_contiguous", "f_contiguous", "owndata"):
                assert getattr(array.flags, flag) == getattr(expected.flags, flag), flag
    kept = _tensors._TABLE.arrays([torch.full((1000,), 3.0)])[0]
    assert (kept == 3).all()
    for other in (
        whole[:0],
        emptied,
        whole.half(),
        whole.int(),
        whole.to(torch.complex64),
        whole.to_sparse(),
    ):
        assert _tensors._TABLE.arrays([whole, other]) is None


@pytest.mark.parametrize("name", NAMES)
def test_state_goes_to_torch_and_comes_from_it(name):
    kwargs = {"lr": 0.1, **({"momentum": 0.9} if name in ("SGD", "RMSprop") else {})}
    for first, second in [(ours, torch.optim), (torch.optim, ours)]:
        params, opt = run(first, name, kwargs, torch.float64, 3)
        again = [p.detach().clone().requires_grad_() for p in params]
        other = getattr(second, name)(again, **kwargs)
        other.load_state_dict(copy.deepcopy(opt.state_dict()))
        for p, q in zip(params, again, strict=True):
            for key, value in opt.state[p].items():
                assert torch.equal(value, other.state[q][key])
        for these in (params, again):
            for p, grad in zip(these, tensors(torch.float64, 9), strict=True):
                p.grad = grad
        opt.step()
        other.step()
        assert all(close(p, q, 1e-14) for p, q in zip(params, again, strict=True))


def one(name="Adam", **kwargs):
    p = torch.ones(4, requires_grad=True)
    opt = getattr(ours, name)([p], lr=0.1, **kwargs)
    p.grad = torch.ones(4)
    return p, opt


def test_a_stale_graph_raises():
    p, opt = one()
    loss = (p * p).sum()
    opt.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("how", ["data", "to", "storage"])
def test_a_parameter_that_moves_is_followed(how):
    p, opt = one()
    opt.step()
    before = p.detach().clone()
    old = p.detach()
    if how == "data":
        p.data = before.clone()
    elif how == "to":
        p.data = p.data.to(torch.float64).to(torch.float32)
    else:
        p.data.set_(before.clone())
    opt.step()
    assert torch.all(p < before)
    if how != "storage":
        assert torch.equal(old, before)


def test_nothing_is_copied():
    p, opt = one()
    opt.step()
    address = p.data_ptr()
    moments = [opt.state[p][key].data_ptr() for key in ("exp_avg", "exp_avg_sq")]
    opt.step()
    assert p.data_ptr() == address
    assert [opt.state[p][key].data_ptr() for key in ("exp_avg", "exp_avg_sq")] == moments


def test_gradients_of_any_strides_and_dense_parameters_of_any_order():
    def step(module, **own):
        base = torch.arange(48, dtype=torch.float64).reshape(1, 3, 4, 4).sin()
        params = [
            torch.ones(3, 4, dtype=torch.float64),
            base.clone().to(memory_format=torch.channels_last),
            torch.ones(4, 3, dtype=torch.float64).T,
        ]
        grads = [
            torch.arange(12.0, dtype=torch.float64).reshape(4, 3).T,
            base.flip(1),
            torch.ones(1, dtype=torch.float64).expand(3, 4),
        ]
        opt = module.Adam(params, lr=0.1, **own)
        for _ in range(3):
            for p, grad in zip(params, grads, strict=True):
                p.grad = grad
            opt.step()
        return params, opt

    mine, opt = step(ours)
    theirs, _ = step(torch.optim, foreach=False, fused=False)
    for p, other in zip(mine, theirs, strict=True):
        assert close(p, other, 1e-14)
        assert opt.state[p]["exp_avg"].stride() == p.stride()


def test_a_conjugated_gradient_is_resolved():
    p, opt = one("SGD")
    p.data = p.data.double()
    z = torch.complex(torch.zeros(4).double(), torch.arange(4.0).double())
    p.grad = z.conj().imag  # a view with the negative bit
    assert p.grad.is_neg()
    opt.step()
    assert torch.equal(p, 1 + 0.1 * torch.arange(4.0).double())


def test_hooks_closures_schedulers_and_groups():
    w, b = (torch.ones(3, requires_grad=True) for _ in "wb")
    opt = ours.Adam([{"params": [w]}, {"params": [b], "lr": 0.5}], lr=0.1)
    seen = []
    opt.register_step_pre_hook(lambda *args: seen.append("before"))
    opt.register_step_post_hook(lambda *args: seen.append("after"))
    scheduler = torch.optim.lr_scheduler.StepLR(opt, 1, gamma=0.5)

    def closure():
        opt.zero_grad()
        loss = (w * w).sum() + b.sum()
        loss.backward()
        return loss

    assert opt.step(closure).item() == 6.0
    scheduler.step()
    assert seen == ["before", "after"]
    assert [group["lr"] for group in opt.param_groups] == [0.05, 0.25]
    assert torch.allclose(w, torch.tensor(0.9)) and torch.allclose(b, torch.tensor(0.5))
    extra = torch.ones(2, requires_grad=True)
    opt.add_param_group({"params": [extra]})
    extra.grad = torch.ones(2)
    opt.step()
    assert torch.all(extra < 1)


def test_a_scheduler_that_changes_betas():
    p, opt = one()
    q = torch.ones(4, requires_grad=True)
    q.grad = p.grad.clone()
    theirs = torch.optim.Adam([q], lr=0.1, foreach=False)
    for o in (opt, theirs):
        scheduler = torch.optim.lr_scheduler.OneCycleLR(o, 0.5, total_steps=10)
        for _ in range(9):
            o.step()
            scheduler.step()
    assert close(p, q, TOLERANCE[torch.float32])


def test_copies():
    p, opt = one()
    opt.step()
    for twin in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        (q,) = twin.param_groups[0]["params"]
        q.grad = torch.ones(4)
        twin.step()
        assert float(twin.state[q]["step"]) == 2.0
    opt.step()
    assert torch.equal(p, q)


def become_half(p):
    p.grad = None
    p.data = p.data.half()
    p.grad = torch.ones(4, dtype=torch.float16)


def without_memory():
    p = torch.ones(4, device="meta", requires_grad=True)
    p.grad = torch.ones(4, device="meta")
    return p


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda p, o: setattr(p, "data", p.data.half()) or setattr(p, "grad", p.grad.half()),
            "float16",
        ),
        (lambda p, o: o.param_groups[0].update(fused=True), "fused is True"),
        (lambda p, o: o.param_groups[0].update(foreach=True), "foreach is True"),
        (lambda p, o: o.param_groups[0].update(lr=-1.0), "lr is -1.0"),
        (lambda p, o: setattr(p, "grad", torch.ones(4).to_sparse()), "[sS]parse"),
        (lambda p, o: setattr(p, "data", torch.ones(8)[::2]), "contiguous"),
        (lambda p, o: setattr(p, "data", torch.ones(1).expand(4)), "contiguous|read-only"),
        (
            lambda p, o: o.param_groups[0].update(params=[p, without_memory()]),
            "is on meta; expected",
        ),
        (
            lambda p, o: o.param_groups[0].update(params=[without_memory(), p]),
            "on meta, whose memory",
        ),
    ],
)
def test_a_refused_step_leaves_no_state(spoil, message):
    p, opt = one()
    spoil(p, opt)
    before = p.detach().clone()
    with pytest.raises((TypeError, ValueError), match=message):
        opt.step()
    assert torch.equal(p.detach(), before)
    assert len(opt.state) == 0


def emptied():
    tensor = torch.ones(4)
    tensor.untyped_storage().resize_(0)
    return tensor


@pytest.mark.parametrize("which", ["data", "grad"])
def test_a_tensor_without_memory_is_refused(which):
    p, opt = one()
    opt.step()
    setattr(p, which, emptied())
    with pytest.raises(ValueError, match="has no memory"):
        opt.step()
    assert counts(opt) == [1]


def test_a_complex_parameter_is_refused():
    p = torch.ones(2, dtype=torch.complex64)
    opt = ours.SGD([p], lr=0.1)
    p.grad = torch.ones(2, dtype=torch.complex64)
    with pytest.raises(TypeError, match="complex64"):
        opt.step()


def test_bits_are_those_of_cyopt():
    p, opt = one("RMSprop", momentum=0.9, weight_decay=0.1)
    w, v, b = (np.full(4, x, np.float32) for x in (1.0, 0.0, 0.0))
    for _ in range(5):
        opt.step()
        cyopt.rmsprop_(
            w, np.ones(4, np.float32), v, momentum_buffer=b, lr=0.1, momentum=0.9, weight_decay=0.1
        )
    assert np.array_equal(p.detach().numpy(), w)
