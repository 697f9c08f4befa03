"""Steps that a CUDA graph holds, on the stand-in of a GPU: each replay is a step, bit for bit."""

import copy
import pickle

import numpy as np
import pytest
from gpu_of_host import HostArray, replay
from gpu_pair import Pair, one
from same_bits import same_bits

import cyopt

STREAM = 11
SHAPES = [(3, 5), (), (0,), (5000,)]
OPTIONS = [
    {},
    {"clip_norm": 0.1},
    {"skip_nonfinite": True},
    {"zero_grads": True, "ema": 0.5},
    {"skip_nonfinite": True, "clip_norm": 0.5, "clip_scope": "array", "zero_grads": True},
]


class Captured(Pair):
    """The same steps, after a first one and a capture, which makes none."""

    def __init__(self, gpu, cls=cyopt.Adam, shapes=SHAPES, norms=False, **options):
        super().__init__(cls, shapes=shapes, capturable=True, **options)
        assert self.step(stream=STREAM) is None
        # New gradients, as torch has them in a graph's own memory.
        self.own_grads = [HostArray(grad.copy()) for grad in self.grads]
        self.graph, done = gpu.capture(self.opt.step, self.own_grads, norms=norms, stream=STREAM)
        assert done is None
        self.same()

    def draw(self, seed):
        """Other gradients, in the same places."""
        rng = np.random.default_rng(seed)
        for grad, own in zip(self.grads, self.own_grads, strict=True):
            grad[...] = own.array[...] = rng.normal(size=grad.shape)

    def replay(self):
        replay(self.graph)
        self.cpu.step([grad.copy() for grad in self.grads])


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(
    "cls", [cyopt.Adam, cyopt.AdaGrad, cyopt.RMSProp, cyopt.Momentum], ids=lambda c: c.__name__
)
def test_a_replay_is_a_step(gpu, cls, options):
    own = {"lr_decay": 0.1} if cls is cyopt.AdaGrad else {}
    if cls is cyopt.Momentum:
        own = {"dampening": 0.5}
    pair = Captured(gpu, cls, **own, **options)
    for seed in range(4):
        pair.draw(seed)
        if seed == 2:
            pair.grads[3][7] = pair.own_grads[3].array[7] = np.nan
            if "skip_nonfinite" not in options:
                pair.grads[3][7] = pair.own_grads[3].array[7] = 1e30
        pair.replay()
        pair.same()
        assert pair.opt.steps == pair.cpu.steps
        assert pair.opt.skipped == pair.cpu.skipped
        assert repr(pair.opt.grad_norm) == repr(pair.cpu.grad_norm)  # nan as well
    assert pair.opt.steps == 5 - bool("skip_nonfinite" in options)


def test_a_replay_measures_what_its_capture_did(gpu):
    pair = Captured(gpu, norms=True)
    pair.draw(1)
    replay(pair.graph)
    pair.cpu.step(pair.grads, norms=True)
    for name in ("grad_norm", "update_norm", "param_norm"):
        assert getattr(pair.opt, name) == getattr(pair.cpu, name)


def test_norms_are_those_of_the_last_replay(gpu):
    opt, grads = one(capturable=True)
    opt.step(grads, stream=11)
    without, _ = gpu.capture(opt.step, grads, stream=11)
    opt.step(grads, norms=True, stream=11)
    measuring, _ = gpu.capture(opt.step, grads, norms=True, stream=11)
    assert opt.grad_norm == 2.0
    replay(without)
    assert opt.grad_norm is opt.update_norm is opt.param_norm is None
    grads[0].array *= 3
    replay(measuring)
    assert opt.grad_norm == 6.0
    assert opt.param_norm > 1


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_replays_and_other_steps_leave_each_other_alone(gpu, options):
    """Other gradients, and other ones missing, do not reach the graph; nor does it reach them."""
    pair = Captured(gpu, **options)
    captured = pair.own_grads
    for seed, skipped in enumerate([(), (0,), (), (1, 3), ()]):
        pair.own_grads = [HostArray(grad.copy()) for grad in pair.grads]
        for _ in range(2):
            pair.draw(seed)
            pair.step(skipped)
            pair.same()
        pair.own_grads = captured
        pair.draw(10 + seed)
        pair.replay()
        pair.same()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_steps_between_replays_set_their_tables_again(gpu, options):
    """Their addresses are as before, but the graph puts its own tables in their place."""
    pair = Captured(gpu, **options)
    captured, eager = pair.own_grads, [HostArray(grad.copy()) for grad in pair.grads]
    for seed in range(3):
        pair.own_grads = eager
        pair.draw(seed)
        pair.step()
        pair.same()
        pair.own_grads = captured
        pair.draw(10 + seed)
        pair.replay()
        pair.same()


