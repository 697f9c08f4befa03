"""Faults that later readers found by attacking cyopt, each held by a test."""

import copy
import os
import pickle
import shutil
import signal
import stat
import subprocess
import sys
import threading
import timeit
import zipfile

import numpy as np
import pytest
from same_bits import same_bits

import cyopt
from cyopt import _cpu, rules
from cyopt.cgroup import _read


@pytest.mark.parametrize("name", ["lr", "ema"])
def test_an_empty_tuple_is_not_any_number(name):
    """The key of a call had it in the place of the number that may change."""
    w, g, a = np.ones(3), np.ones(3), np.ones(3)
    numbers = {"lr": 0.1} if name == "lr" else {"lr": 0.1, "ema": 0.5, "average": a}
    cyopt.sgd_(w, g, step=1, **numbers)
    before = w.copy()
    with pytest.raises(TypeError, match=rf"{name} is \(\)"):
        cyopt.sgd_(w, g, step=2, **{**numbers, name: ()})
    assert np.array_equal(w, before)


def test_a_new_key_begins_its_own_schedule():
    def made():
        return cyopt.SGD(lr=lambda t: [0.1, 0.2][t], momentum=0.9)

    opt, ones = made(), np.ones(1)
    for key in "aab":
        opt.update(key, np.ones(1), ones)
    other = made()
    other.load_state_dict(opt.state_dict())
    assert np.array_equal(other.update("b", np.ones(1), ones), opt.update("b", np.ones(1), ones))
    with pytest.raises(IndexError):  # the schedule's own, at the third step of this key
        opt.update("b", np.ones(1), ones)
    assert opt.state_dict()["state"]["b"]["step"] == 2


@pytest.mark.parametrize(
    ("framework", "own", "message"),
    [
        ("optax", {"amsgrad": True}, "exactly"),
        ("keras", {"ema": 0.99}, "after the first step"),
        ("thinc", {"decoupled_weight_decay": False, "weight_decay_order": "before"}, "clips"),
    ],
)
def test_like_refuses_the_same_in_groups(framework, own, message):
    group = {"params": [np.ones(2)], **own}
    with pytest.raises(ValueError, match=message):
        cyopt.Adam.like(framework, [group], lr=0.1)
    opt = cyopt.Adam.like(framework, [np.ones(2)], lr=0.1)
    for same in (opt, copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        with pytest.raises(ValueError, match=message):
            same.add_group(group)
    assert len(opt.groups) == 1


@pytest.mark.parametrize("number", [np.float32(0.99), np.float64(0.99), 1])
def test_like_refuses_a_number_of_any_type(number):
    with pytest.raises(ValueError, match="after the first step"):
        cyopt.Adam.like("keras", [np.ones(2)], ema=number)
    with pytest.raises(ValueError, match=r"your schedule\(steps\) if steps else 0"):
        cyopt.Adam.like("keras", [np.ones(2)], ema=cyopt.schedules.constant(0.99))
    cyopt.Adam.like("keras", [np.ones(2)], ema=lambda steps: 0.99 if steps else 0.0)


@pytest.mark.parametrize(
    "together", [{"weight_decay_order": "after"}, {"bias_correction": False, "eps_hat": True}]
)
def test_what_contradicts_itself_is_refused_with_groups_too(together):
    for params in ([np.ones(2)], [{"params": [np.ones(2)]}]):
        with pytest.raises(ValueError, match=r"weight_decay_order is|eps_hat is"):
            cyopt.Adam(params, **together)


@pytest.mark.parametrize(
    ("framework", "own"),
    [("keras", {"bias_correction": False}), ("thinc", {"decoupled_weight_decay": False})],
)
def test_a_group_turns_off_what_a_framework_has_on(framework, own):
    """What belongs to it goes with it: a group is made as an optimizer is."""
    alone = {"clip_norm": None, **own} if framework == "thinc" else own
    opt = cyopt.Adam.like(framework, [{"params": [np.ones(2)], **alone}])
    assert (
        opt.groups[0].values()
        == cyopt.Adam.like(framework, [np.ones(2)], **alone).groups[0].values()
    )


def test_like_knows_numpys_false():
    coupled = {"decoupled_weight_decay": np.False_}
    with pytest.raises(ValueError, match="before it clips"):
        cyopt.Adam.like("thinc", [np.ones(2)], **coupled)
    assert cyopt.Adam.like("thinc", clip_norm=None, **coupled).weight_decay_order == "before"


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs setitimer")
def test_an_interrupt_leaves_all_of_out_or_nothing():
    class InterruptError(Exception):
        pass

    def interrupt(*args):
        raise InterruptError

    rng = np.random.default_rng(0)
    params, grads = ([np.full(3, float(x)) for _ in range(200)] for x in (0, 1))
    seconds = timeit.repeat(lambda: cyopt.sgd(params, grads, lr=1.0, out=params), number=1)[-1]
    old = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(600):
            try:
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.8, 1.8) * seconds)
                while True:
                    cyopt.sgd(params, grads, lr=1.0, out=params)
            except InterruptError:
                assert len({float(p[0]) for p in params}) == 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def test_out_of_any_strides_takes_the_result():
    memory = np.zeros((2, 6))
    out = memory[:, ::-2]
    assert cyopt.sgd(np.ones((2, 3)), np.ones((2, 3)), lr=0.25, out=out) is out
    assert (out == 0.75).all()
    assert memory.sum() == 6 * 0.75


