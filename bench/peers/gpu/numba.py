"""Numba: Adam as a plain CUDA kernel, a thread for each element, a launch for each array."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from numba import cuda

from cyopt.bench.cases import Case
from cyopt.bench.implementations import Implementation, Subject

from ..common import BETA1, BETA2, EPS
from .common import Copies, adam

_THREADS = 256


def _kernel(p, g, m, v, beta1, beta2, step_size, root_scale, eps):  # type: ignore[no-untyped-def]
    i = cuda.grid(1)
    if i < p.size:
        m[i] = beta1 * m[i] + (1 - beta1) * g[i]
        v[i] = beta2 * v[i] + (1 - beta2) * g[i] * g[i]
        p[i] -= step_size * m[i] / (math.sqrt(v[i]) * root_scale + eps)


_adam = cuda.jit(_kernel)


def plain(case: Case, threads: Sequence[int]) -> Iterable[Subject]:
    """With scalars of the arrays' dtype: Python floats would make all arithmetic double."""
    if case.rule.name != "adam":
        return []
    real = case.dtype.type
    fixed = real(BETA1), real(BETA2)

    def step(p: Any, g: Any, m: Any, v: Any, step_size: float, root_scale: float) -> None:
        blocks = -(-p.size // _THREADS)
        _adam[blocks, _THREADS](p, g, m, v, *fixed, real(step_size), real(root_scale), real(EPS))

    copies = Copies(
        case,
        cuda.to_device,
        lambda array, host: array.copy_to_device(host),
        lambda array: array.copy_to_host(),
    )
    return adam("Numba plain", copies, step)


PEERS: list[Implementation] = [plain]
