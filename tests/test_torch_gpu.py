"""Tensors of torch that say they are on a GPU, which is the stand-in of one."""

import pytest

torch = pytest.importorskip("torch")

from gpu_pair import interrupt_after_the_step  # noqa: E402
from test_torch import NAMES, run  # noqa: E402
from torch_pair import emptied, one  # noqa: E402

import cyopt  # noqa: E402
from cyopt.cuda import libraries  # noqa: E402
from cyopt.integrations import torch as ours  # noqa: E402


@pytest.fixture
def torch_on_gpu(gpu, monkeypatch):
    """Tensors of the CPU that say they are on a GPU, which is the stand-in of one."""
    monkeypatch.setattr(torch.Tensor, "is_cpu", property(lambda tensor: False))
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda tensor: True))
    monkeypatch.setattr(ours, "_device", lambda tensor: 0)
    # A build for CUDA would ask the driver for it.
    library = libraries._TORCH._replace(stream=lambda tensor, device: libraries.LEGACY_STREAM)
    monkeypatch.setattr(libraries, "_TORCH", library)
    monkeypatch.setitem(libraries._LIBRARIES, "torch", library)
    libraries._of_type.cache_clear()
    yield gpu
    libraries._of_type.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_on_a_gpu_the_bits_are_those_on_the_cpu(name, dtype, request):
    cyopt.set_subnormals("keep")
    kwargs = {"lr": 0.1, "weight_decay": 0.1, "maximize": True}
    kwargs |= {"momentum": 0.9} if name in ("SGD", "RMSprop") else {}
    expected, cpu = run(ours, name, kwargs, dtype, 3)
    gpu = request.getfixturevalue("torch_on_gpu")
    params, opt = run(ours, name, kwargs, dtype, 3)
    assert "launch" in {entry[0] for entry in gpu.log}
    for p, other in zip(params, expected, strict=True):
        assert torch.equal(p, other)
        for key, value in cpu.state[other].items():
            assert torch.equal(opt.state[p][key], value), key


def test_on_a_gpu_strides_and_orders_may_be_any(torch_on_gpu):
    w = torch.arange(120.0).reshape(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    w.requires_grad_()
    g = torch.arange(120.0).reshape(5, 4, 3, 2).permute(3, 2, 1, 0)
    before = w.detach().clone()
    w.grad = g
    ours.SGD([w], lr=0.5).step()
    assert torch.equal(w.detach(), before - 0.5 * g)
    w.grad = torch._neg_view(g)
    ours.SGD([w], lr=0.5).step()
    assert torch.equal(w.detach(), before)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda w: w.to_sparse(), "torch.sparse_coo; expected a dense one"),
        (lambda w: torch._neg_view(w), r"pass its\s+\.resolve_neg"),
        (lambda w: w.half(), "float16; expected float32"),
    ],
)
def test_tensors_on_a_gpu_that_share_no_plain_memory_are_refused(torch_on_gpu, spoil, message):
    w = torch.ones(4)
    opt = cyopt.SGD([w])
    opt.step([torch.ones(4)])
    before = w.clone()
    with pytest.raises(TypeError, match=message):
        opt.step([spoil(torch.ones(4))])
    assert torch.equal(w, before)


def test_on_a_gpu_an_empty_tensor_is_taken_and_no_other_thing_of_torch(torch_on_gpu):
    w, empty = torch.ones(4), torch.ones(0)
    opt = cyopt.SGD([w, empty], lr=0.5)
    for _ in range(2):
        opt.step([torch.ones(4), torch.ones(0)])
    assert (w == 0).all()
    for other in (torch.float32, torch.Size([4])):
        with pytest.raises(TypeError, match=r"expected an array|is a"):
            opt.step([other, torch.ones(0)])


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (1,) * 9])
def test_tensors_are_found_elsewhere_if_they_are_as_before(torch_on_gpu, shape):
    a, b = torch.ones(shape), torch.nn.Parameter(torch.ones(shape))
    places = libraries.places([a, None, b])
    assert places.find([a, None, b]) is places.addresses
    copy = a.clone()
    assert places.find([copy, None, b]).tolist() == [copy.data_ptr(), 0, b.data_ptr()]
    assert places.find([a, None, b]) is places.addresses
    strided = torch.ones((*shape, 2))[..., 0]
    others = [a.double(), a.int(), a.to_sparse(), torch._neg_view(a), a.numpy(), None]
    others += [torch.ones((*shape, 2))] + [strided] * (a.numel() > 1)
    others += [torch.ones(3, 2).t()] * (shape == (2, 3))
    for other in others:
        assert places.find([other, None, b]) is None
    assert places.find([a, a, b]) is None
    assert places.find([a, None]) is None