def test_a_permuted_parameter_gives_a_dense_result():
    p = np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2)
    m, v = np.zeros((3, 2, 4)), np.zeros((3, 2, 4))
    new = cyopt.adam(p, np.ones(p.shape), m, v, step=1, lr=0.5)
    assert new.flags.c_contiguous
    assert np.allclose(new, p - 0.5, rtol=1e-6)


def test_the_reference_does_not_raise_after_it_has_written():
    params = [np.full(1, 1.2e154), np.full(1, 1.2e154)]
    opt = cyopt.reference.attach(cyopt.Momentum(params, lr=1e-3))
    with np.errstate(all="raise"):
        assert opt.step([np.full(1, 1e153)] * 2, norms=True)
    assert opt.param_norm == np.inf
    assert opt.steps == 1


def test_a_group_is_checked_for_its_own_dtypes():
    wide, narrow = {"params": [np.ones(2)]}, {"params": [np.ones(2, np.float32)]}
    opt = cyopt.Adam([{**wide, "eps": 1e-50}, narrow])
    assert opt.step([[np.ones(2)], [np.ones(2, np.float32)]])
    with pytest.raises(ValueError, match="eps is 1e-50, which float32"):
        cyopt.Adam([wide, {**narrow, "eps": 1e-50}])
    cyopt.AdaGrad([{**wide, "initial_accumulator_value": 1e200}, narrow])


@pytest.mark.parametrize("value", [1e-50, 1e-40, 1e39])
def test_a_starting_value_keeps_its_meaning(value):
    with pytest.raises(ValueError, match=r"initial_accumulator_value.*beyond the range of float32"):
        cyopt.AdaGrad([np.ones(1, np.float32)], initial_accumulator_value=value)
    cyopt.AdaGrad([np.ones(1)], initial_accumulator_value=value)


