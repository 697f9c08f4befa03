"""Steps on a GPU: the bits of the CPU, streams, graphs, and the arrays of other libraries."""

import copy
import itertools
import pickle

import numpy as np
import pytest
from places import held, shifted
from same_bits import same_bits, same_optimizers
from test_bits import content
from test_one_pass import CONTENTS, OPTIONS, Run
from variants import FORMULAS, VARIANTS, name

import cyopt

# Around a vector (4 float32), a block's pass (2,048) and its chunk (8,192; 4,096 float64).
SIZES = (0, 1, 3, 4, 5, 31, 2047, 2049, 8191, 8192, 8193, 20_001, 100_003)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("variant", VARIANTS, ids=name)
def test_bits(variant, dtype):
    """Every rule and variant, at each alignment, with each tail."""
    cls, kwargs = variant
    rng = np.random.default_rng([len(dtype), *map(ord, name(variant))])
    expected = [content("normal", n, dtype, rng) for n in SIZES for _ in range(4)]
    params = [shifted(param, i % 4) for i, param in enumerate(expected)]
    opt, cpu = cls(params, **kwargs), cls(expected, **kwargs)
    for kind in CONTENTS:
        grads = [content(kind, p.size, dtype, rng) for p in expected]
        # Over the sizes, each offset of a gradient meets each of its parameter.
        assert opt.step([shifted(grad, (i + i // 4) % 4) for i, grad in enumerate(grads)])
        cpu.step(grads)
    assert all(same_bits(held(a), b) for a, b in zip(params, expected, strict=True))
    same_optimizers(opt, cpu)


class OnGpu(Run):
    """The same steps as `Run`, of arrays on the GPU, taken back after each."""

    def make(self, cls, params, **kwargs):
        self.places = [shifted(param, i % 3) for i, param in enumerate(params)]
        return cls(self.places, **kwargs)

    def step(self, grads, norms):
        places = [None if g is None else shifted(np.ascontiguousarray(g), 1) for g in grads]
        done = self.opt.step(places, norms=norms)
        assert (done is None) == self.opt.groups[0].skip_nonfinite
        for arrays, own in ((self.params, self.places), (grads, places)):
            for array, place in zip(arrays, own, strict=True):
                if array is not None:
                    array[...] = held(place)
        return not self.opt.skipped


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("option", OPTIONS)
def test_one_pass(option, dtype):
    for (cls, formula), norms in itertools.product(FORMULAS[::4], (False, True)):
        variant = cls, {**formula, **OPTIONS[option]}
        for kind in CONTENTS:
            run = OnGpu(variant, dtype, kind, norms)
            run.same(Run(variant, dtype, kind, norms))


MANY = [
    {"clip_norm": 0.3},
    {"clip_norm": 0.01, "clip_scope": "array", "skip_nonfinite": True},
    {"skip_nonfinite": True, "ema": 0.5},
]


@pytest.mark.parametrize("options", MANY, ids=str)
def test_more_arrays_than_a_block_that_decides_has_threads(options):
    rng = np.random.default_rng(1)
    kinds = [(int(n), rng.choice(["float32", "float64"])) for n in rng.integers(0, 40, 400)]
    arrays = [rng.normal(size=n).astype(dtype) for n, dtype in kinds]
    opt = cyopt.Adam([shifted(array, i % 3) for i, array in enumerate(arrays)], **options)
    cpu = cyopt.Adam(arrays, **options)
    for step in range(4):
        sizes = 10.0 ** rng.integers(-20, 15, len(kinds))
        grads = [(x * rng.normal(size=n)).astype(d) for x, (n, d) in zip(sizes, kinds, strict=True)]
        if step == 3:
            grads[350][:], grads[100][:] = np.inf, -np.nan
        grads = [None if rng.random() < 0.1 else grad for grad in grads]
        norms = step % 2 == 1
        opt.step([None if grad is None else shifted(grad, 1) for grad in grads], norms=norms)
        cpu.step(grads, norms=norms)
        for told in ("steps", "skipped", "grad_norm", "update_norm", "param_norm"):
            assert repr(getattr(opt, told)) == repr(getattr(cpu, told)), told
    same_optimizers(opt, cpu)


def test_more_elements_than_32_bits_count(torch):
    """At once, gathered, and measured: 26 GB."""
    n = 2**31 + 4099
    if torch.cuda.mem_get_info()[0] < 30e9:
        pytest.skip("this GPU has not the memory")
    param, grad = torch.zeros(n, device="cuda"), torch.ones(n, device="cuda")
    opt = cyopt.SGD([param], lr=1.0, clip_norm=1e6)
    for i, of in enumerate((grad, torch.ones(1, device="cuda").expand(n)), start=1):
        opt.step([of])
        assert opt.grad_norm == np.sqrt(np.float64(n))
        assert param.min() == param.max() == -i


def test_a_run_moves_between_the_cpu_and_the_gpu():
    w, g = np.linspace(-1, 1, 9001), np.linspace(3, -5, 9001)
    expected, place = w.copy(), shifted(w, 0)
    cpu, moved = cyopt.Adam([expected], ema=0.9), cyopt.Adam([w], ema=0.9)
    for where in ("cpu", "gpu", "cpu"):
        for _ in range(2):
            cpu.step([g])
            moved.step([g] if where == "cpu" else [shifted(g, 0)])
        saved = moved.state_dict()
        if where == "cpu":
            place = shifted(w, 0)
            moved = cyopt.Adam([place], ema=0.9)
        else:
            w[...] = held(place)
            moved = cyopt.Adam([w], ema=0.9)
        moved.load_state_dict(saved)
    same_optimizers(moved, cpu)
    assert same_bits(held(place), expected)


def test_unbound_use_and_copies():
    """Each copy goes on from the state of its own."""
    w, g = np.linspace(-1, 1, 9001), np.linspace(3, -5, 9001)
    expected, places = [w.copy(), w.copy()], [shifted(w, 0), shifted(w, 1)]
    opt, cpu = cyopt.Adam(lr=0.1), cyopt.Adam(lr=0.1)

    def step(opt, cpu):
        for key in (0, 1):
            opt.update(key, places[key], shifted(g, key))
            cpu.update(key, expected[key], g)
        assert all(same_bits(held(a), b) for a, b in zip(places, expected, strict=True))
        same_optimizers(opt, cpu)

    step(opt, cpu)
    copies = [(copy.deepcopy(opt), copy.deepcopy(cpu))]
    copies.append((pickle.loads(pickle.dumps(opt)), copy.deepcopy(cpu)))
    for pair in (*copies, (opt, cpu), *copies):
        step(*pair)


# --- with other libraries -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cupy(dtype):
    cp = pytest.importorskip("cupy")
    w, g = np.random.default_rng(0).normal(size=(2, 30, 50)).astype(dtype)
    there, expected = cp.asarray(w), w.copy()
    opt, cpu = cyopt.Adam({"w": there}), cyopt.Adam({"w": expected})
    grads = cp.asarray(g)
    strided = cp.asarray(np.repeat(g, 2, axis=1))[::-1, ::2]
    with cp.cuda.Stream(non_blocking=True):
        for grad in (grads, strided, grads.T.copy().T):
            opt.step({"w": grad})
            cpu.step({"w": cp.asnumpy(grad)})
        assert same_bits(cp.asnumpy(there), expected)
    state = cp.asarray(opt.state["w"]["exp_avg"])
    assert same_bits(cp.asnumpy(state), cpu.state["w"]["exp_avg"])


def test_numba():
    cuda = pytest.importorskip("numba.cuda")
    w, empty = np.linspace(-1, 1, 1000, dtype=np.float32), np.zeros((0, 3), np.float32)
    there, expected = cuda.to_device(w), w.copy()
    opt = cyopt.RMSProp([there[:600], cuda.to_device(empty), there[600:]])
    cpu = cyopt.RMSProp([expected[:600], empty, expected[600:]])
    stream = cuda.stream()
    for _ in range(3):
        grad = cuda.to_device(w)
        opt.step([grad[:600], cuda.to_device(empty), grad[600:]], stream=stream)
        cpu.step([w[:600], empty, w[600:]])
    stream.synchronize()
    opt.step([grad.bind(stream)[:600], None, grad[600:]])
    cpu.step([w[:600], None, w[600:]])
    assert same_bits(there.copy_to_host(), expected)


def test_memory_of_numba_that_the_host_sees_too():
    cuda = pytest.importorskip("numba.cuda")
    g = np.linspace(-1, 1, 5000, dtype=np.float32)
    for make in (cuda.managed_array, cuda.mapped_array):
        there, grad = make(5000, np.float32), make(5000, np.float32)
        there[:], grad[:] = 1, g
        expected = np.ones(5000, np.float32)
        opt, cpu = cyopt.Adam([there]), cyopt.Adam([expected])
        for _ in range(3):
            opt.step([grad])
            cpu.step([g])
        cuda.synchronize()
        assert same_bits(np.asarray(there), expected)


def test_graph_of_cupy():
    cp = pytest.importorskip("cupy")
    w = np.linspace(-1, 1, 9001, dtype=np.float32)
    param, expected, options = cp.asarray(w), w.copy(), {"clip_norm": 0.5, "skip_nonfinite": True}
    opt, cpu = cyopt.Adam([param], capturable=True, **options), cyopt.Adam([expected], **options)
    grad = cp.ones_like(param)
    cp.cuda.Device().synchronize()
    with cp.cuda.Stream(non_blocking=True) as stream:
        opt.step([grad])
        cpu.step([np.ones_like(w)])
        stream.begin_capture()
        opt.step([grad])
        graph = stream.end_capture()
        for x in (0.5, np.nan, -2.0):
            grad.fill(x)
            graph.launch(stream)
            cpu.step([np.full_like(w, x)])
    stream.synchronize()
    assert same_bits(cp.asnumpy(param), expected)
    assert opt.steps == cpu.steps == 3


def model(torch):
    torch.manual_seed(0)
    layers = torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10)
    return torch.nn.Sequential(*layers).cuda()


def test_torch(torch):
    """Parameters that require grad, gradients of backward, on a stream of torch."""
    net = model(torch)
    params = list(net.parameters())
    expected = [p.detach().cpu().numpy().copy() for p in params]
    opt, cpu = cyopt.Adam(params, clip_norm=0.1), cyopt.Adam(expected, clip_norm=0.1)
    data = torch.randn(32, 64, device="cuda")
    with torch.cuda.stream(torch.cuda.Stream()):
        for _ in range(5):
            net.zero_grad(set_to_none=True)
            net(data).square().sum().backward()
            grads = [p.grad for p in params]
            squares = sum(p.square().sum() for p in params)
            opt.step(grads)
            cpu.step([grad.cpu().numpy() for grad in grads])
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                squares.backward()
        for param, array in zip(params, expected, strict=True):
            assert same_bits(param.detach().cpu().numpy(), array)


# The first backward pass, on a stream of its own, before the capture is as torch's notes have it.
@pytest.mark.filterwarnings("ignore:The AccumulateGrad node's stream")
@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.1}, {"skip_nonfinite": True}], ids=str)
def test_graph_of_torch(torch, options):
    net = model(torch)
    params = list(net.parameters())
    expected = [p.detach().cpu().numpy().copy() for p in params]
    opt, cpu = cyopt.Adam(params, capturable=True, **options), cyopt.Adam(expected, **options)
    data = torch.randn(32, 64, device="cuda")

    def train():
        net.zero_grad(set_to_none=True)
        net(data).square().sum().backward()
        opt.step([p.grad for p in params])

    def follow():
        cpu.step([p.grad.cpu().numpy() for p in params])

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        train()
    torch.cuda.current_stream().wait_stream(side)
    follow()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        train()
    for seed in range(3):
        data.copy_(torch.randn(32, 64, generator=torch.Generator().manual_seed(seed)))
        graph.replay()
        follow()
        assert opt.steps == cpu.steps
    for param, array in zip(params, expected, strict=True):
        assert same_bits(param.detach().cpu().numpy(), array)
    same_optimizers(opt, cpu)