@pytest.mark.parametrize("which", ["data", "grad"])
def test_a_tensor_without_memory_is_refused_on_a_gpu(torch_on_gpu, which):
    p, opt = one()
    theirs = cyopt.Adam([p])
    theirs.step([p.grad])
    opt.step()
    setattr(p, which, emptied())
    with pytest.raises(ValueError, match="has no memory"):
        opt.step()
    with pytest.raises(ValueError, match="has no memory"):
        theirs.step([p.grad])


@pytest.mark.parametrize("how", ["class", "function", "integration"])
def test_a_graph_that_needs_the_old_numbers_refuses_to_run(torch_on_gpu, how):
    """After the first step, a steady one, and one with a gradient elsewhere."""
    w, grad = torch.ones(3, requires_grad=True), torch.ones(3)
    other = torch.ones(3)  # has no gradient, and is not written
    opt, theirs = cyopt.SGD([w, other], lr=0.5), ours.SGD([w, other], lr=0.5)
    for g in (grad, grad, grad.clone()):
        squares = (w * w).sum()
        if how == "class":
            opt.step([g, None])
        elif how == "integration":
            w.grad = g
            theirs.step()
            w.grad = None
        else:
            cyopt.sgd_(w, g, lr=0.5)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            squares.backward()
    assert (w._version, other._version) == (3, 0)
    assert (w == -0.5).all()


def test_a_graph_that_needs_a_gradient_that_was_zeroed_refuses_to_run(torch_on_gpu):
    w, kept = torch.ones(3), torch.ones(3)
    x = torch.ones(3, requires_grad=True)
    opt = cyopt.SGD([{"params": [w], "zero_grads": True}, {"params": [kept]}], lr=0.5)
    for grad in (torch.ones(3), torch.ones(3)):
        other = torch.ones(3)
        product, of_other = (x * grad).sum(), (x * other).sum()
        opt.step([[grad], [other]])
        assert (grad == 0).all()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            product.backward()
        of_other.backward()
        assert opt.step([[grad], [other]])  # a steady one
        assert grad._version == 2 and other._version == 0


def test_a_graph_that_saved_state_refuses_to_run(torch_on_gpu):
    w, v, other = torch.ones(3), torch.zeros(3), torch.zeros(3)
    for grad in (torch.ones(3), None, torch.ones(3), torch.ones(3)):
        x = torch.ones(3, requires_grad=True)
        saved, unwritten = (x * v).sum(), (x * other).sum()
        cyopt.sgd_([w, w.clone()], [grad, None], [v, other], lr=0.5, momentum=0.5)
        if grad is not None:
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                saved.backward()
        unwritten.backward()
    assert (w._version, v._version, other._version) == (3, 3, 0)


def test_a_tensor_of_inference_has_no_version(torch_on_gpu):
    with torch.inference_mode():
        w = torch.ones(3)
    cyopt.SGD([w], lr=0.5).step([torch.ones(3)])
    assert (w == 0.5).all()


def test_an_interrupt_after_a_step_leaves_no_stale_graph(torch_on_gpu, monkeypatch):
    w = torch.ones(3, requires_grad=True)
    opt = cyopt.SGD([w], lr=0.5)
    for _ in range(2):  # a first step, and a steady one
        squares = (w * w).sum()
        with interrupt_after_the_step(monkeypatch):
            opt.step([torch.ones(3)])
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            squares.backward()
    assert opt.steps == 2


def test_an_older_torch_is_notified_of_one_tensor_after_the_other(torch_on_gpu, monkeypatch):
    increment = torch.autograd.graph.increment_version

    def one_tensor(tensor):
        if isinstance(tensor, list):
            raise TypeError("increment_version(): argument must be a Tensor, not a list")
        increment(tensor)

    monkeypatch.setattr(torch.autograd.graph, "increment_version", one_tensor)
    w = torch.ones(3)
    cyopt.SGD([w], lr=0.5).step([torch.ones(3)])
    assert w._version == 1
    monkeypatch.delattr(torch.autograd.graph, "increment_version")
    with pytest.raises(RuntimeError, match=r"expected 2\.1 or newer"):
        cyopt.SGD([w], lr=0.5).step([torch.ones(3)])
    assert (w == 0.5).all()