def test_nothing_is_measured_that_is_not_asked_for(gpu):
    pair = Pair(shapes=[(5000,)], capturable=True)
    pair.step()
    gpu.log.clear()
    pair.step()
    assert [entry[0] for entry in gpu.log] == ["clear", "launch", "launch"]


def test_nothing_is_kept_for_steps_that_no_graph_holds(gpu):
    pair = Pair(capturable=True)
    pair.opt.step(pair.own_grads, stream=11)
    gpu.capture(pair.opt.step, pair.own_grads, stream=11)
    decision = pair.opt._lists[None].plan._decision
    for k in range(1, 20):
        pair.opt.step([g if (k >> i) & 1 else None for i, g in enumerate(pair.own_grads)])
        pair.opt.step(pair.own_grads, stream=11)
    assert len(decision._in_graphs) == 1
    assert len(decision._known) <= 8


def test_two_graphs_take_turns(gpu):
    pair = Captured(gpu, clip_norm=0.5)
    first, ours = pair.graph, pair.own_grads
    theirs = [HostArray(grad.copy()) for grad in pair.grads]
    second, _ = gpu.capture(pair.opt.step, [None, *theirs[1:]], stream=STREAM)
    for seed in range(3):
        pair.own_grads = ours
        pair.draw(seed)
        replay(first)
        pair.cpu.step(pair.grads)
        pair.own_grads = theirs
        pair.draw(10 + seed)
        replay(second)
        pair.cpu.step([None, *pair.grads[1:]])
        pair.same()


def test_a_graph_gathers_gradients(gpu):
    w, g = np.ones((6, 6), np.float32), np.ones((6, 6), np.float32)
    twin = w.copy()
    opt = cyopt.Adam([HostArray(w)], capturable=True)
    cpu = cyopt.Adam([twin])
    cyopt.set_subnormals("keep")
    grad = HostArray(g.T)
    opt.step([grad], stream=STREAM)
    graph, _ = gpu.capture(opt.step, [grad], stream=STREAM)
    cpu.step([g.T])
    for seed in range(3):
        g[...] = np.random.default_rng(seed).normal(size=g.shape)
        replay(graph)
        cpu.step([g.T])
        assert same_bits(w, twin)


def test_a_graph_keeps_the_hyperparameters_of_its_capture(gpu):
    pair = Captured(gpu, lr=0.5)
    pair.opt.lr = 0.25
    pair.replay()
    pair.same()
    pair.cpu.lr = 0.25
    pair.step()
    pair.same()


@pytest.mark.parametrize("way", ["state_dict", "pickle", "deepcopy", "to the CPU"])
def test_a_run_continues_from_what_replays_did(gpu, way):
    pair = Captured(gpu)
    for seed in range(2):
        pair.draw(seed)
        pair.replay()
    if way == "pickle":
        pair.opt = pickle.loads(pickle.dumps(pair.opt))
        pair.params = None
    elif way == "deepcopy":
        pair.opt = copy.deepcopy(pair.opt)
    else:
        saved = pair.opt.state_dict()
        on_cpu = way == "to the CPU"
        pair.opt = cyopt.Adam(pair.host if on_cpu else pair.params, capturable=not on_cpu)
        pair.opt.load_state_dict(saved)
        if on_cpu:
            pair.own_grads = pair.grads
    pair.step()
    assert pair.opt.steps == 4
    for name, entry in pair.opt.state.items():
        for slot, array in entry.items():
            array = array if isinstance(array, np.ndarray) else array.copy_to_host()
            assert same_bits(array, pair.cpu.state[name][slot])


# --- what is refused ------------------------------------------------------------------------------