def test_a_small_stack_is_enough():
    """Of a thread; two tiles of 32 KiB were on it."""
    code = """
import threading, numpy as np, cyopt
def run():
    p = [np.ones((130, 70), np.float32)]
    opt = cyopt.Adam(p, cast_grads=True, clip_norm=1.0, ema=0.5)
    opt.step([np.ones((70, 260)).T[::2]], norms=True)
threading.stack_size(64 * 1024)
thread = threading.Thread(target=run)
thread.start(); thread.join()
print("stepped")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "stepped\n", (done.returncode, done.stderr)


def test_numbers_that_two_threads_set_are_both_set():
    group, stop = cyopt.Adam().groups[0], threading.Event()

    def other():
        while not stop.is_set():
            group.lr = 0.5

    thread, before = threading.Thread(target=other), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        for i in range(3000):
            group.weight_decay = float(i)
            assert group.weight_decay == i
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(before)


def test_what_a_subclass_has_in_slots_is_kept():
    opt = Tagged([np.ones(2)])
    opt.tag = "mine"
    assert copy.deepcopy(opt).tag == pickle.loads(pickle.dumps(opt)).tag == "mine"
    assert not hasattr(copy.deepcopy(Tagged([np.ones(2)])), "tag")


class Tagged(cyopt.SGD):
    __slots__ = ("tag",)


def test_a_cgroup_of_any_name(tmp_path):
    (tmp_path / "cgroup").write_bytes(b"0::/caf\xe9\n")
    assert _read(str(tmp_path / "cgroup")).startswith("0::/caf")


@pytest.mark.parametrize("t", [1, 2**53 + 3, 2**61 + 1])
def test_adagrads_step_after_very_many(t):
    hyper = cyopt.AdaGrad(lr=0.1, lr_decay=1e-16).groups[0].at(0)
    assert _cpu.prepare(hyper, t) == rules.prepare(hyper, t)


def test_a_stride_of_one_element_means_nothing():
    param, grad = np.ones((3, 1, 2)), np.ones((3, 1, 4))[:, :, ::2]
    odd = np.lib.stride_tricks.as_strided(grad, strides=(32, 2**62, 16))
    assert cyopt.SGD([param], lr=0.5).step([odd])
    assert (param == 0.5).all()


def test_looking_while_another_thread_adds_keys():
    opt, stop = cyopt.SGD(), threading.Event()

    def add():
        for key in range(3000):
            opt.update(key, np.ones(1), np.ones(1))
        stop.set()

    thread = threading.Thread(target=add)
    thread.start()
    while not stop.is_set():
        assert len(opt.state) <= 3000
        repr(opt)
    thread.join()


@pytest.mark.skipif(os.name == "nt", reason="no permissions of this kind")
def test_saving_again_keeps_the_permissions(tmp_path):
    path = tmp_path / "sgd.npz"
    cyopt.save(cyopt.SGD(), path)
    path.chmod(0o600)
    cyopt.save(cyopt.SGD(lr=0.5), path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_that_grows_when_it_is_read_is_refused(tmp_path):
    path, small = tmp_path / "sgd.npz", tmp_path / "small.npz"
    cyopt.save(cyopt.SGD([np.ones(2)], momentum=0.9), path)
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(small, "w", zipfile.ZIP_DEFLATED) as new:
        for name in whole.namelist():
            new.writestr(name, whole.read(name))
    with pytest.raises(ValueError, match="compressed"):
        cyopt.load(cyopt.SGD([np.ones(2)], momentum=0.9), small)


def test_a_form_of_the_bias_correction_needs_one():
    for name in ("eps_hat", "libm_pow"):
        with pytest.raises(ValueError, match=f"{name} is True, a form of the bias correction"):
            cyopt.Adam(bias_correction=False, **{name: True})
    assert not cyopt.Adam.like("sklearn", bias_correction=False).eps_hat


def test_a_dtype_with_fields_beside_its_number_is_refused():
    both = np.dtype((np.float64, [("re", np.float64)]))
    with pytest.raises(TypeError, match="expected float32 or float64"):
        cyopt.SGD([np.zeros(2, both)])


@pytest.mark.parametrize("value", [None, 0.0, "x", 10**400])
def test_what_a_schedule_gives_is_told(value):
    opt = cyopt.SGD([np.ones(1)], clip_norm=lambda steps: value if steps else 1.0)
    opt.step([np.ones(1)])
    text = rf"clip_norm is {value!r} after 1 steps, by its schedule; expected a finite"
    with pytest.raises((TypeError, ValueError), match=text):
        opt.step([np.ones(1)])


def test_a_number_beyond_all_floats():
    for make in (cyopt.schedules.constant, lambda x: cyopt.schedules.one_cycle(x, 10)):
        with pytest.raises(ValueError, match="expected a finite number"):
            make(10**400)


def test_arguments_in_another_order():
    w = np.ones(2)
    with pytest.raises(TypeError, match=r"first argument of update\(key, param, grad\)"):
        cyopt.SGD().update(w, w, "w")


def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no/sgd\.npz"):
        cyopt.save(cyopt.SGD(), tmp_path / "no" / "sgd.npz")


def test_the_base_is_no_optimizer():
    with pytest.raises(TypeError, match=r"no rule; use a class such as cyopt\.Adam"):
        cyopt.Optimizer([np.ones(1)], {})


def test_bits_with_norms_are_those_without():
    """With norms, elements are updated chunk by chunk, now part by part in these."""
    for options in ({}, {"zero_grads": True, "ema": 0.5}, {"cast_grads": True}):
        results = []
        for norms in (False, True):
            rng = np.random.default_rng(3)
            p = rng.normal(size=(97, 131)).astype(np.float32)
            opt = cyopt.Adam([p], **options)
            for _ in range(3):
                wide = np.float64 if "cast_grads" in options else np.float32
                opt.step([rng.normal(size=(131, 97)).astype(wide).T], norms=norms)
            results.append([p, *opt.state["0"].values()])
        assert all(map(same_bits, *results))


@pytest.mark.parametrize(
    ("framework", "given", "name", "value"),
    [
        (
            "thinc",
            {"decoupled_weight_decay": False, "weight_decay": 0.1, "clip_norm": None},
            "clip_norm",
            1.0,
        ),
        ("keras", {"ema": lambda steps: 0.9 if steps else 0.0}, "ema", 0.9),
    ],
)
def test_what_a_framework_lacks_is_refused_later_too(framework, given, name, value):
    opt = cyopt.Adam.like(framework, [np.ones(2)], **given)
    state = opt.state_dict()
    for own in (opt, copy.deepcopy(opt)):
        with pytest.raises(ValueError, match=r"exactly|first step"):
            setattr(own, name, value)
    if name == "clip_norm":
        state["groups"][0][name] = value
        with pytest.raises(ValueError, match="exactly"):
            opt.load_state_dict(state)


def test_a_factor_that_grows_beyond_the_type():
    """The decay after the update multiplies it once more."""
    numbers = {"lr": 3e33, "weight_decay": 1e-28, "betas": (0.0, 0.999), "eps_hat": True}
    after = {"decoupled_weight_decay": True, "weight_decay_order": "after"}
    with pytest.raises(ValueError, match=r"weight_decay is 1e-28, which .* 9e\+38"):
        cyopt.Adam([np.zeros(1, np.float32)], **numbers, **after)
    w = np.zeros(1)
    opt = cyopt.Adam([w], **numbers, **after)
    for _ in range(155):
        opt.step([np.zeros(1)])
    assert w == 0


def test_a_key_that_holds_nan():
    opt, w = cyopt.SGD(), np.ones(2)
    for key in ((float("nan"),), (1, (float("nan"), 2))):
        with pytest.raises(TypeError, match="does not equal itself"):
            opt.update(key, w, w.copy())
    assert opt.update((1, ("a", 2.5)), w, w.copy()) is w


def test_a_callable_in_a_state_dict():
    opt = cyopt.SGD([np.ones(2)])
    state = opt.state_dict()
    state["groups"][0]["lr"] = lambda steps: 0.5
    with pytest.raises(ValueError, match="schedules are not saved"):
        opt.load_state_dict(state)
    assert opt.lr == 1e-3


def test_where_no_average_begins():
    with pytest.raises(ValueError, match=r"ema_init is 'zeros'.*ema is None"):
        cyopt.Adam(ema_init="zeros")
    groups = [{"params": [np.ones(2)], "ema": 0.5}, {"params": [np.ones(2)]}]
    first, second = cyopt.Adam(groups, ema_init="zeros").groups
    assert (first.ema_init, second.ema_init) == ("zeros", "params")


def test_a_power_that_overflows_is_a_number_too_large():
    opt = cyopt.SGD([np.ones(1)], lr=cyopt.schedules.step(1.0, factor=2.0**600, every=1))
    opt.step([np.zeros(1)])
    with pytest.raises(ValueError, match="lr is inf after 2 steps, by its schedule"):
        for _ in range(2):
            opt.step([np.zeros(1)])


def test_errors_that_named_nothing():
    if hasattr(np.dtypes, "StringDType"):  # NumPy 2
        with pytest.raises(TypeError, match="parameter '0' has dtype StringDType"):
            cyopt.SGD([np.array(["a"], np.dtypes.StringDType())])
    with pytest.raises(ValueError, match=r"framework is \[\]; known: torch"):
        cyopt.Adam.like([])
    opt = cyopt.SGD([np.ones(1)])
    with pytest.raises(ValueError, match="state_dict is not what"):
        opt.load_state_dict({**opt.state_dict(), "optimizer": np.array(["SGD", "SGD"])})


def test_names_of_other_libraries_are_known():
    for cls, name, ours in [
        (cyopt.Adam, "learning_rate", "lr"),
        (cyopt.Adam, "beta_1", "betas"),
        (cyopt.Momentum, "mu", "momentum"),
        (cyopt.RMSProp, "rho", "alpha"),
    ]:
        with pytest.raises(TypeError, match=f"no hyperparameter '{name}'; did you mean '{ours}'"):
            cls(**{name: 0.1})
    with pytest.raises(ValueError, match="did you mean 'keras'"):
        cyopt.Adam.like("tensorflow")
    with pytest.raises(AttributeError, match=r"did you mean cyopt\.adam_\?"):
        _ = cyopt.adamw_


def test_sources_that_are_not_compiled_say_so(tmp_path):
    """Python imports them from the folder it is started in, though a compiled one is installed."""
    package = tmp_path / "cyopt"
    compiled = shutil.ignore_patterns("*.so")
    shutil.copytree(os.path.dirname(cyopt.__file__), package, ignore=compiled)
    # Without site: what `pip install -e` puts there would find the compiled module.
    alone = [sys.executable, "-S", "-c", "import cyopt"]
    environment = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(alone, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert f"ImportError: cyopt is imported from its sources in {package}" in done.stderr
