"""Which tensors are taken for the arrays that they share memory with, and which are refused."""

import types

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch_pair import counts, emptied, one  # noqa: E402

import cyopt  # noqa: E402
from cyopt.integrations import _tensors  # noqa: E402
from cyopt.integrations import torch as ours  # noqa: E402


@pytest.mark.skipif(_tensors._TABLE is None, reason="torch is older than 2.10")
def test_tensors_as_arrays_of_the_same_memory():
    whole = torch.arange(24.0).reshape(2, 3, 4)
    for tensor in (whole, whole[:, 1:, ::2], whole.permute(2, 0, 1), whole[1, 2, 3]):
        for value in (tensor, tensor.double(), tensor.clone().requires_grad_()):
            (array,) = _tensors._TABLE.arrays([value])
            expected = value.detach().numpy()
            assert np.array_equal(array, expected) and array.dtype == expected.dtype
            assert (array.shape, array.strides) == (expected.shape, expected.strides)
            assert array.ctypes.data == value.data_ptr()
            assert array.flags.writeable and array.base is value
            for flag in ("aligned", "c_contiguous", "f_contiguous", "owndata"):
                assert getattr(array.flags, flag) == getattr(expected.flags, flag), flag
    kept = _tensors._TABLE.arrays([torch.full((1000,), 3.0)])[0]
    assert (kept == 3).all()
    for other in (
        whole[:0],
        emptied,
        whole.half(),
        whole.int(),
        whole.to(torch.complex64),
        whole.to_sparse(),
    ):
        assert _tensors._TABLE.arrays([whole, other]) is None


class Tagged(torch.Tensor):
    """A subclass, which may be more than its memory."""


def test_subclasses_of_tensors_are_not_read_by_the_table(monkeypatch):
    p = torch.nn.Parameter(torch.ones(4).as_subclass(Tagged))
    opt = ours.SGD([p], lr=0.5, momentum=0.5)
    p.grad = torch.ones(4)
    fails = types.SimpleNamespace(count=None, arrays=None)
    monkeypatch.setattr(_tensors, "_TABLE", fails)
    opt.step()
    assert torch.equal(p.detach(), torch.full((4,), 0.5))


def test_a_conjugated_gradient_is_resolved():
    p, opt = one("SGD")
    p.data = p.data.double()
    z = torch.complex(torch.zeros(4).double(), torch.arange(4.0).double())
    p.grad = z.conj().imag  # a view with the negative bit
    assert p.grad.is_neg()
    opt.step()
    assert torch.equal(p, 1 + 0.1 * torch.arange(4.0).double())


@pytest.mark.parametrize("which", ["data", "grad"])
def test_a_tensor_without_memory_is_refused(which):
    p, opt = one()
    opt.step()
    setattr(p, which, emptied())
    with pytest.raises(ValueError, match="has no memory"):
        opt.step()
    assert counts(opt) == [1]


def test_a_complex_parameter_is_refused():
    p = torch.ones(2, dtype=torch.complex64)
    opt = ours.SGD([p], lr=0.1)
    p.grad = torch.ones(2, dtype=torch.complex64)
    with pytest.raises(TypeError, match="complex64"):
        opt.step()


@pytest.mark.parametrize(
    "param",
    [torch.ones(2, dtype=torch.bfloat16), torch.tensor([1j, 2j]).conj().imag],
    ids=["bfloat16", "negated"],
)
def test_a_parameter_whose_memory_torch_does_not_show_is_refused(param):
    param = param.detach().requires_grad_()
    param.grad = torch.ones_like(param)
    with pytest.raises(TypeError, match=r"a tensor of the step is a Tensor of torch\..*float32"):
        ours.SGD([param], lr=1.0).step()


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.2.0", reason="DLPack is read-only")
def test_tensors_whose_numbers_are_not_those_in_memory_are_refused():
    """NumPy reads a lazy negation as it lies there, and makes memory of its own for lazy zeros."""
    negated = torch.tensor([1 + 2j, 3 + 4j]).conj().imag
    lazy = torch._neg_view(torch.ones(2)), torch._efficientzerotensor((2,))
    opt = cyopt.SGD([p := torch.zeros(2)], lr=1.0)
    for grad, cure in [(negated, "resolve_neg"), (lazy[0], "resolve_neg"), (lazy[1], "a copy")]:
        with pytest.raises(TypeError, match=f"gradient of '0' is a.*{cure}"):
            opt.step([grad])
    for param, cure in [(lazy[0], "resolve_neg"), (lazy[1], "a copy")]:
        with pytest.raises(TypeError, match=f"param.* is a.*{cure}"):
            cyopt.sgd_(param, torch.ones(2), lr=1.0)
    assert p.tolist() == [0, 0]
    assert opt.step([negated.resolve_neg()])
    assert p.tolist() == [2, 4]


def test_tensors_that_numpy_cannot_read_are_refused():
    w = np.ones(2)
    for grad in (
        torch.ones(2, dtype=torch.bfloat16),
        torch.ones(2).to_sparse(),
        torch.ones(2, device="meta"),
    ):
        with pytest.raises(TypeError, match=r"gradient of '0' is a torch.Tensor that cannot be"):
            cyopt.sgd_(w, grad)
