"""CuPy: Adam as a custom elementwise kernel, as a user of CuPy would write it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import cupy

from cyopt.bench.cases import Case
from cyopt.bench.implementations import Implementation, Subject

from ..common import BETA1, BETA2, EPS
from .common import Copies, adam

_adam = cupy.ElementwiseKernel(
    "T grad, T beta1, T beta2, T step_size, T root_scale, T eps",
    "T param, T exp_avg, T exp_avg_sq",
    """
    exp_avg = beta1 * exp_avg + (1 - beta1) * grad;
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * grad * grad;
    param -= step_size * exp_avg / (sqrt(exp_avg_sq) * root_scale + eps);
    """,
    "adam",
)


def elementwise(case: Case, threads: Sequence[int]) -> Iterable[Subject]:
    """One launch for each array."""
    if case.rule.name != "adam":
        return []

    def step(p: Any, g: Any, m: Any, v: Any, step_size: float, root_scale: float) -> None:
        _adam(g, BETA1, BETA2, step_size, root_scale, EPS, p, m, v)

    copies = Copies(case, cupy.asarray, lambda array, host: array.set(host), cupy.asnumpy)
    return adam("CuPy elementwise", copies, step)


PEERS: list[Implementation] = [elementwise]
