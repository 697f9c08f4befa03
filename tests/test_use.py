"""Ways of use: bound, unbound, keyed; trees, rebound arrays, None, counters, other libraries."""

from pathlib import Path

import numpy as np
import pytest
from models import NUMPY, Foreign, Model, arrays, grads_at, ones, read_only
from variants import FORMULAS, name

import cyopt


@pytest.mark.parametrize("variant", FORMULAS, ids=name)
def test_bound_unbound_and_keyed_are_one(variant):
    cls, hypers = variant
    bound, unbound, keyed = arrays(), arrays(), arrays()
    a, b, c = cls(bound, **hypers), cls(**hypers), cls(**hypers)
    for step in range(4):
        grads = grads_at(step, bound)
        assert a.step(grads) is True
        assert b.step(grads, unbound) is True
        for key, param in keyed.items():
            assert c.update(key, param, grads[key]) is param
        for key in bound:
            assert np.array_equal(bound[key], unbound[key])
            assert np.array_equal(bound[key], keyed[key])
            for slot, array in a.state[key].items():
                assert np.array_equal(array, c.state[key][slot])
    assert a.steps == b.steps == c.steps == 4


def test_keys_have_counters_and_schedules_of_their_own():
    opt, w = cyopt.Adam(lr=lambda steps: 1.0 / (1 + steps)), arrays()
    for _ in range(3):
        opt.update("w", w["w"], np.ones((2, 3), np.float32))
    late, alone = np.ones(3), np.ones(3)
    opt.update(("any", "hashable"), late, np.ones(3))
    cyopt.Adam(alone, lr=1.0).step(np.ones(3))
    assert np.array_equal(late, alone)
    assert opt.steps == 3
    assert list(opt.state) == ["w", ("any", "hashable")]


# --- trees ----------------------------------------------------------------------------------------

TREES = {
    "array": (lambda x: x, ["0"]),
    "list": (lambda x: [x], ["0"]),
    "tuple": (lambda x: (x,), ["0"]),
    "dict": (lambda x: {"w": x}, ["w"]),
    "empty": (lambda x: [x, [], {}], ["0"]),
    "nested": (lambda x: {"layer1": {"w": x}, "out": [{}, (x.copy(),)]}, ["layer1.w", "out.1.0"]),
    "integers": (lambda x: {0: {1: x}}, ["0.1"]),
}


@pytest.mark.parametrize(("make", "names"), TREES.values(), ids=TREES)
def test_parameters_may_be_any_tree(make, names):
    param, grad = np.ones(2), np.array([1.0, -1.0])
    opt = cyopt.Momentum(make(param), lr=0.5)
    assert list(opt.state) == names
    assert len(opt.state) == len(names)
    assert opt.step(make(grad))
    assert param.tolist() == [0.5, 1.5]
    assert np.array_equal(opt.state[names[-1]]["momentum_buffer"], grad)


def test_gradients_go_by_key_and_not_by_order():
    params, grads = arrays(), arrays()
    grads["b"][:] = 7
    cyopt.SGD(params, lr=1.0).step(dict(reversed(grads.items())))
    assert params["w"].tolist() == np.zeros((2, 3)).tolist()
    assert params["b"].tolist() == [-6] * 3


def test_lists_and_tuples_are_the_same_to_gradients():
    w = np.ones(2)
    assert cyopt.SGD([w], lr=1.0).step((np.ones(2),))
    assert w.tolist() == [0, 0]


def test_memory_maps_are_taken(tmp_path: Path):
    mapped = np.memmap(tmp_path / "w", np.float32, "w+", shape=(3,))
    mapped[:] = 1
    opt = cyopt.SGD([mapped], lr=0.25)
    opt.step([mapped * 0 + 1])
    opt.step([np.memmap(tmp_path / "w", np.float32, "r", shape=(3,)) * 0 + 1])
    assert mapped.tolist() == [0.5] * 3


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,), (1, 1)])
def test_arrays_may_be_empty_or_have_no_dimension(shape):
    param = np.ones(shape, np.float32)
    opt = cyopt.Adam({"p": param}, lr=0.5)
    for _ in range(2):
        assert opt.step({"p": np.ones(shape, np.float32)})
    assert np.array_equal(param, np.zeros(shape, np.float32))


def test_float32_and_float64_may_be_mixed():
    params = {"f": np.ones(3, np.float32), "d": np.ones(3)}
    opt = cyopt.Adam(params, lr=0.1)
    opt.step({"f": np.ones(3, np.float32), "d": np.ones(3)})
    assert [s.dtype for s in opt.state["f"].values()] == [np.float32] * 2
    assert [s.dtype for s in opt.state["d"].values()] == [np.float64] * 2


# --- None, counters -------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", FORMULAS, ids=name)
def test_none_skips_a_parameter(variant):
    """A parameter's count is its own: it continues as if the skipped steps had not been."""
    cls, hypers = variant
    params, alone = arrays(), arrays()["w"]
    opt, other = cls(params, **hypers), cls(alone, **hypers)
    for step in range(6):
        grads = grads_at(step, params)
        if step % 2:
            before = params["w"].tobytes(), [s.tobytes() for s in opt.state["w"].values()]
            opt.step({**grads, "w": None})
            assert before == (
                params["w"].tobytes(),
                [s.tobytes() for s in opt.state["w"].values()],
            )
        else:
            opt.step(grads)
            other.step(grads["w"])
    assert np.array_equal(params["w"], alone)
    counts = {key: entry["step"] for key, entry in opt.state_dict()["state"].items()}
    assert (opt.steps, counts) == (6, {"w": 3, "b": 6})


