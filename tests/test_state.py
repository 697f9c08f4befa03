"""state_dict, load_state_dict, repr, info: what is kept, what is loaded, what is said."""

import copy
import pickle
import re

import numpy as np
import pytest
from models import arrays, go_on_alike, grads_at, ones, train
from same_bits import same_optimizers
from variants import FORMULAS, VARIANTS, name

import cyopt

every_formula = pytest.mark.parametrize("variant", FORMULAS, ids=name)
PLAIN = (int, float, bool, str, type(None))


# --- what a state_dict holds ----------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS, ids=name)
def test_state_dict_is_plain(variant):
    cls, hypers = variant
    params = arrays()
    saved = cls(params, **hypers)
    train(saved, params)
    saved = saved.state_dict()
    assert saved["optimizer"] == cls.__name__
    assert saved["steps"] == 4
    for group in saved["groups"]:
        for value in group.values():
            assert all(type(x) in PLAIN for x in (value if isinstance(value, tuple) else (value,)))
    for key, entry in saved["state"].items():
        assert type(entry.pop("step")) is int
        assert all(type(a) is np.ndarray and a.dtype == params[key].dtype for a in entry.values())
    assert pickle.loads(pickle.dumps(saved))["steps"] == 4


def test_state_dict_is_a_copy_and_so_is_what_is_loaded():
    params, others, waiting = arrays(), arrays(), arrays()
    opt, other, unbound = cyopt.Adam(params), cyopt.Adam(others), cyopt.Adam()
    train(opt, params)
    saved = opt.state_dict()
    other.load_state_dict(saved)
    unbound.load_state_dict(saved)
    for entry in saved["state"].values():
        for key in ("exp_avg", "exp_avg_sq"):
            entry[key][...] = np.nan
        entry["step"] = 100
    same_optimizers(opt, other)
    unbound.step(arrays(), waiting)
    opt.step(arrays())
    same_optimizers(opt, unbound)


def test_state_is_a_read_only_mapping_of_the_arrays_in_use():
    opt = cyopt.Adam(params := arrays())
    exp_avg = opt.state["w"]["exp_avg"]
    train(opt, params)
    assert np.shares_memory(opt.state["w"]["exp_avg"], exp_avg)
    assert exp_avg.any()
    assert (len(opt.state), list(opt.state["w"])) == (2, ["exp_avg", "exp_avg_sq"])
    with pytest.raises(TypeError):
        opt.state["w"] = {}
    with pytest.raises(TypeError):
        opt.state["w"]["exp_avg"] = exp_avg
    with pytest.raises(KeyError, match="no parameter 'weight'"):
        opt.state["weight"]
    assert "exp_avg" in repr(opt.state)


def test_a_state_array_keeps_its_size_and_shape():
    w = ones(1 << 10)
    opt = cyopt.Adam({"w": w})
    with pytest.raises(ValueError, match="own"):
        opt.state["w"]["exp_avg"].resize((1,))
    opt.state["w"]["exp_avg"].shape = (2, 512)
    opt.state["w"]["exp_avg"].flags.writeable = False
    opt.step({"w": ones(1 << 10)})
    assert opt.state["w"]["exp_avg"].shape == w.shape
    opt.load_state_dict(opt.state_dict())


# --- resume ---------------------------------------------------------------------------------------


@every_formula
@pytest.mark.parametrize("order", ["C", "F"])
def test_resume(variant, order):
    """State is copied by index, whatever the order of its elements in memory."""
    cls, hypers = variant
    params = arrays()
    opt = cls(params, **hypers)
    train(opt, params)
    others = {key: np.array(param, order=order) for key, param in params.items()}
    other = cls(others, **hypers)
    other.load_state_dict(opt.state_dict())
    go_on_alike(opt, params, other, others)


def test_resume_of_hyperparameters_groups_and_counters():
    def groups(params):
        return [{"params": params["w"], "lr": 0.5}, {"params": {"b": params["b"]}}]

    params, others = arrays(), arrays()
    opt, other = cyopt.Adam(groups(params)), cyopt.Adam(groups(others))
    opt.groups[1].update({"lr": 0.25, "betas": (0.5, 0.75), "eps": 1e-3})
    opt.step([params["w"] * 2, {"b": None}])
    others["w"][...] = params["w"]
    other.load_state_dict(opt.state_dict())
    assert repr(other) == repr(opt)
    for one, own in ((opt, params), (other, others)):
        one.step([np.ones_like(own["w"]), {"b": np.ones_like(own["b"])}])
    assert np.array_equal(params["b"], others["b"])
    same_optimizers(opt, other)


