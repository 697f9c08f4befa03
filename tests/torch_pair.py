"""torch's optimizers on cyopt's step and torch's own: what their tests share."""

import numpy as np
import torch

from cyopt.integrations import torch as ours


def leaf(*shape, value=1.0):
    return torch.full(shape, value, requires_grad=True)


def steps(opt, params, n=1):
    for _ in range(n):
        for i, p in enumerate(params):
            p.grad = torch.full_like(p, 1.0 - 2.0 * (i % 2))
        opt.step()


def both(run):
    """Run it on cyopt's module and on torch's: the same numbers except for their last bits.

    The tolerance is a part of the largest, as the order of operations is another one.
    """
    mine, theirs = np.array(run(ours)), np.array(run(torch.optim))
    assert abs(mine - theirs).max() <= 3e-6 * abs(theirs).max()


def one(name="Adam", **kwargs):
    p = torch.ones(4, requires_grad=True)
    opt = getattr(ours, name)([p], lr=0.1, **kwargs)
    p.grad = torch.ones(4)
    return p, opt


def counts(opt):
    return [float(opt.state[p]["step"]) for group in opt.param_groups for p in group["params"]]


def emptied():
    tensor = torch.ones(4)
    tensor.untyped_storage().resize_(0)
    return tensor
