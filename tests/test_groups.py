"""Groups of parameters: numbers of their own, groups added later, what cannot be replaced."""

import numpy as np
import pytest
from models import Model, arrays, grads_at, ones

import cyopt


def test_each_group_steps_as_an_optimizer_of_its_own():
    a, b = arrays(), arrays()
    opt = cyopt.Adam([{"params": a}, {"params": b, "lr": 0.5, "amsgrad": True}], lr=0.1)
    twins, others = arrays(), arrays()
    one, other = cyopt.Adam(twins, lr=0.1), cyopt.Adam(others, lr=0.5, amsgrad=True)
    assert list(opt.state) == ["0.w", "0.b", "1.w", "1.b"]
    for step in range(3):
        grads = grads_at(step, a)
        opt.step([grads, grads])
        one.step(grads)
        other.step(grads)
        if step == 1:
            opt.groups[1].lr = other.lr = 0.25
    for key in a:
        assert np.array_equal(a[key], twins[key])
        assert np.array_equal(b[key], others[key])
    assert [group.lr for group in opt.groups] == [0.1, 0.25]
    for key in ("lr", "eps", "amsgrad"):
        with pytest.raises(AttributeError, match=rf"2 groups.*groups\[i\]\.{key}"):
            getattr(opt, key)
    with pytest.raises(AttributeError, match=r"groups\[i\]\.lr"):
        opt.lr = 1.0


def test_a_step_with_an_empty_group_stays_within_its_plan():
    """A write past the end of the plan is seen by `make sanitize`."""
    params, twins, grad = [ones(4) for _ in range(5)], [ones(4) for _ in range(5)], ones(4)
    for _ in range(50):
        opt = cyopt.AdamW([{"params": params}, {"params": [], "weight_decay": 0.0}])
        opt.step([[grad] * 5, []])
        cyopt.AdamW(twins).step([grad] * 5)
        assert opt.steps == 1
    assert np.array_equal(params, twins)


def test_groups_and_the_count_of_steps_cannot_be_replaced():
    opt = cyopt.SGD([ones(4)])
    with pytest.raises(AttributeError):
        opt.groups = []
    with pytest.raises(TypeError):
        opt.groups[0] = cyopt.Adam().groups[0]
    for name in ("rule", "schedules", "version"):
        with pytest.raises(AttributeError, match=name):
            setattr(opt.groups[0], name, 1)
    with pytest.raises(AttributeError):
        opt.steps = 5


# --- add_group ------------------------------------------------------------------------------------


def test_an_added_group_steps_as_an_optimizer_of_its_own():
    params, head, twin, twin_head = arrays(), np.ones(2), arrays(), np.ones(2)
    opt, one, two = cyopt.Adam(params), cyopt.Adam(twin), cyopt.Adam(twin_head, lr=0.5)
    grads = grads_at(0, params)
    opt.step(grads)
    one.step(grads)
    opt.add_group({"params": head, "lr": 0.5})
    assert list(opt.state) == ["0.w", "0.b", "1"]
    for _ in range(2):
        opt.step([grads, np.ones(2)])
        one.step(grads)
        two.step(np.ones(2))
    assert np.array_equal(params["w"], twin["w"])
    assert np.array_equal(head, twin_head)
    assert opt.steps == 3


@pytest.mark.parametrize(
    ("group", "error"),
    [
        ({"lr": 1.0}, TypeError),
        (np.ones(2), TypeError),
        ({"params": np.ones(2), "learning_rate": 1.0}, TypeError),
        ({"params": np.ones(2), "lr": -1.0}, ValueError),
        ({"params": np.ones(2, int)}, TypeError),
        ({"params": np.ones(2, np.float32), "eps": 1e-50}, ValueError),
    ],
)
def test_a_refused_group_changes_nothing(group, error):
    model = Model(cyopt.Adam, 2)
    model.refuses(lambda: model.opt.add_group(group), error, ".")
    again = {"params": model.params["w"]}
    model.refuses(lambda: model.opt.add_group(again), ValueError, "shares memory")


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.update(w=ones(1000)),
        lambda p: p.update(w=ones(2, 3, dtype=np.float64)),
        lambda p: p.update(w=np.asfortranarray(ones(2, 3))),
        lambda p: p.pop("w"),
        lambda p: p.update(c=ones(1)),
    ],
)
def test_add_group_refuses_changed_parameters(change):
    params = {"w": ones(2, 3), "b": ones(3)}
    opt = cyopt.Adam(params)
    opt.step({"w": ones(2, 3), "b": ones(3)})
    change(params)
    with pytest.raises(ValueError, match="param"):
        opt.add_group({"params": ones(1)})
    assert len(opt.groups) == 1
    assert list(opt.state) == ["w", "b"]


def test_add_group_leaves_reordered_parameters_their_state():
    params = {"a": ones(2), "b": ones(2)}
    opt = cyopt.Momentum(params)
    opt.step({"a": 1 * ones(2), "b": 5 * ones(2)})
    params["a"] = params.pop("a")
    opt.add_group({"params": ones(1)})
    assert opt.state["0.a"]["momentum_buffer"][0] == 1
    assert opt.state["0.b"]["momentum_buffer"][0] == 5
