"""A step like the last one takes one compiled call; whatever differs is validated in full."""

import collections
import sys
import weakref

import numpy as np
import pytest
from same_bits import same_bits

import cyopt
from cyopt.optimizer import Optimizer


@pytest.fixture
def validated(monkeypatch):
    """The steps that were validated in full, as a list that grows."""
    seen = []
    for name in ("_step", "_update"):
        whole = getattr(Optimizer, name)

        def noted(self, *args, whole=whole):
            seen.append(args)
            return whole(self, *args)

        monkeypatch.setattr(Optimizer, name, noted)
    return seen


def tree(seed=0, dtype="float32"):
    rng = np.random.default_rng(seed)
    return {
        "w": rng.standard_normal((3, 5)).astype(dtype),
        "layers": [rng.standard_normal(7).astype(dtype), (rng.standard_normal(2).astype(dtype),)],
    }


def leaves(t):
    return [t["w"], t["layers"][0], t["layers"][1][0]]


def transposed(t):
    return {**t, "w": np.asfortranarray(t["w"])}


def without_w(t):
    return {**t, "w": None}


def reversed_views(t):
    return {**t, "layers": [t["layers"][0][::-1], t["layers"][1]]}


def read_only(t):
    t["w"].flags.writeable = False
    return t


ALIKE = [lambda t: t, transposed, without_w, reversed_views, read_only]


@pytest.mark.parametrize("change", ALIKE, ids=lambda f: f.__name__)
@pytest.mark.parametrize("bound", [True, False])
def test_other_gradients_take_the_fast_path(validated, bound, change):
    params, expected = tree(), tree()
    opt = cyopt.Adam(params if bound else None, lr=0.1)
    ref = cyopt.reference.attach(cyopt.Adam(expected, lr=0.1))
    for step in range(4):
        grads = change(tree(1 + step))
        opt.step(grads, *([] if bound else [params]))
        ref.step(grads)
    ours = [args for args in validated if args[0] is params or (bound and args[0] is opt._tree())]
    assert len(ours) == 1
    assert all(map(same_bits, leaves(params), leaves(expected)))


def test_groups_and_keys_take_the_fast_path(validated):
    params, grads = tree(), tree(1)
    opt = cyopt.SGD([{"params": params["w"]}, {"params": params["layers"], "lr": 0.2}], lr=0.1)
    keyed = cyopt.Adam()
    for _ in range(3):
        opt.step([grads["w"], grads["layers"]])
        keyed.update("w", params["w"], grads["w"])
        keyed.update(1, params["layers"][0], grads["layers"][0])
    assert len(validated) == 3


def changed(name, at):
    """Set a hyperparameter after some steps, in both optimizers."""

    def change(opt, step):
        if step == at:
            setattr(opt, name, {"lr": 0.5, "betas": (0.5, 0.75), "eps": 1e-3}[name])

    change.__name__ = name
    return change


def scheduled(opt, step):
    if step == 1:
        opt.lr = lambda t: 0.1 / (1 + t)
    if step == 4:
        opt.lr = 0.25


def loaded(opt, step):
    if step == 2:
        opt.load_state_dict({**opt.state_dict(), "steps": 7})


CHANGES = [*(changed(name, 2) for name in ("lr", "betas", "eps")), scheduled, loaded]


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_a_change_between_two_steps_counts(change):
    params, expected = tree(), tree()
    opt = cyopt.Adam(params, lr=0.1)
    ref = cyopt.reference.attach(cyopt.Adam(expected, lr=0.1))
    for step in range(6):
        for optimizer in (opt, ref):
            change(optimizer, step)
            optimizer.step(tree(1 + step))
    assert all(map(same_bits, leaves(params), leaves(expected)))
    assert opt.steps == ref.steps


def shrink(params, grads):
    params["w"] = params["w"][:2]


def reshape(params, grads):
    grads["w"].shape = (5, 3)


def freeze(params, grads):
    params["w"].flags.writeable = False


def swap(params, grads):
    grads["w"] = grads["w"].astype(grads["w"].dtype.newbyteorder())


def widen(params, grads):
    grads["w"] = grads["w"].astype("float64")


def unalign(params, grads):
    raw = np.zeros(grads["w"].nbytes + 1, np.uint8)
    grads["w"] = raw[1:].view("float32").reshape(3, 5)


def overlap_parameter(params, grads):
    grads["w"] = params["w"]


def overlap_other(params, grads):
    memory = np.zeros(20, "float32")
    params["layers"][0] = memory[:7]
    grads["w"] = memory[5:].reshape(3, 5)


def subclass(params, grads):
    grads["w"] = np.ma.masked_array(grads["w"])


def other_list(params, grads):
    grads["layers"].append(np.zeros(2, "float32"))


def other_key(params, grads):
    grads["v"] = grads.pop("w")


def extra_key(params, grads):
    params["v"] = params["w"]


def leaf_becomes_list(params, grads):
    grads["w"] = [grads["w"]]


def scalar(params, grads):
    grads["w"] = 0.0


