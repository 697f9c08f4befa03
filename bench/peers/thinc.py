"""thinc: the function under its Adam, which takes float32 and one flat array at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from thinc.api import NumpyOps

from cyopt.bench.cases import LR, Case
from cyopt.bench.implementations import Implementation, Subject

from .common import BETA1, BETA2, EPS, arrays, counted

OPS = NumpyOps()


def ops_adam(case: Case, threads: Sequence[int]) -> Iterable[Subject]:
    """`NumpyOps.adam` for each array, and a copy of the gradient, which it sets to zero.

    Without the copy the moments would decay to subnormal numbers while it is timed. It moves 8
    bytes per element, besides the 40 of thinc's three passes.
    """
    if 1 not in threads or case.rule.name != "adam" or case.dtype.name != "float32":
        return
    params, grads, *moments = arrays(case)
    consumed = [np.empty_like(grad) for grad in grads]
    lists = list(zip(grads, params, consumed, *moments, strict=True))

    def step(t: int) -> None:
        # lr*sqrt(1-b2^t)/(1-b1^t) * m / (sqrt(v) + e) is torch's formula for this e.
        root = math.sqrt(1 - BETA2**t)
        lr, eps = LR * root / (1 - BETA1**t), EPS * root
        for grad, p, g, m, v in lists:
            np.copyto(g, grad)
            OPS.adam(p, g, m, v, BETA1, BETA2, eps, lr)

    yield counted(case, "thinc ops.adam, copy of g", "step(next(t))", {"step": step})


PEERS: list[Implementation] = [ops_adam]
