"""PyTorch: its optimizers as a user steps them, and the kernel under Adam alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch

import cyopt
from cyopt.bench.cases import LR, Case
from cyopt.bench.implementations import Implementation, Subject

from .common import BETA1, BETA2, EPS, MU, arrays, clear

OPTIMIZERS: dict[Any, Any] = {
    cyopt.SGD: torch.optim.SGD,
    cyopt.Momentum: partial(torch.optim.SGD, momentum=MU),
    cyopt.AdaGrad: torch.optim.Adagrad,
    cyopt.RMSProp: torch.optim.RMSprop,
    cyopt.Adam: torch.optim.Adam,
}


def fused(case: Case, threads: Sequence[int]) -> Iterable[Subject]:
    """`fused=True`: one pass over memory. RMSprop does not have it."""
    if case.rule.cls is cyopt.RMSProp:
        return []
    return _optimizer(case, threads, "fused")


def foreach(case: Case, threads: Sequence[int]) -> Iterable[Subject]:
    """`foreach=True`: each operation over the whole list, one after the other.

    Not for Nesterov, where it adds the momentum to the gradients themselves: a second step from the
    same gradients is a different one.
    """
    if case.rule.name == "nesterov":
        return []
    return _optimizer(case, threads, "foreach")


def clip_and_fused(case: Case, threads: Sequence[int]) -> Iterable[Subject]:
    """The norm of all gradients, clipped to a limit above it: torch scales them all the same."""
    for subject in fused(case, threads):
        subject.name = "torch clip + fused"
        subject.statement = f"clip(params, 1e30); {subject.statement}"
        subject.namespace["clip"] = torch.nn.utils.clip_grad_norm_
        yield subject


def _optimizer(case: Case, threads: Sequence[int], way: str) -> Iterable[Subject]:
    params = []
    for param, grad in zip(case.params, case.grads, strict=True):
        params.append(torch.from_numpy(param).requires_grad_())
        params[-1].grad = torch.from_numpy(grad)
    arguments: dict[str, Any] = {**case.rule.arguments, way: True}
    names: dict[str, Any] = {"params": params}

    def start() -> None:
        names["opt"] = OPTIMIZERS[case.rule.cls](params, lr=LR, **arguments)

    for n in threads:
        prepare = partial(torch.set_num_threads, n)
        yield Subject(f"torch {way}", "opt.step()", names, n, start, prepare, lambda: case.params)


def kernel(case: Case, threads: Sequence[int]) -> Iterable[Subject]:
    """`torch._fused_adam_` alone. It needs a step tensor for each parameter; all share one."""
    if case.rule.cls is not cyopt.Adam:
        return
    lists = [list(map(torch.from_numpy, row)) for row in arrays(case)]
    step = torch.zeros(())
    amsgrad = case.rule.name == "amsgrad"
    names = {
        "fused_adam_": torch._fused_adam_,
        "lists": lists if amsgrad else [*lists, []],
        "step": step,
        "steps": [step] * len(case.params),
        "arguments": {
            "lr": LR,
            "beta1": BETA1,
            "beta2": BETA2,
            "weight_decay": 0.0,
            "eps": EPS,
            "amsgrad": amsgrad,
            "maximize": False,
        },
    }
    statement = "step.add_(1); fused_adam_(*lists, steps, **arguments)"

    def start() -> None:
        step.zero_()
        clear(case)

    for n in threads:
        prepare = partial(torch.set_num_threads, n)
        name = "torch._fused_adam_"
        yield Subject(name, statement, names, n, start, prepare, lambda: case.params)


PEERS: list[Implementation] = [fused, foreach, kernel]
CLIPPING: list[Implementation] = [clip_and_fused]
