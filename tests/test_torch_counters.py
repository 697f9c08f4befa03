"""The step counters of torch's optimizers on cyopt's step: tensors that anyone may change."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch_pair import counts, leaf, steps  # noqa: E402

from cyopt.integrations import _tensors  # noqa: E402
from cyopt.integrations import torch as ours  # noqa: E402


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
def test_a_count_is_taken_from_a_tensor_of_any_dtype(counter):
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


def test_state_that_is_loaded_again_is_counted_on_as_by_torch():
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
def test_one_is_added_to_scalar_float32_counters_alone():
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


def of_one(**kwargs):
    param = torch.ones(3, requires_grad=True)
    param.grad = torch.ones(3)
    return param, ours.Adam([param], lr=0.5, **kwargs)


def test_counters_are_on_the_cpu_whatever_the_default_device():
    param, opt = of_one()
    with torch.device("meta"):
        opt.step()
    assert opt.state[param]["step"].device.type == "cpu"
    opt.step()
    assert opt.state[param]["step"] == 2


@pytest.mark.parametrize(
    "count",
    [
        *(torch.tensor(x) for x in (float("nan"), float("inf"), True, 3j)),
        *(1, 1.0, torch.ones(2), torch.ones(1).to_sparse(), torch._neg_view(torch.tensor(3.0))),
    ],
    ids=str,
)
def test_what_is_not_a_count_is_refused(count):
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


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_an_error_of_a_count_names_step(value):
    param, opt = of_one()
    opt.step()
    opt.state[param]["step"] = torch.tensor(value)
    with pytest.raises((TypeError, ValueError), match=r"step is .*; expected a"):
        opt.step()


@pytest.mark.parametrize("by_table", [True, False])
def test_counters_that_cannot_be_changed_are_refused_before_the_step(by_table, monkeypatch):
    if not by_table:
        monkeypatch.setattr(_tensors, "_TABLE", None)
        monkeypatch.setattr(_tensors, "_GROUPS", None)
    elif _tensors._TABLE is None:
        pytest.skip("torch is older than 2.10")
    w = leaf(2)
    opt = ours.Adam([w])
    with torch.inference_mode():
        made = torch.tensor(3.0)
    for counter in (made, torch.tensor(3.0, requires_grad=True)):
        opt.state.clear()
        steps(opt, [w])
        opt.state[w]["step"], before = counter, w.tolist()
        try:
            steps(opt, [w])
        except TypeError:
            assert w.tolist() == before
            assert counter.item() == 3
        else:
            assert counter.item() == 4