def test_a_step_of_nothing_counts_for_schedules_only():
    seen, params = [], arrays()
    opt = cyopt.Adam(params, lr=lambda steps: seen.append(steps) or 0.5)
    seen.clear()
    assert opt.step({"w": None, "b": None}) is True
    assert opt.step({"w": None, "b": None}) is True
    assert (opt.steps, seen) == (2, [0, 1])
    assert [e["step"] for e in opt.state_dict()["state"].values()] == [0, 0]
    assert np.array_equal(params["w"], arrays()["w"])


def test_hyperparameters_read_and_write():
    opt = cyopt.SGD(w := np.ones(1), lr=1)
    assert opt.lr == 1
    opt.lr = np.float32(0.5)
    opt.step(np.ones(1))
    opt.lr = 0.25
    opt.step(np.ones(1))
    assert (opt.lr, opt.groups[0].lr, w[0]) == (0.25, 0.25, 0.25)


# --- the container is the truth -------------------------------------------------------------------


@pytest.mark.parametrize("cls", cyopt.ALL)
def test_rebound_array_is_followed_by_its_name(cls):
    model = Model(cls, 2)
    old, copy = model.params["w"], model.params["w"].copy()
    model.params["w"] = model.originals[0] = copy
    before = old.copy()
    model.step()
    assert np.array_equal(old, before)
    model.params["w"] = copy[:]  # a new object over the same memory, as thinc's
    model.step()


def test_rebound_containers_are_followed():
    params = {"layer": {"w": np.ones(2)}, "out": [np.ones(2)]}
    opt, old = cyopt.SGD(params, lr=1.0), params["layer"]
    params["layer"], params["out"][0] = {"w": np.ones(2)}, np.full(2, 5.0)
    opt.step({"layer": {"w": np.ones(2)}, "out": [np.ones(2)]})
    assert (old["w"][0], params["layer"]["w"][0], params["out"][0][0]) == (1, 0, 4)


def test_rebound_params_of_a_group_are_followed():
    group, old = {"params": np.ones(2)}, np.ones(2)
    group["params"] = old
    opt = cyopt.SGD([group], lr=1.0)
    group["params"] = old.copy()
    opt.step([np.ones(2)])
    assert (old[0], group["params"][0]) == (1, 0)


# --- other libraries ---------------------------------------------------------------------


def test_a_foreign_gradient_is_read():
    model = Model(cyopt.Adam, 0)
    for steps in range(3):
        given = read_only if NUMPY >= (2, 2) else np.copy  # older NumPy exports writable ones only
        model.opt.step({k: Foreign(given(g)) for k, g in model.grads.items()})
        model.twin.step(model.grads)
        assert np.array_equal(model.params["w"], model.twin_params["w"]), steps


@pytest.mark.skipif(NUMPY < (2, 2), reason="older NumPy takes DLPack arrays read-only")
def test_a_foreign_parameter_is_exported_again_at_each_step():
    model = Model(cyopt.Adam, 0)
    foreign = Foreign(model.params["w"])
    model.params["w"] = foreign
    for _ in range(3):
        foreign.array = foreign.array.copy()  # another library may replace its storage
        model.opt.step(model.grads)
        model.twin.step(model.grads)
        assert np.array_equal(foreign.array, model.twin_params["w"])


class Copying:
    """An exporter that copies unless it is asked not to, as the protocol allows."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, *, copy=None, **options):
        return (self.array if copy is False else self.array.copy()).__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.2.0", reason="needs NumPy 2.2")
def test_a_foreign_parameter_is_asked_for_without_a_copy():
    w = ones(3)
    cyopt.SGD([Copying(w)], lr=1.0).step([ones(3)])
    assert not w.any()


def test_ways_of_use_are_not_mixed():
    w, g = np.ones(2), np.ones(2)
    bound, unbound, keyed = cyopt.SGD([w]), cyopt.SGD(), cyopt.SGD()
    keyed.update("w", w, g)
    unbound.step([g], [w])
    before = w.copy()
    for call, cure in [
        (lambda: bound.step([g], [w]), r"step\(grads\)"),
        (lambda: unbound.step([g]), r"step\(grads, params\)"),
        (lambda: bound.update("w", w, g), "update"),
        (lambda: unbound.update("w", w, g), "update"),
        (lambda: keyed.step([g], [w]), "update"),
        (lambda: keyed.update("w", w, None), "do not call"),
        (lambda: keyed.update(None, w, g), "key"),
        (lambda: keyed.add_group({"params": w}), "params"),
    ]:
        with pytest.raises(TypeError, match=cure):
            call()
    assert np.array_equal(w, before)
    assert (bound.steps, unbound.steps, keyed.steps) == (0, 1, 1)


def test_the_base_class_is_refused_as_an_optimizer():
    with pytest.raises(TypeError, match=r"no rule; use a class such as cyopt\.Adam"):
        cyopt.Optimizer([np.ones(1)], {})
