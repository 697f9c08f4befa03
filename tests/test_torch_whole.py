"""Steps of torch's optimizers are made whole or not at all, and torch is notified of each."""

import pytest

torch = pytest.importorskip("torch")

from test_torch import NAMES  # noqa: E402
from torch_pair import one  # noqa: E402

import cyopt  # noqa: E402
from cyopt.integrations import torch as ours  # noqa: E402


def interrupt(opt, monkeypatch, when):
    """Let an interrupt come right before or right after the native step."""
    function = type(opt)._function

    def interrupted(**arguments):
        if when == "after":
            function(**arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(type(opt), "_function", staticmethod(interrupted))


def look(opt, p):
    entries = opt.state[p].items() if p in opt.state else ()
    return p.detach().clone(), {name: value.clone() for name, value in entries}


def same(found, expected):
    assert torch.equal(found[0], expected[0])
    assert found[1].keys() == expected[1].keys()
    assert all(torch.equal(found[1][name], value) for name, value in expected[1].items())


@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", NAMES)
def test_an_interrupt_leaves_a_step_whole(name, when, steps, monkeypatch):
    kwargs = {"momentum": 0.9} if name in ("SGD", "RMSprop") else {}
    (p, opt), (other, twin) = one(name, **kwargs), one(name, **kwargs)
    for _ in range(steps):
        opt.step(), twin.step()
    before = look(opt, p)
    graph = (p * p).sum()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(opt, patch, when)
        opt.step()
    if when == "before":
        same(look(opt, p), before)
    else:
        twin.step()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            graph.backward()
        p.grad = other.grad.clone()
    opt.step(), twin.step()
    same(look(opt, p), look(twin, other))


@pytest.mark.parametrize("name", ["Adam", "SGD"])
def test_a_graph_that_saved_state_refuses_to_run(name):
    """Such as a penalty that weights with Adam's second moment."""
    p, opt = one(name, **({"momentum": 0.9} if name == "SGD" else {}))
    opt.step()
    for state in opt.state[p].values():
        w = torch.ones((), requires_grad=True)
        saved = (state * w).sum()
        opt.step()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            saved.backward()


@pytest.mark.parametrize("how", ["bound", "unbound", "update", "function"])
def test_a_graph_over_tensors_that_cyopt_itself_steps_refuses_to_run(how):
    w, grad, v, other = (torch.full((3,), x) for x in (1.0, 1.0, 0.0, 1.0))
    keyed, unbound = (cyopt.SGD(lr=0.5, momentum=0.9) for _ in range(2))
    groups = [{"params": [w], "zero_grads": True}, {"params": [other]}]
    bound = cyopt.SGD(groups, lr=0.5, momentum=0.9) if how == "bound" else None
    for _ in range(3):
        x = torch.ones(3, requires_grad=True)
        products = [(x * tensor).sum() for tensor in (w, grad, v)]
        if how == "bound":
            bound.step([[grad], [None]])
        elif how == "unbound":
            unbound.step([grad], [w])
        elif how == "update":
            keyed.update("w", w, grad)
        else:
            cyopt.sgd_(w, grad, v, lr=0.5, momentum=0.9)
        written = [True, how == "bound", how == "function"]
        for product, is_written in zip(products, written, strict=True):
            if is_written:
                with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                    product.backward()
            else:
                product.backward()
        grad = torch.ones(3)
    assert (w._version, other._version) == (3, 0)


def test_the_dict_of_a_parameters_state_stays_the_same():
    p, opt = one("SGD", momentum=0.9)
    state = opt.state[p]
    state["mine"] = torch.zeros(4)
    opt.step()
    assert opt.state[p] is state and set(state) == {"mine", "momentum_buffer"}
    p = torch.ones(2, 3, 2, 2, requires_grad=True)
    opt = ours.Adam([p], lr=0.1)
    p.grad = torch.ones_like(p)
    opt.step()
    saved = opt.state_dict()["state"][0]  # torch's is live
    p.grad = None
    p.data = p.data.contiguous(memory_format=torch.channels_last)
    p.grad = torch.ones_like(p)
    opt.step()
    assert saved["step"] == 2 and torch.equal(saved["exp_avg"], opt.state[p]["exp_avg"])


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adagrad"])
def test_a_scaler_of_gradients_unscales_them_itself(name):
    """An optimizer made with fused=True would have it leave that, and skipping, to the step."""
    p = torch.nn.Parameter(torch.ones(4))
    saved = getattr(torch.optim, name)([p], lr=0.5, fused=True).state_dict()
    opt = getattr(ours, name)([p], lr=0.5, fused=True)
    opt.load_state_dict(saved)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(p.sum()).backward()
    p.grad[0] = float("nan")
    scaler.step(opt)
    assert (p == 1).all()
    scaler.update()
    p.grad = None
    scaler.scale(p.sum()).backward()
    expected = torch.ones(4)
    expected.grad = torch.ones(4)
    getattr(ours, name)([expected], lr=0.5).step()
    scaler.step(opt)
    assert torch.equal(p.detach(), expected)


def test_a_scaler_that_leaves_it_to_the_step_is_refused():
    p = torch.nn.Parameter(torch.ones(4))
    opt = ours.SGD([p], lr=0.5, fused=True)
    opt.param_groups[0]["fused"] = None
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(p.sum()).backward()
    with pytest.raises(TypeError, match="make the optimizer without fused=True"):
        scaler.step(opt)
    assert (p == 1).all() and not opt.state


@pytest.mark.parametrize("name", ["lr", "weight_decay"])
def test_a_text_is_no_number(name):
    p, opt = one("Adam")
    opt.param_groups[0][name] = "0.1"
    with pytest.raises(TypeError, match=f"{name} is '0.1'"):
        opt.step()
    assert (p == 1).all()
