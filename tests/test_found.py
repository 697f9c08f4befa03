"""Faults that were found by attacking cyopt, each held by a test."""

import copy
import pickle
import signal

import numpy as np
import pytest
from same_bits import same_bits, same_optimizers

import cyopt


def ones(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


def test_an_empty_group_wrote_behind_the_plan():
    ws, g = [ones(4) for _ in range(5)], ones(4)
    for _ in range(50):
        opt = cyopt.AdamW([{"params": ws}, {"params": [], "weight_decay": 0.0}])
        opt.step([[g] * 5, []])


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
def test_add_group_took_over_state_of_other_parameters(change):
    params = {"w": ones(2, 3), "b": ones(3)}
    opt = cyopt.Adam(params)
    opt.step({"w": ones(2, 3), "b": ones(3)})
    change(params)
    with pytest.raises(ValueError, match="param"):
        opt.add_group({"params": ones(1)})
    assert len(opt.groups) == 1
    assert list(opt.state) == ["w", "b"]


def test_add_group_swapped_the_state_of_reordered_parameters():
    params = {"a": ones(2), "b": ones(2)}
    opt = cyopt.Momentum(params)
    opt.step({"a": 1 * ones(2), "b": 5 * ones(2)})
    params["a"] = params.pop("a")
    opt.add_group({"params": ones(1)})
    assert opt.state["0.a"]["momentum_buffer"][0] == 1
    assert opt.state["0.b"]["momentum_buffer"][0] == 5


def test_a_state_array_could_be_resized_and_reshaped():
    w = ones(1 << 10)
    opt = cyopt.Adam({"w": w})
    with pytest.raises(ValueError, match="own"):
        opt.state["w"]["exp_avg"].resize((1,))
    opt.state["w"]["exp_avg"].shape = (2, 512)
    opt.state["w"]["exp_avg"].flags.writeable = False
    opt.step({"w": ones(1 << 10)})
    assert opt.state["w"]["exp_avg"].shape == w.shape
    opt.load_state_dict(opt.state_dict())


def test_the_groups_could_be_replaced():
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


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX signals")
@pytest.mark.parametrize("bound", [True, False])
def test_an_interrupt_left_parameters_and_counters_apart(bound):
    """Whenever it comes, a step has been made and counted, or not at all; the next one works."""

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for wait in np.linspace(1e-5, 2e-3, 60):
            params = {"w": np.zeros(100_000, np.float32)}
            opt = cyopt.SGD(params if bound else None, lr=1.0)
            grads = {"w": -np.ones(100_000, np.float32)}
            try:
                signal.setitimer(signal.ITIMER_REAL, wait)
                while True:
                    opt.step(grads, *([] if bound else [params]))
            except KeyboardInterrupt:
                pass
            made = int(params["w"][0])
            assert (params["w"] == made).all()
            assert opt.steps == made
            entries = opt.state_dict()["state"]
            assert all(entry["step"] == made for entry in entries.values())
            opt.step(grads, *([] if bound else [params]))
            assert opt.steps == made + 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_schedule_that_replaced_itself_was_ignored():
    w = ones(1, dtype=np.float64)
    opt = cyopt.SGD([w], lr=0.5)

    def schedule(steps):
        if steps == 1:
            opt.lr = 0.0
        return 1.0

    opt.lr = schedule
    seen = []
    for _ in range(4):
        opt.step([np.ones(1)])
        seen.append(w[0])
    assert seen == [0.0, -1.0, -1.0, -1.0]


def test_a_schedule_that_rebound_a_parameter_was_late():
    params = {"w": np.zeros(1)}
    old = params["w"]
    opt = cyopt.SGD(params, lr=lambda steps: params.update(w=np.zeros(1)) or 1.0)
    opt.step({"w": np.ones(1)})
    assert old[0] == 0
    assert params["w"][0] == -1


def test_loading_an_optimizers_own_arrays_exchanged():
    params = {"a": ones(2), "b": ones(2)}
    opt = cyopt.Momentum(params)
    opt.step({"a": 1 * ones(2), "b": 7 * ones(2)})
    saved = opt.state_dict()
    live = {name: dict(opt.state[name], step=1) for name in "ab"}
    saved["state"] = {"a": live["b"], "b": live["a"]}
    opt.load_state_dict(saved)
    assert [opt.state[name]["momentum_buffer"][0] for name in "ab"] == [7, 1]


@pytest.mark.parametrize(("like", "decay"), [("keras", {}), ("torch", {"decoupled": True})])
def test_decoupled_decay_beside_step_size_did_nothing(like, decay):
    def adam(**more):
        x, others = ones(2), [np.zeros(2, np.float32) for _ in range(3)]
        kwargs = {"decoupled_weight_decay": True} if decay else {}
        cyopt.adam_(x, *others, step_size=0.1, weight_decay=0.5, like=like, **kwargs, **more)
        return x

    with pytest.raises(TypeError, match="lr is missing"):
        adam()
    assert np.array_equal(adam(lr=0.5), [0.75, 0.75])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"params": [np.ones(2)]}, "params is given"),
        ({"betas": (lambda steps: 0.9, 0.9)}, "betas is a schedule"),
        ({"framework": "keras"}, "framework"),
        ({"step": 2**63}, "step"),
    ],
)
def test_the_functional_form_took_what_is_not_its_own(given, message):
    arrays = [np.ones(2) for _ in range(4)]
    with pytest.raises(TypeError, match=message):
        cyopt.adam_(*arrays, **{"step": 1, **given})
    assert all(same_bits(array, np.ones(2)) for array in arrays)