REFUSED = [
    shrink,
    reshape,
    freeze,
    swap,
    widen,
    unalign,
    overlap_parameter,
    overlap_other,
    subclass,
    other_list,
    other_key,
    extra_key,
    leaf_becomes_list,
    scalar,
]


@pytest.mark.filterwarnings("ignore:Setting the shape:DeprecationWarning")
@pytest.mark.parametrize("spoil", REFUSED, ids=lambda f: f.__name__)
def test_what_is_refused_in_a_first_step_is_refused_in_a_later_one(spoil):
    params, grads = tree(), tree(1)
    opt = cyopt.Adam(params)
    for _ in range(2):
        opt.step(grads)
    spoil(params, grads)
    before = [leaf.copy() for leaf in leaves(params)] if "w" in params else []
    state = opt.state_dict()
    with pytest.raises((TypeError, ValueError)):
        opt.step(grads)
    assert opt.steps == 2
    if before:
        assert all(map(same_bits, leaves(params), before))
    for name, entry in opt.state_dict()["state"].items():
        assert same_bits(entry["exp_avg"], state["state"][name]["exp_avg"])
        assert entry["step"] == 2


def test_a_rebound_parameter_is_followed(validated):
    params, grads = tree(), tree(1)
    opt = cyopt.SGD(params, lr=1.0)
    opt.step(grads)
    old, params["w"] = params["w"], np.zeros((3, 5), "float32")
    kept = old.copy()
    opt.step(grads)
    assert same_bits(old, kept)
    assert same_bits(params["w"], -grads["w"])
    assert len(validated) == 2


def test_other_mappings_take_the_slow_path(validated):
    params = {"w": np.ones(3)}
    opt = cyopt.SGD(params, lr=1.0)
    for _ in range(3):
        opt.step(collections.OrderedDict(w=np.ones(3)))
    assert len(validated) == 3
    assert same_bits(params["w"], np.full(3, -2.0))


@pytest.mark.parametrize("view", [lambda a: a, np.transpose])
def test_a_gradient_is_not_kept(view):
    opt = cyopt.SGD([np.zeros((64, 64))], lr=1.0)
    for _ in range(3):
        grads = [view(np.ones((64, 64)))]
        opt.step(grads)
        seen = weakref.ref(grads[0])
        del grads
        assert seen() is None


WRONG = [
    ({"a": 1, "b": {}}, [{"a": 1, "c": {}}, {"a": 1, "b": 5}, {"a": 1, "b": {"x": 1}}, {"a": 1}]),
    ([1, ()], [[1, None], [1, (1,)], [1, {}], [1]]),
    ({}, [5, None, [], {"x": 1}]),
]


def filled(form):
    """A tree in which a vector stands for each 1."""
    if isinstance(form, dict):
        return {key: filled(child) for key, child in form.items()}
    if isinstance(form, list | tuple):
        return type(form)(map(filled, form))
    return np.ones(3) if form == 1 else form


@pytest.mark.parametrize(("form", "wrong"), WRONG, ids=str)
def test_empty_containers_are_checked(form, wrong):
    opt = cyopt.SGD(filled(form), lr=0.1)
    for _ in range(2):
        opt.step(filled(form))
    for other in wrong:
        with pytest.raises((TypeError, ValueError)):
            opt.step(filled(other))
    opt.step(filled(form))


def test_parameters_put_into_an_empty_group_are_noticed():
    groups = [{"params": [np.ones(3)]}, {"params": []}]
    opt = cyopt.SGD(groups, lr=0.1)
    for _ in range(2):
        opt.step([[np.ones(3)], []])
    groups[1]["params"].append(np.ones(2))
    with pytest.raises(ValueError, match="has 1 entries; expected 0"):
        opt.step([[np.ones(3)], [np.ones(2)]])


def test_the_next_step_uses_the_number_that_is_read_after_an_interrupt():
    """Wherever the interrupt comes while it is set."""
    w = np.zeros(1)
    opt = cyopt.SGD([w], lr=1.0)
    opt.step([np.ones(1)])

    interrupted = False

    def interrupt(frame, event, _):
        nonlocal interrupted
        if frame.f_code.co_name == "update" and opt.groups[0]._values["lr"] == 0.5:
            interrupted = True
            raise KeyboardInterrupt
        return interrupt

    before = sys.gettrace()
    sys.settrace(interrupt)
    try:
        opt.lr = 0.5
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    assert interrupted
    w[:] = 0
    opt.step([np.ones(1)])
    assert -w[0] == opt.lr


@pytest.mark.parametrize("cast", [False, True])
def test_a_wider_gradient_where_the_last_one_lay_is_noticed(cast):
    memory = np.linspace(-1.0, 1.0, 8)
    narrow = memory.view(np.float32)[:8]
    param = np.ones(8, np.float32)
    opt = cyopt.SGD([param], lr=0.5, cast_grads=cast)
    opt.step([narrow])
    before = param.copy()
    if not cast:
        with pytest.raises(TypeError, match="float64"):
            opt.step([memory])
        assert np.array_equal(param, before)
    else:
        opt.step([memory])
        assert np.array_equal(param, before - np.float32(0.5) * memory.astype(np.float32))