@pytest.mark.parametrize("saves", ["bound", "unbound", "keyed"])
@pytest.mark.parametrize("loads", ["bound", "unbound", "keyed"])
def test_resume_in_another_way_of_use(saves, loads):
    def steps(way, opt, params, n):
        for step in range(n):
            grads = grads_at(step, params)
            if way == "keyed":
                for key, param in params.items():
                    opt.update(key, param, grads[key])
            else:
                opt.step(grads, *([params] if way == "unbound" else []))

    params = arrays()
    opt = cyopt.Adam(params if saves == "bound" else None)
    steps(saves, opt, params, 3)
    others = copy.deepcopy(params)
    other = cyopt.Adam(others if loads == "bound" else None)
    other.load_state_dict(opt.state_dict())
    same_optimizers(opt, other)  # also while the state waits for its parameters
    steps(saves, opt, params, 2)
    steps(loads, other, others, 2)
    assert np.array_equal(params["w"], others["w"])
    same_optimizers(opt, other)


def test_resume_with_schedules():
    schedule = cyopt.schedules.exponential(0.1, 0.5)
    params = arrays()
    opt = cyopt.Adam(params, lr=schedule, betas=(schedule, 0.5))
    train(opt, params)
    saved = opt.state_dict()
    assert not any(callable(value) for value in saved["groups"][0].values())
    others = copy.deepcopy(params)
    other = cyopt.Adam(others, lr=schedule, betas=(schedule, 0.9))
    other.load_state_dict(saved)
    go_on_alike(opt, params, other, others)
    for hypers in ({}, {"lr": schedule}, {"betas": (schedule, 0.9)}):
        with pytest.raises(ValueError, match="schedules are not saved"):
            cyopt.Adam(arrays(), **hypers).load_state_dict(saved)


def test_an_optimizers_own_arrays_can_be_loaded_exchanged():
    params = {"a": ones(2), "b": ones(2)}
    opt = cyopt.Momentum(params)
    opt.step({"a": 1 * ones(2), "b": 7 * ones(2)})
    saved = opt.state_dict()
    live = {name: dict(opt.state[name], step=1) for name in "ab"}
    saved["state"] = {"a": live["b"], "b": live["a"]}
    opt.load_state_dict(saved)
    assert [opt.state[name]["momentum_buffer"][0] for name in "ab"] == [7, 1]


# --- what is not loaded ---------------------------------------------------------------------------


def spoiled(**changes):
    """An edit of a good state_dict: path -> value, with `...` to delete."""

    def edit(saved):
        for path, value in changes.items():
            *where, last = path.split("__")
            at = saved
            for key in where:
                at = at[int(key) if key.isdigit() else key]
            if value is ...:
                del at[last]
            else:
                at[last] = value(at.get(last)) if callable(value) else value
        return saved

    return edit


UNFIT = {
    "nothing": (lambda saved: {}, "state_dict"),
    "other class": (spoiled(optimizer="SGD"), "of SGD; this optimizer is Adam"),
    "steps": (spoiled(steps=-1), "steps"),
    "steps as float": (spoiled(steps=2.0), "steps"),
    "groups": (lambda saved: {**saved, "groups": saved["groups"][:1]}, "1 groups.*has 2"),
    "unknown hyper": (spoiled(groups__0__colour=1), "colour"),
    "missing hyper": (spoiled(groups__0__eps=...), "eps"),
    "formula": (spoiled(groups__0__amsgrad=True), "amsgrad"),
    "out of range": (spoiled(groups__1__lr=-1.0), "lr"),
    "not a number": (spoiled(groups__1__eps="1"), "eps"),
    "missing name": (spoiled(**{"state__1.w": ...}), r"1\.w"),
    "extra name": (spoiled(state__z={}), "'z'"),
    "missing array": (spoiled(**{"state__1.w__exp_avg": ...}), "exp_avg"),
    "extra array": (spoiled(**{"state__1.w__sum": 0}), "sum"),
    "shape": (spoiled(**{"state__1.w__exp_avg": lambda a: a.T}), "shape"),
    "dtype": (spoiled(**{"state__1.w__exp_avg": lambda a: a.astype("f8")}), "float64"),
    "list": (spoiled(**{"state__1.w__exp_avg": lambda a: a.tolist()}), "ndarray"),
    "count": (spoiled(**{"state__1.w__step": 1.5}), "step"),
    "large count": (spoiled(**{"state__1.w__step": 2**70}), "step"),
}


@pytest.mark.parametrize(("edit", "message"), UNFIT.values(), ids=UNFIT)
def test_unfit_state_dict_changes_nothing(edit, message):
    def opt_of(params):
        return cyopt.Adam([{"params": {"b": params["b"]}}, {"params": {"w": params["w"]}}])

    def step(opt, grads):
        opt.step([{"b": grads["b"]}, {"w": grads["w"]}])

    params, others = arrays(), arrays()
    opt, other = opt_of(params), opt_of(others)
    for _ in range(3):
        step(other, arrays())
    other.groups[0].lr = 0.5
    saved = edit(other.state_dict())
    before, report = opt.state_dict(), repr(opt)
    with pytest.raises((ValueError, TypeError), match=message):
        opt.load_state_dict(saved)
    assert repr(opt) == report
    assert repr(opt.state_dict()) == repr(before)
    twin = opt_of(twin_params := arrays())
    step(opt, arrays())
    step(twin, arrays())
    assert np.array_equal(params["w"], twin_params["w"])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda saved: saved.update(groups=5),
        lambda saved: saved.update(groups=[5]),
        lambda saved: saved.update(state=None),
        lambda saved: saved.update(state={"w": 3}),
        lambda saved: saved["groups"][0].update(lr=np.ones(2)),
        lambda saved: saved["state"]["w"].update(exp_avg=np.ma.masked_array(ones(2))),
    ],
)
def test_an_error_of_an_odd_state_dict_names_state_dict(spoil):
    opt = cyopt.Adam({"w": ones(2)})
    saved = opt.state_dict()
    spoil(saved)
    with pytest.raises((TypeError, ValueError), match="state_dict"):
        opt.load_state_dict(saved)