def test_a_graph_that_captures_only_some_streams_is_refused(gpu, monkeypatch):
    """One that a capture pulls in, or that the capture would have to wait for."""
    for captured in (STREAM, STREAM + 1):
        monkeypatch.setattr(
            gpu, "is_capturing", lambda stream, captured=captured: stream == captured
        )
        param = HostArray(np.ones(4, np.float32), stream=STREAM)
        grad = HostArray(np.ones(4, np.float32), stream=STREAM + 1)
        opt = cyopt.Adam([param], capturable=True)
        with pytest.raises(RuntimeError, match="captures the stream of some of the"):
            opt.step([grad])
        assert gpu.log == [] and opt.steps == 0


def test_a_graph_of_steps_that_the_host_counts_is_refused(gpu):
    pair = Pair(shapes=[(4,)])
    pair.step()
    with pytest.raises(RuntimeError, match=r"CUDA graph.*capturable=True"):
        gpu.capture(pair.opt.step, pair.own_grads, stream=STREAM)
    pair.step()
    pair.same()


def test_a_first_step_cannot_be_captured(gpu):
    pair = Pair(shapes=[(4,)], capturable=True)
    with pytest.raises(RuntimeError, match="made no step on the GPU yet"):
        gpu.capture(pair.opt.step, pair.own_grads, stream=STREAM)
    saved = Captured(gpu, shapes=[(4,)]).opt.state_dict()
    pair.step()
    pair.opt.load_state_dict(saved)
    with pytest.raises(RuntimeError, match="made no step on the GPU yet"):
        gpu.capture(pair.opt.step, pair.own_grads, stream=STREAM)


def test_a_change_that_a_graph_would_miss_is_refused(gpu):
    pair = Captured(gpu)
    saved = pair.opt.state_dict()
    with pytest.raises(RuntimeError, match="captured into a CUDA graph"):
        pair.opt.load_state_dict(saved)
    with pytest.raises(RuntimeError, match="captured into a CUDA graph"):
        pair.opt.add_group({"params": [HostArray(np.ones(3, np.float32))]})
    pair.replay()
    pair.same()


def test_a_parameter_that_moves_after_a_capture_is_refused(gpu):
    w, g = np.ones(3, np.float32), np.ones(3, np.float32)
    opt = cyopt.SGD(capturable=True)
    opt.step([HostArray(g)], [HostArray(w)], stream=STREAM)
    gpu.capture(opt.step, [HostArray(g)], [HostArray(w)], stream=STREAM)
    with pytest.raises(RuntimeError, match="captured into a CUDA graph"):
        opt.step([HostArray(g)], [HostArray(w.copy())])


@pytest.mark.parametrize("name", ["skipped", "grad_norm", "update_norm", "param_norm"])
def test_which_key_was_stepped_last_is_not_told_once_one_is_captured(gpu, name):
    w, g = (HostArray(np.ones(3, np.float32)) for _ in range(2))
    opt = cyopt.SGD(capturable=True, skip_nonfinite=True)
    opt.update("a", w, g, stream=STREAM)
    graph, _ = gpu.capture(opt.update, "a", w, g, stream=STREAM)
    replay(graph)
    assert not opt.skipped  # it is the only one
    opt.update("b", HostArray(np.ones(3, np.float32)), HostArray(np.full(3, np.nan, np.float32)))
    with pytest.raises(RuntimeError, match=r"holds the step of key 'a'.*opt\.step"):
        getattr(opt, name)
    assert opt.steps == 2
    assert {key: opt.state_dict()["state"][key]["step"] for key in "ab"} == {"a": 2, "b": 0}


def test_what_has_no_meaning_with_capturable_is_refused(gpu):
    w = np.ones(3, np.float32)
    with pytest.raises(ValueError, match="capturable is True, but the parameters are on the CPU"):
        cyopt.Adam([w], capturable=True)
    with pytest.raises(TypeError, match="capturable is True"):
        cyopt.sgd_(HostArray(w), HostArray(w.copy()), lr=0.1, capturable=True)
    opt = cyopt.Adam([HostArray(w)], lr=lambda t: 0.1, capturable=True)
    with pytest.raises(ValueError, match=r"schedule.*capturable"):
        opt.step([HostArray(w.copy())])
    opt = cyopt.Adam([HostArray(w)], libm_pow=True, capturable=True)
    with pytest.raises(ValueError, match=r"libm_pow.*capturable"):
        opt.step([HostArray(w.copy())])
    assert (w == 1).all()