def test_a_container_of_copies_took_updates_into_nothing(tmp_path):
    np.savez(tmp_path / "p.npz", w=ones(3))
    with np.load(tmp_path / "p.npz") as params:
        with pytest.raises(TypeError, match=r"dict\(params\)"):
            cyopt.SGD(params)
        with pytest.raises(TypeError, match=r"dict\(params\)"):
            cyopt.SGD().step({"w": ones(3)}, params)


class Copying:
    """An exporter that copies unless it is told not to, as the protocol allows."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, *, copy=None, **options):
        return (self.array if copy is False else self.array.copy()).__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.2.0", reason="needs NumPy 2.2")
def test_an_exporter_that_copies_took_updates_into_nothing():
    w = ones(3)
    cyopt.SGD([Copying(w)], lr=1.0).step([ones(3)])
    assert not w.any()


def test_the_epsilon_hat_factor_grew_beyond_float32():
    with pytest.raises(ValueError, match=r"lr.*float32"):
        cyopt.Adam.like("keras", [ones(2)], lr=1e39, betas=(0.0, 0.9999))


class Mine(cyopt.Adam):
    pass


def test_subclasses_lost_their_attributes_and_conventions():
    opt = Mine.like("keras", [ones(2)])
    opt.tag = "mine"
    assert opt.eps == 1e-7
    for copied in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        assert copied.tag == "mine"
        same_optimizers(copied, opt)


def test_a_shallow_copy_shared_state():
    with pytest.raises(TypeError, match="deepcopy"):
        copy.copy(cyopt.SGD())


def test_a_key_that_is_not_itself_made_new_state_each_time():
    with pytest.raises(TypeError, match="nan"):
        cyopt.SGD().update(float("nan"), ones(2), ones(2))


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
def test_odd_state_dicts_met_raw_errors(spoil):
    opt = cyopt.Adam({"w": ones(2)})
    saved = opt.state_dict()
    spoil(saved)
    with pytest.raises((TypeError, ValueError), match="state_dict"):
        opt.load_state_dict(saved)


def test_misspelt_keywords_are_answered():
    with pytest.raises(TypeError, match="did you mean 'momentum'"):
        cyopt.SGD.like("keras", momentun=0.9)
    with pytest.raises(AttributeError):
        cyopt.SGD().learning_rate = 0.1


# --- in the same pass -----------------------------------------------------------------------------


def test_after_strided_gradients_dense_ones_in_their_place_are_looked_at():
    params = [np.zeros(4), np.zeros(4)]
    opt = cyopt.SGD(params, lr=1.0, zero_grads=True)
    base = np.ones(16)
    opt.step([base[:8:2], base[1:8:2]])
    base[:] = 1
    with pytest.raises(ValueError, match="shares memory"):
        opt.step([base[:4], base[1:5]])
    assert base.all()


def test_the_short_way_looks_at_gradients_that_it_zeroes():
    params = [np.zeros((2, 3), np.float32)]
    opt = cyopt.SGD(params, zero_grads=True, cast_grads=True)
    memory = np.ones(6)
    for _ in range(2):
        opt.step([memory.reshape(2, 3)])
    narrow = memory.view(np.float32)[:6].reshape(2, 3)  # the same address
    narrow[...] = 1
    for grad in (narrow, memory.reshape(3, 2).T):
        grad[...] = 1
        opt.step([grad])
        assert not grad.any()
    grad = memory.reshape(2, 3)
    opt.step([grad])
    grad.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        opt.step([grad])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_lies_between_zeroed_elements_stays(dtype):
    opt = cyopt.SGD([np.zeros(5, dtype)], zero_grads=True)
    base = np.ones(10, dtype)
    for _ in range(2):
        base[:] = 1
        opt.step([base[::2]])
        assert np.array_equal(base, [0, 1] * 5)


def test_windows_that_overlap_are_refused():
    opt = cyopt.SGD([np.zeros((3, 2))], zero_grads=True)
    window = np.lib.stride_tricks.sliding_window_view(np.ones(4), 2, writeable=True)
    with pytest.raises(ValueError, match="elements share"):
        opt.step([window])
    zero_dimensional = cyopt.SGD([np.zeros(())], zero_grads=True)
    with pytest.raises(TypeError, match="expected a"):
        zero_dimensional.step([np.float64(1.0)])


def test_the_zeroed_gradient_may_be_the_later_one():
    params = [np.zeros(4), np.zeros(4)]
    opt = cyopt.SGD([{"params": [params[0]]}, {"params": [params[1]], "zero_grads": True}])
    base = np.ones(6)
    with pytest.raises(ValueError, match="shares memory"):
        opt.step([[base[:4]], [base[2:]]])


def test_averages_are_for_reading():
    opt = cyopt.SGD([{"params": [np.ones(1)], "ema": 0.5}, {"params": [np.ones(1)]}])
    with pytest.raises(ValueError, match="read-only"):
        opt.averages["0.0"][:] = 7
    with pytest.raises(KeyError, match="has no average"):
        opt.averages["1.0"]
    opt.step([[np.ones(1)], [np.ones(1)]])


def test_what_was_measured_is_forgotten_with_the_run():
    param, grad = np.ones(1), np.array([np.nan])
    opt = cyopt.SGD([param], skip_nonfinite=True)
    saved = opt.state_dict()
    opt.step([grad])
    assert opt.skipped
    opt.load_state_dict(saved)
    assert not opt.skipped
    assert opt.grad_norm is None


@pytest.mark.parametrize("framework", ["keras", "tf1", "optax", "thinc"])
def test_frameworks_that_add_nothing_to_the_norm(framework):
    assert cyopt.Adam.like(framework, lr=0.1).clip_eps == 0.0
    assert cyopt.Adam.like("torch").clip_eps == 1e-6


def test_orders_of_other_frameworks_are_refused():
    with pytest.raises(ValueError, match="before it clips"):
        cyopt.Adam.like("thinc", decoupled_weight_decay=False)
    with pytest.raises(ValueError, match=r"0\.9 if steps else 0"):
        cyopt.Adam.like("keras", ema=0.9)


def test_numpys_own_float32_is_another_number():
    """NumPy 1 prints both as 0.1."""
    a, b = np.zeros(1), np.zeros(1)
    cyopt.sgd_(a, np.ones(1), lr=0.1)
    cyopt.sgd_(b, np.ones(1), lr=np.float32(0.1))
    assert a[0] == -0.1
    assert b[0] == -float(np.float32(0.1))


@pytest.mark.parametrize("params", [[[]], [[np.zeros(1)], []]])
def test_a_schedule_of_a_last_group_without_parameters_was_not_looked_at(params):
    opt = cyopt.SGD([{"params": group} for group in params])
    grads = [[np.ones(1) for _ in group] for group in params]
    assert opt.step(grads)
    opt.groups[-1].lr = lambda steps: float("nan")
    with pytest.raises(ValueError, match="lr is nan"):
        opt.step(grads)
    assert opt.steps == 1