def test_a_schedule_in_a_state_dict_is_refused():
    opt = cyopt.SGD([np.ones(2)])
    state = opt.state_dict()
    state["groups"][0]["lr"] = lambda steps: 0.5
    with pytest.raises(ValueError, match="schedules are not saved"):
        opt.load_state_dict(state)
    assert opt.lr == 1e-3


def test_a_class_name_that_is_an_array_is_refused():
    opt = cyopt.SGD([np.ones(1)])
    with pytest.raises(ValueError, match="state_dict is not what"):
        opt.load_state_dict({**opt.state_dict(), "optimizer": np.array(["SGD", "SGD"])})


def test_loaded_state_must_find_its_parameters():
    """An unbound optimizer with other names would begin again without saying so."""
    params = arrays()
    train(opt := cyopt.Adam(params), params)
    other = cyopt.Adam()
    other.load_state_dict(opt.state_dict())
    with pytest.raises(ValueError, match="'w'"):
        other.step({"weight": None, "b": None}, {"weight": params["w"], "b": params["b"]})
    other.step(arrays(), params)
    with pytest.raises(ValueError, match="shape"):
        keyed = cyopt.Adam()
        keyed.load_state_dict(opt.state_dict())
        keyed.update("w", np.ones(7, np.float32), np.ones(7, np.float32))


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"step": -1},
        {"step": "3"},
        {"step": 1, "exp_avg": np.ones(2)},
        {"step": 1, "exp_avg": np.ones(2), "exp_avg_sq": np.ones(3)},
        {"step": 1, "exp_avg": np.ones(2), "exp_avg_sq": np.ones(2, np.float32)},
        {"step": 1, "exp_avg": np.ones(2, int), "exp_avg_sq": np.ones(2, int)},
        {"step": 1, "exp_avg": np.ones(2), "exp_avg_sq": np.ones(2), "average": np.ones(2)},
    ],
    ids=str,
)
def test_state_that_waits_is_refused_where_it_fits_no_parameter(broken):
    opt = cyopt.Adam(lr=0.5)
    saved = {**cyopt.Adam(lr=0.25).state_dict(), "state": {"w": broken}}
    with pytest.raises((TypeError, ValueError), match="'w'"):
        opt.load_state_dict(saved)
    assert opt.lr == 0.5
    assert not opt.state_dict()["state"]


# --- what is said ---------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS, ids=name)
def test_repr_says_everything(variant):
    cls, hypers = variant
    opt = cls(arrays(), **hypers)
    text = repr(opt)
    for key, value in opt.groups[0].values().items():
        assert f"{key}={value!r}" in text
    for said in (cls.__name__, "steps=0", "2 arrays", "9 numbers"):
        assert said in text
    opt.step(arrays())
    opt.lr = 0.125
    assert "steps=1" in repr(opt)
    assert "lr=0.125" in repr(opt)


def test_info_says_what_is_set():
    text = str(cyopt.info())
    lines = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in text.splitlines())
    for key in ("cyopt", "ISA", "threads", "compiler", "subnormals", "CUDA", "NumPy", "Python"):
        assert lines[key], key
    assert lines["cyopt"] == cyopt.__version__
    assert cyopt.get_isa() in lines["ISA"]
    cyopt.set_subnormals("keep")
    cyopt.set_isa("base")
    assert str(cyopt.info()) != text
    assert cyopt.info()["subnormals"] == "keep"


@pytest.mark.parametrize(
    ("call", "error", "cure"),
    [
        (lambda: cyopt.set_isa("sse9"), ValueError, "this build has.*base"),
        (lambda: cyopt.set_subnormals("keeps"), ValueError, "'flush' or 'keep'"),
        (lambda: cyopt.set_num_threads(0), ValueError, "at least 1"),
        (lambda: cyopt.set_num_threads("2"), TypeError, "integer"),
        (lambda: cyopt.RMSprop, AttributeError, "cyopt.RMSProp"),
        (lambda: cyopt.Adagrad, AttributeError, "cyopt.AdaGrad"),
        (lambda: cyopt.Sgd, AttributeError, "cyopt.SGD"),
        (lambda: cyopt.Lion, AttributeError, "no attribute 'Lion'"),
    ],
)
def test_unknown_names_and_settings_are_answered_with_known_ones(call, error, cure):
    with pytest.raises(error, match=cure):
        call()