def test_a_graph_that_holds_more_than_the_step_before(torch):
    """Tables and kernels are made, and another optimizer is freed, while the stream is captured."""
    params = [torch.ones(n, device="cuda") for n in (5, 9_000, 70)]
    expected = [p.cpu().numpy() for p in params]
    opt, cpu = cyopt.Adam(params, capturable=True), cyopt.Adam(expected)
    grads = [torch.randn(p.shape, device="cuda") for p in params]
    other = cyopt.AdaGrad([torch.ones(9, device="cuda")], clip_norm=1.0)
    other.step([torch.ones(9, device="cuda")])
    side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    with torch.cuda.stream(side):
        opt.step(grads)
    side.synchronize()
    with torch.cuda.graph(graph, stream=side):
        opt.step([None, *grads[1:]], norms=True)
        del other
    cpu.step([g.cpu().numpy() for g in grads])
    for _ in range(2):
        graph.replay()
        cpu.step([None, *(g.cpu().numpy() for g in grads[1:])], norms=True)
    assert (opt.steps, opt.update_norm) == (cpu.steps, cpu.update_norm)
    for param, array in zip(params, expected, strict=True):
        assert same_bits(param.cpu().numpy(), array)
    same_optimizers(opt, cpu)


@pytest.mark.parametrize("name", ["SGD", "RMSprop", "Adagrad", "Adam", "AdamW"])
def test_integration_of_torch(torch, name):
    """As on the CPU, bit for bit, where the gradients are those of the GPU."""
    from cyopt.integrations import torch as ours

    net = model(torch)
    params = [*net.parameters(), torch.ones(3, requires_grad=True)]  # the last one on the CPU
    twin = [p.detach().cpu().clone().requires_grad_() for p in params]
    opt, cpu = getattr(ours, name)(params, lr=0.1), getattr(ours, name)(twin, lr=0.1)
    data = torch.randn(32, 64, device="cuda")
    for _ in range(3):
        opt.zero_grad()
        (net(data).square().sum() + params[-1].square().sum().cuda()).backward()
        for p, other in zip(params, twin, strict=True):
            other.grad = p.grad.cpu().clone()
        opt.step()
        cpu.step()
    for p, other in zip(params, twin, strict=True):
        assert torch.equal(p.detach().cpu(), other.detach())
