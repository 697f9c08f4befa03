"""The state of torch's optimizers on cyopt's step: begun, missing, loaded, in any order."""

import pytest

torch = pytest.importorskip("torch")

from torch_pair import both, leaf, steps  # noqa: E402

from cyopt.integrations import torch as ours  # noqa: E402


def test_adagrad_of_a_later_group_begins_at_its_initial_value():
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


def test_adagrad_without_its_state_begins_again():
    """torch 2.9 raises KeyError."""
    a = leaf(2)
    opt = ours.Adagrad([a], lr=0.1, initial_accumulator_value=1.0)
    steps(opt, [a], n=2)
    opt.state.clear()
    steps(opt, [a])
    assert opt.state[a]["sum"].tolist() == [2.0, 2.0]


def test_momentum_that_is_turned_on_begins_without_dampening():
    def run(module):
        w = leaf(2)
        opt = module.SGD([w], lr=0.1, dampening=0.0)
        steps(opt, [w])
        opt.param_groups[0].update(momentum=0.9, dampening=0.5)
        steps(opt, [w], 2)
        return w.tolist()

    both(run)


def test_sgd_without_momentum_keeps_no_state():
    w = leaf(2)
    opt = ours.SGD([w], lr=0.1)
    steps(opt, [w])
    assert opt.state_dict()["state"] == {}


@pytest.mark.parametrize(
    ("name", "slot", "turned_on"),
    [
        ("Adam", "exp_avg_sq", {}),
        ("Adam", "max_exp_avg_sq", {"amsgrad": True}),
        ("RMSprop", "grad_avg", {"centered": True}),
        ("Adagrad", "sum", {}),
    ],
)
def test_missing_state_is_refused_and_not_made_up(name, slot, turned_on):
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


def test_state_of_another_shape_is_refused_and_not_broadcast():
    w = leaf(2, 2)
    opt = ours.Adam([w])
    steps(opt, [w])
    opt.state[w]["exp_avg"] = torch.zeros(1, 1).expand(2, 1)
    with pytest.raises(ValueError, match="exp_avg"):
        steps(opt, [w])


@pytest.mark.parametrize(
    ("name", "numbers", "slot"),
    [("SGD", {"momentum": 0.5}, "momentum_buffer"), ("Adam", {}, "exp_avg")],
)
def test_state_follows_its_parameter_to_another_memory_order(name, numbers, slot):
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


def test_a_buffer_of_torch_in_the_order_of_the_gradient_is_taken():
    w = leaf(3, 4)
    own = torch.optim.SGD([w], lr=0.1, momentum=0.9)
    w.grad = torch.ones(4, 3).t()
    own.step()
    assert own.state[w]["momentum_buffer"].stride() == (1, 3)
    opt = ours.SGD([w], lr=0.1, momentum=0.9)
    opt.load_state_dict(own.state_dict())
    opt.step()
    assert torch.allclose(w, torch.full((3, 4), 1 - 0.1 - 0.19))


@pytest.mark.parametrize("way", ["fused", "foreach"])
def test_state_of_fused_and_foreach_steps_can_be_loaded(way):
    w = leaf(2)
    own = torch.optim.Adam([w], **{way: True})
    steps(own, [w])
    opt = ours.Adam([w])
    opt.load_state_dict(own.state_dict())
    steps(opt, [w])
    assert opt.param_groups[0][way] is None
    assert opt.state[w]["step"] == 2
