"""What readers found wrong in torch's optimizers on cyopt's step: each beside torch's own."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import cyopt  # noqa: E402
from cyopt.integrations import _tensors  # noqa: E402
from cyopt.integrations import torch as ours  # noqa: E402

THEIRS = {"foreach": False}


def leaf(*shape, value=1.0):
    return torch.full(shape, value, requires_grad=True)


def steps(opt, params, n=1):
    for _ in range(n):
        for i, p in enumerate(params):
            p.grad = torch.full_like(p, 1.0 - 2.0 * (i % 2))
        opt.step()


def both(run):
    """Run it on cyopt's module and on torch's: the same numbers but for their last bits, by the
    largest, as the order of operations is another."""
    mine, theirs = np.array(run(ours)), np.array(run(torch.optim))
    assert abs(mine - theirs).max() <= 3e-6 * abs(theirs).max()


def test_adagrad_begins_where_it_was_told_to_also_later():
    def run(module):
        a, b = leaf(2), leaf(2)
        groups = [{"params": [p]} for p in (a, b)]
        later = [groups.pop()] if module is ours else []  # of which torch 2.9 makes no state
        opt = module.Adagrad(groups, lr=0.1, initial_accumulator_value=1.0)
        for group in later:
            opt.add_param_group(group)
        steps(opt, [a, b])
        return [*a.tolist(), *b.tolist(), *opt.state[b]["sum"].tolist()]

    both(run)


def test_adagrad_begins_anew_without_its_state():
    """torch 2.9 raises KeyError."""
    a = leaf(2)
    opt = ours.Adagrad([a], lr=0.1, initial_accumulator_value=1.0)
    steps(opt, [a], n=2)
    opt.state.clear()
    steps(opt, [a])
    assert opt.state[a]["sum"].tolist() == [2.0, 2.0]


@pytest.mark.parametrize(
    ("name", "slot", "turned_on"),
    [
        ("Adam", "exp_avg_sq", {}),
        ("Adam", "max_exp_avg_sq", {"amsgrad": True}),
        ("RMSprop", "grad_avg", {"centered": True}),
        ("Adagrad", "sum", {}),
    ],
)
def test_state_that_is_missing_is_not_made_up(name, slot, turned_on):
    w = leaf(2)
    opt = getattr(ours, name)([w], lr=0.1)
    steps(opt, [w])
    opt.state[w].pop(slot, None)
    opt.param_groups[0].update(turned_on)
    before = w.tolist()
    with pytest.raises(ValueError, match=f"has no {slot}"):
        steps(opt, [w])
    assert w.tolist() == before
    opt.state.pop(w)  # the cure that it names
    steps(opt, [w])
    assert opt.state[w]["step"] == 1


def test_momentum_turned_on_begins_undampened():
    def run(module):
        w = leaf(2)
        opt = module.SGD([w], lr=0.1, dampening=0.0)
        steps(opt, [w])
        opt.param_groups[0].update(momentum=0.9, dampening=0.5)
        steps(opt, [w], 2)
        return w.tolist()

    both(run)


@pytest.mark.parametrize(
    ("name", "numbers", "slot"),
    [("SGD", {"momentum": 0.5}, "momentum_buffer"), ("Adam", {}, "exp_avg")],
)
def test_state_in_another_order_than_its_parameter(name, numbers, slot):
    def run(module):
        net = torch.nn.Conv2d(2, 3, 2)
        with torch.no_grad():
            net.weight.copy_(torch.linspace(-1.0, 1.0, 24).reshape(3, 2, 2, 2))
            net.bias.fill_(0.5)
        opt = getattr(module, name)(net.parameters(), lr=0.1, **numbers)
        for form in (None, torch.channels_last, None, torch.contiguous_format, None):
            net = net if form is None else net.to(memory_format=form)
            opt.zero_grad()
            net(torch.ones(1, 2, 3, 3)).square().mean().backward()
            opt.step()
            if module is ours:
                assert opt.state[net.weight][slot].stride() == net.weight.stride()
        return net.weight.detach().flatten().tolist()

    both(run)


def test_a_buffer_that_torch_made_like_the_gradient():
    w = leaf(3, 4)
    own = torch.optim.SGD([w], lr=0.1, momentum=0.9)
    w.grad = torch.ones(4, 3).t()
    own.step()
    assert own.state[w]["momentum_buffer"].stride() == (1, 3)
    opt = ours.SGD([w], lr=0.1, momentum=0.9)
    opt.load_state_dict(own.state_dict())
    opt.step()
    assert torch.allclose(w, torch.full((3, 4), 1 - 0.1 - 0.19))


def test_state_of_another_shape_is_refused_and_not_spread():
    w = leaf(2, 2)
    opt = ours.Adam([w])
    steps(opt, [w])
    opt.state[w]["exp_avg"] = torch.zeros(1, 1).expand(2, 1)
    with pytest.raises(ValueError, match="exp_avg"):
        steps(opt, [w])


@pytest.mark.parametrize("way", ["fused", "foreach"])
def test_how_torch_stepped_does_not_matter_after_loading(way):
    w = leaf(2)
    own = torch.optim.Adam([w], **{way: True})
    steps(own, [w])
    opt = ours.Adam([w])
    opt.load_state_dict(own.state_dict())
    steps(opt, [w])
    assert opt.param_groups[0][way] is None
    assert opt.state[w]["step"] == 2


def test_a_schedule_that_ends_below_zero_by_rounding():
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
def test_numbers_in_torchs_forms(name, numbers):
    def run(module):
        a, b = leaf(2), leaf(2, value=2.0)
        opt = getattr(module, name)([a, b], **{**numbers, **(THEIRS if module is not ours else {})})
        steps(opt, [a, b], 3)
        return [*a.tolist(), *b.tolist()]

    both(run)


def test_nesterov_with_a_momentum_that_reaches_zero():
    def run(module):
        w = leaf(2)
        opt = module.SGD([w], lr=0.1, momentum=0.9, nesterov=True)
        for momentum in (0.9, 0.0, 0.5):
            opt.param_groups[0]["momentum"] = momentum
            steps(opt, [w])
        return w.tolist()

    both(run)


def test_sgd_without_momentum_keeps_no_state():
    w = leaf(2)
    opt = ours.SGD([w], lr=0.1)
    steps(opt, [w])
    assert opt.state_dict()["state"] == {}


@pytest.mark.parametrize("by_table", [True, False])
def test_counters_that_cannot_be_changed_are_refused_before_the_step(by_table, monkeypatch):
    if not by_table:
        monkeypatch.setattr(_tensors, "_TABLE", None)
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


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.2.0", reason="DLPack is read-only")
def test_tensors_whose_numbers_are_not_those_in_memory():
    """NumPy reads a lazy negation as it lies there, and makes memory of its own for lazy zeros."""
    negated = torch.tensor([1 + 2j, 3 + 4j]).conj().imag
    lazy = torch._neg_view(torch.ones(2)), torch._efficientzerotensor((2,))
    opt = cyopt.SGD([p := torch.zeros(2)], lr=1.0)
    for grad, cure in [(negated, "resolve_neg"), (lazy[0], "resolve_neg"), (lazy[1], "a copy")]:
        with pytest.raises(TypeError, match=f"gradient of '0' is a.*{cure}"):
            opt.step([grad])
    for param, cure in [(lazy[0], "resolve_neg"), (lazy[1], "a copy")]:
        with pytest.raises(TypeError, match=f"param.* is a.*{cure}"):
            cyopt.sgd_(param, torch.ones(2), lr=1.0)
    assert p.tolist() == [0, 0]
    assert opt.step([negated.resolve_neg()])
    assert p.tolist() == [2, 4]


def test_tensors_that_numpy_cannot_read():
    w = np.ones(2)
    for grad in (
        torch.ones(2, dtype=torch.bfloat16),
        torch.ones(2).to_sparse(),
        torch.ones(2, device="meta"),
    ):
        with pytest.raises(TypeError, match=r"gradient of '0' is a torch.Tensor that cannot be"):
            cyopt.sgd_(w, grad)


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


def test_a_compiled_function_steps():
    param, opt = of_one()

    def train():
        (param * param).sum().backward()
        opt.step()
        opt.zero_grad()

    torch.compile(train, backend="eager")()
    assert (param == 0.5).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_a_counter_that_counts_nothing(value):
    param, opt = of_one()
    opt.step()
    opt.state[param]["step"] = torch.tensor(value)
    with pytest.raises((TypeError, ValueError), match=r"step is .*; expected a"):
        opt.step()


@pytest.mark.parametrize(
    "param",
    [torch.ones(2, dtype=torch.bfloat16), torch.tensor([1j, 2j]).conj().imag],
    ids=["bfloat16", "negated"],
)
def test_a_parameter_whose_memory_torch_does_not_show(param):
    param = param.detach().requires_grad_()
    param.grad = torch.ones_like(param)
    with pytest.raises(TypeError, match=r"a tensor of the step is a Tensor of torch\..*float32"):
        ours.SGD([param], lr=1.0).step()
