"""What tests share: arrays, gradients, a model that trains; what is refused, each with why."""

import numpy as np
import pytest
from same_bits import same_bits, same_optimizers

NUMPY = tuple(map(int, np.__version__.split(".")[:2]))


# --- to train with --------------------------------------------------------------------------------


def arrays(dtype=np.float32):
    return {"w": np.linspace(-1, 1, 6, dtype=dtype).reshape(2, 3), "b": np.ones(3, dtype)}


def ones(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


def grads_at(step, params):
    """Gradients that differ from step to step and between elements."""
    return {k: np.cos(np.arange(p.size).reshape(p.shape) + step).astype(p.dtype) * (step + 1)
            for k, p in params.items()}  # fmt: skip


def train(opt, params, steps=4):
    for step in range(steps):
        opt.step(grads_at(step, params))
    return params


def go_on_alike(opt, params, other, others):
    """Both make the same steps to the same bits."""
    for step in range(3):
        grads = grads_at(step, params)
        opt.step(grads)
        other.step(grads)
    assert all(same_bits(params[key], others[key]) for key in params)
    same_optimizers(opt, other)


class Model:
    """An optimizer, and a twin that never sees what is refused."""

    def __init__(self, opt_of, steps=1, dtype=np.float32):
        self.params, self.grads = arrays(dtype), arrays(dtype)
        self.originals = list(self.params.values())
        self.opt = opt_of(self.params)
        self.twin_params = arrays(dtype)
        self.twin = opt_of(self.twin_params)
        for _ in range(steps):
            self.step()

    def step(self):
        assert self.opt.step(self.grads) is True
        assert self.twin.step(self.grads) is True
        for param, twin in zip(self.originals, self.twin_params.values(), strict=True):
            assert np.array_equal(param, twin)

    def everything(self):
        saved = self.opt.state_dict()["state"].values()
        held = [*self.originals, *self.grads.values()]
        return (
            [a.tobytes() for a in held],
            [np.asarray(value).tobytes() for entry in saved for value in entry.values()],
            repr(self.opt),  # steps and all hyperparameters
        )

    def refuses(self, call, error, message):
        before = self.everything()
        with pytest.raises(error, match=message):
            call()
        assert self.everything() == before
        self.params.update(zip(("w", "b"), self.originals, strict=True))
        self.step()


# --- what is refused ------------------------------------------------------------------------------


class Subclass(np.ndarray):
    pass


class Foreign:
    """Another library's array: the memory of an ndarray, known by DLPack only."""

    def __init__(self, array, device=(1, 0), requires_grad=False):
        self.array, self.device, self.requires_grad = array, device, requires_grad

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.device


class Negated(Foreign):
    """As torch's imaginary part of a conjugate."""

    def is_neg(self):
        return True


class OnCuda:
    __cuda_array_interface__ = {"shape": (2, 3), "typestr": "<f4", "data": (0, False)}  # noqa: RUF012


class Sparse:
    """No array interface of any kind, as scipy.sparse."""

    shape, dtype = (2, 3), np.dtype(np.float32)


def unaligned(a):
    raw = np.zeros(a.nbytes + 1, np.uint8)[1:]
    moved = raw.view(a.dtype).reshape(a.shape)
    moved[...] = a
    return moved


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def overlapping(a, b):
    """Two arrays of three elements that begin at elements `a` and `b` of one memory."""
    base = np.zeros(8, np.float32)
    return base[a : a + 3], base[b : b + 3]


# What is no array that a step reads or writes: what makes it, the error, what its message says.
KINDS = {
    "subclass": (lambda a: a.view(Subclass), TypeError, "np.asarray"),
    "matrix": (lambda a: np.array(a, ndmin=2).view(np.matrix), TypeError, "np.asarray"),
    "masked": (np.ma.masked_array, TypeError, r"\.data"),
    "list": (lambda a: a.tolist(), TypeError, "expected|numpy.ndarray"),
    "number": (lambda a: 1.0, TypeError, "numpy.ndarray"),
    "sparse": (lambda a: Sparse(), TypeError, "numpy.ndarray"),
    "object": (lambda a: a.astype(object), TypeError, "astype"),
    "complex": (lambda a: a.astype(np.complex64), TypeError, r"\.view\(np\.float32\)"),
    "float16": (lambda a: a.astype(np.float16), TypeError, "astype"),
    "longdouble": (lambda a: a.astype(np.longdouble), TypeError, "astype"),
    "int": (lambda a: a.astype(np.int32), TypeError, "astype"),
    "bool": (lambda a: a.astype(bool), TypeError, "astype"),
    "other-endian": (lambda a: a.astype(a.dtype.newbyteorder()), TypeError, "byte order"),
    "unaligned": (unaligned, ValueError, "copy"),
    "dlpack-device": (lambda a: Foreign(a, device=(2, 0)), TypeError, "CPU"),
    "dlpack-negated": (Negated, TypeError, "resolve_neg"),
    "dlpack-grad": (lambda a: Foreign(a, requires_grad=True), TypeError, "detach"),
}
# On a machine without a GPU; tests/test_cuda_arrays.py has those that there are.
CUDA = {"cuda": (lambda a: OnCuda(), (RuntimeError, ValueError), "GPU")}
PARAMS = (
    KINDS
    | CUDA
    | {
        "None": (lambda a: None, TypeError, "numpy.ndarray"),
        "read-only": (read_only, ValueError, "writable"),
        "strided": (lambda a: np.repeat(a, 2, axis=-1)[..., ::2], ValueError, "ascontiguousarray"),
        "negative": (lambda a: a.copy()[::-1], ValueError, "ascontiguousarray"),
        "dlpack-read-only": (lambda a: Foreign(read_only(a)), (ValueError, TypeError), "."),
    }
)
GRADS = (
    KINDS
    | CUDA
    | {
        "shape": (lambda a: np.ones(a.size + 1, a.dtype), ValueError, r"expected \(2, 3\)"),
        "flat": (lambda a: a.ravel(), ValueError, r"expected \(2, 3\)"),
        "column": (lambda a: np.ones((2, 1), a.dtype), ValueError, r"expected \(2, 3\)"),
        "float64": (lambda a: a.astype(np.float64), TypeError, "np.float64 scalar"),
    }
)


def cases(table):
    return [pytest.param(*row, id=name) for name, row in table.items()]
