"""What a step can do besides its rule, and what that may cost: `python bench --bars`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

from cyopt import _cpu
from cyopt.bench import _roof
from cyopt.bench.cases import LR, Case
from cyopt.bench.implementations import CYOPT, KERNELS, READ, Subject, choose, parallel

# Chosen so that the parameters are those of a plain step: the reference has no options. A gradient
# below the limit is read and scaled all the same.
OPTIONS: dict[str, dict[str, Any]] = {
    "clip_norm": {"clip_norm": 1e30},
    "zero_grads": {"zero_grads": True},
    "ema": {"ema": 0.999},
}


def named(option: str) -> str:
    """The name of the subject that has this option."""
    return f"{CYOPT} with {option}"


def options(case: Case, threads: Sequence[int]) -> Iterable[Subject]:
    """A step with each option, and a read-only pass over the gradients of a case of one array."""
    for option, arguments in OPTIONS.items():
        names: dict[str, Any] = {"grads": case.grads}
        start = partial(_start, names, case, arguments)
        for n in threads:
            prepare = partial(choose, _cpu.ISAS_AVAILABLE[0], n, KERNELS)
            yield Subject(
                named(option),
                "opt.step(grads)",
                names,
                n,
                start,
                prepare,
                lambda: case.params,
                exact=True,
            )
    (grad,) = case.grads
    words = grad.view(np.uint64)
    for n in threads:
        yield parallel(READ, _roof.read, [words], n, 1)


def _start(names: dict[str, Any], case: Case, arguments: dict[str, Any]) -> None:
    names["opt"] = case.rule.cls(case.params, lr=LR, **case.rule.arguments, **arguments)
