"""Random sequences of steps and changes on the stand-in of a GPU, and the same on the CPU."""

import copy

import numpy as np
import pytest
from gpu_of_host import HostArray
from same_bits import same_bits, same_optimizers

import cyopt

SHAPES = [(3,), (2, 4), (300,), (0, 2), (4, 3)]
# Values that a group's hyperparameters change to between steps.
CHANGES = {
    "lr": (0.0, 0.1, 0.7),
    "clip_norm": (None, 0.1, 5.0),
    "clip_value": (None, 0.5),
    "grad_scale": (1.0, 4.0),
    "maximize": (False, True),
    "skip_nonfinite": (False, True),
    "weight_decay": (0.0, 0.1),
}
MEASURED = ("steps", "skipped", "grad_norm", "update_norm", "param_norm")


class Sequence:
    """Groups of parameters there and here, and what was given in the last steps."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        cls = self.one_of(cyopt.Adam, cyopt.Momentum)
        self.options = {
            "zero_grads": self.happens(0.5),
            "cast_grads": self.happens(0.5),
            "ema": self.one_of(None, 0.5),
        }
        capturable = self.happens(0.25)
        self.host = [self.new_group() for _ in range(self.one_of(1, 1, 2, 3))]
        self.twin = copy.deepcopy(self.host)
        there = [list(map(HostArray, group)) for group in self.host]
        self.opt = cls(self.groups(there), capturable=capturable, **self.options)
        self.cpu = cls(self.groups(self.twin), **self.options)
        self.given = None
        self.former = []  # gradients of the last steps, which nobody may touch any more

    def happens(self, probability):
        return self.rng.random() < probability

    def one_of(self, *choices):
        return choices[self.rng.integers(len(choices))]

    def groups(self, arrays):
        return [{"params": group, "lr": 0.1 + i} for i, group in enumerate(arrays)]

    def new_group(self):
        shapes = [self.one_of(*SHAPES) for _ in range(self.one_of(1, 2, 3))]
        return [self.rng.normal(size=s).astype(self.one_of("float32", "float64")) for s in shapes]

    def change(self):
        name = self.one_of(*CHANGES)
        value = self.one_of(*CHANGES[name])
        i = self.rng.integers(len(self.opt.groups))
        try:
            setattr(self.cpu.groups[i], name, value)
        except ValueError:
            with pytest.raises(ValueError):
                setattr(self.opt.groups[i], name, value)
        else:
            setattr(self.opt.groups[i], name, value)

    def load(self):
        self.cpu.load_state_dict(self.opt.state_dict())
        self.opt.load_state_dict(self.cpu.state_dict())

    def add(self):
        group = self.new_group()
        self.host.append(group)
        self.twin.append(copy.deepcopy(group))
        self.opt.add_group({"params": list(map(HostArray, group))})
        self.cpu.add_group({"params": self.twin[-1]})
        self.given = None

    def refused(self):
        with pytest.raises((TypeError, ValueError), match=r"dtype|shape"):
            self.opt.step([[HostArray(np.ones(7)) for _ in group] for group in self.host])

    def new_grad(self, param):
        """None, or numbers in memory of some strides, of a wider dtype where that is cast."""
        if self.happens(0.15):
            return None
        wide = self.options["cast_grads"] and self.happens(0.4)
        dtype = np.float64 if wide else param.dtype
        room = self.rng.normal(size=(*param.shape[:-1], 2 * param.shape[-1])).astype(dtype)
        grad = self.one_of(room[..., ::2], room[..., ::-2], np.ascontiguousarray(room[..., ::2]))
        if grad.size and self.happens(0.08):
            grad[(0,) * grad.ndim] = np.nan
        return HostArray(grad)

    def grads(self):
        """Those of the last step, in which there are other numbers by now, or others."""
        if self.given is None or self.happens(0.7):
            return [[self.new_grad(param) for param in group] for group in self.host]
        return self.given

    def flat(self, grads):
        return [grad for group in grads for grad in group if grad is not None]

    def step(self):
        grads, norms = self.grads(), self.happens(0.25)
        here = [[None if g is None else g.array.copy() for g in group] for group in grads]
        old = [g for former in self.former for g in self.flat(former) if g not in self.flat(grads)]
        untouched = [g.array.copy() for g in old]
        done, expected = self.opt.step(grads, norms=norms), self.cpu.step(here, norms=norms)
        assert done in (expected, None)
        for grad, array in zip(old, untouched, strict=True):
            assert same_bits(grad.array, array)
        for grad, array in zip(self.flat(grads), self.flat(here), strict=True):
            assert same_bits(grad.array, array)
        for params, twins in zip(self.host, self.twin, strict=True):
            assert all(map(same_bits, params, twins))
        for grad in self.flat(grads):
            grad.array[...] = self.rng.normal(size=grad.array.shape)
        self.given, self.former = grads, [*self.former[-3:], grads]

    def look(self):
        for name in MEASURED:
            value, expected = getattr(self.opt, name), getattr(self.cpu, name)
            if expected is not None or not self.opt.groups[0].capturable:
                np.testing.assert_equal(value, expected, name)


@pytest.mark.parametrize("block", range(6))
def test_sequences(gpu, block, full):
    cyopt.set_subnormals("keep")
    for seed in range(1000 * block, 1000 * block + (60 if full else 2)):
        sequence = Sequence(seed)
        for _ in range(25):
            for action, probability in (
                (sequence.change, 0.35),
                (sequence.load, 0.05),
                (sequence.add, 0.04 * (len(sequence.host) < 5)),
                (sequence.refused, 0.03),
            ):
                if sequence.happens(probability):
                    action()
            sequence.step()
            if sequence.happens(0.4):
                sequence.look()
        same_optimizers(sequence.opt, sequence.cpu)
