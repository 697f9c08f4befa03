"""Optimizers on the stand-in of a GPU: beside one on the CPU, alone, and interrupted."""

import contextlib

import numpy as np
import pytest
from gpu_of_host import HostArray
from same_bits import same_bits, same_optimizers

import cyopt

SHAPES = [(3, 5), (), (0,), (9000,), (2, 3, 4)]


class Pair:
    """The same steps on the stand-in of a GPU and on the CPU."""

    def __init__(self, cls=cyopt.Adam, shapes=SHAPES, dtype=np.float32, order="C", **kwargs):
        rng = np.random.default_rng(0)
        self.host = [np.asarray(rng.normal(size=s), dtype, order=order) for s in shapes]
        self.grads = [np.asarray(rng.normal(size=s), dtype, order=order) for s in shapes]
        self.expected = [array.copy("K") for array in self.host]
        self.params = [HostArray(array) for array in self.host]
        self.own_grads = [HostArray(grad.copy("K")) for grad in self.grads]
        self.opt = cls(self.params, **kwargs)
        self.cpu = cls(self.expected, **{**kwargs, "capturable": False})
        cyopt.set_subnormals("keep")

    def step(self, skipped=(), **kwargs):
        def without(grads):
            return [None if i in skipped else grad for i, grad in enumerate(grads)]

        self.cpu.step(without([grad.copy("K") for grad in self.grads]))
        return self.opt.step(without(self.own_grads), **kwargs)

    def same(self):
        for a, b in zip(self.host, self.expected, strict=True):
            assert same_bits(a, b)
        same_optimizers(self.opt, self.cpu)


def one(**options):
    """An optimizer of one parameter, and its gradient."""
    param, grad = np.ones(4, np.float32), np.ones(4, np.float32)
    return cyopt.Adam([HostArray(param)], **options), [HostArray(grad)]


@contextlib.contextmanager
def interrupt_after_the_step(monkeypatch):
    """In this block a step is interrupted as soon as it is made, before Python continues."""
    perform = cyopt._cpu.perform

    def interrupted(calls, pairs):
        perform(calls, pairs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cyopt._cpu, "perform", interrupted)
        with pytest.raises(KeyboardInterrupt):
            yield
