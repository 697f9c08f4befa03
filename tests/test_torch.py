"""torch's optimizers on cyopt's step, beside torch's own single-tensor implementation."""

import copy
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("expecttest")  # by torch's own list of configurations

from torch.testing._internal.common_optimizers import optim_db  # noqa: E402
from torch_pair import both, leaf, one, steps  # noqa: E402

import cyopt  # noqa: E402
from cyopt.integrations import torch as ours  # noqa: E402

NAMES = ["SGD", "RMSprop", "Adagrad", "Adam", "AdamW"]
# The same formulas in another order of operations: of the largest number, after ten steps.
TOLERANCE = {torch.float32: 3e-6, torch.float64: 1e-13}


THEIRS = {"foreach": False}


def configurations():
    """torch's own list, except for what cyopt refuses."""
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
def test_every_configuration_of_torchs_own_list_agrees(name, kwargs, dtype, monkeypatch):
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


def test_hooks_closures_schedulers_and_groups_act_as_in_torch():
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


def test_a_scheduler_may_change_betas():
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


def test_nesterov_takes_a_momentum_that_reaches_zero():
    def run(module):
        w = leaf(2)
        opt = module.SGD([w], lr=0.1, momentum=0.9, nesterov=True)
        for momentum in (0.9, 0.0, 0.5):
            opt.param_groups[0]["momentum"] = momentum
            steps(opt, [w])
        return w.tolist()

    both(run)


def test_a_learning_rate_just_below_zero_acts_as_in_torch():
    def run(module):
        w = leaf(2)
        opt = module.AdamW([w], lr=1e-3)
        schedule = torch.optim.lr_scheduler.LinearLR(opt, 0.1, 0.0, 5)
        for _ in range(8):
            steps(opt, [w])
            schedule.step()
        assert -1e-15 < opt.param_groups[0]["lr"] < 0
        return w.tolist()

    both(run)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("Adam", {"lr": torch.tensor(0.1), "betas": (torch.tensor(0.5), torch.tensor(0.75))}),
        ("Adam", {"eps": torch.tensor(0.25), "maximize": 1}),
        ("SGD", {"momentum": torch.tensor(0.5), "nesterov": 1}),
        ("SGD", {"momentum": 0.0, "dampening": 0.5}),
        ("RMSprop", {"alpha": torch.tensor(0.5), "momentum": torch.tensor(0.5)}),
    ],
    ids=str,
)
def test_numbers_may_have_torchs_forms(name, numbers):
    def run(module):
        a, b = leaf(2), leaf(2, value=2.0)
        opt = getattr(module, name)([a, b], **{**numbers, **(THEIRS if module is not ours else {})})
        steps(opt, [a, b], 3)
        return [*a.tolist(), *b.tolist()]

    both(run)


def test_a_copy_steps_as_its_original():
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


def test_a_step_runs_inside_torch_compile():
    param = torch.ones(3, requires_grad=True)
    param.grad = torch.ones(3)
    opt = ours.Adam([param], lr=0.5)

    def train():
        (param * param).sum().backward()
        opt.step()
        opt.zero_grad()

    torch.compile(train, backend="eager")()
    assert (param == 0.5).all()


def test_bits_are_those_of_cyopt():
    p, opt = one("RMSprop", momentum=0.9, weight_decay=0.1)
    w, v, b = (np.full(4, x, np.float32) for x in (1.0, 0.0, 0.0))
    for _ in range(5):
        opt.step()
        cyopt.rmsprop_(
            w, np.ones(4, np.float32), v, momentum_buffer=b, lr=0.1, momentum=0.9, weight_decay=0.1
        )
    assert np.array_equal(p.detach().numpy(), w)
