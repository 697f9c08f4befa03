"""PyTorch's optimizers on a GPU, as a user steps them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

import cyopt
from cyopt.bench.cases import LR, Case
from cyopt.bench.gpu import subject
from cyopt.bench.implementations import Implementation, Subject

from ..torch import OPTIMIZERS
from .common import Copies

DEVICE = "cuda"


def fused(case: Case, threads: Sequence[int]) -> Iterable[Subject]:
    """`fused=True`: one pass over memory. RMSprop and, on a GPU, Adagrad do not have it."""
    has_it = case.rule.cls not in (cyopt.RMSProp, cyopt.AdaGrad)
    return _optimizer(case, "fused") if has_it else []


def foreach(case: Case, threads: Sequence[int]) -> Iterable[Subject]:
    """`foreach=True`: each operation over the whole list; not for Nesterov, see `peers.torch`."""
    return [] if case.rule.name == "nesterov" else _optimizer(case, "foreach")


def _optimizer(case: Case, way: str) -> Iterable[Subject]:
    copies = Copies(
        case,
        lambda array: torch.tensor(array, device=DEVICE),
        lambda tensor, array: tensor.data.copy_(torch.from_numpy(array)),
        lambda tensor: tensor.detach().cpu().numpy(),
    )
    for param, grad in zip(copies.params, copies.grads, strict=True):
        param.requires_grad_().grad = grad
    names: dict[str, Any] = {}

    def start() -> None:
        copies.reset()
        arguments: dict[str, Any] = {**case.rule.arguments, way: True}
        names["opt"] = OPTIMIZERS[case.rule.cls](copies.params, lr=LR, **arguments)

    name = f"torch {way}"
    yield subject(name, "opt.step()", names, start, copies.results, copies.read_grads)


if DEVICE == "cuda" and not torch.cuda.is_available():
    raise ImportError("torch sees no GPU")

PEERS: list[Implementation] = [fused, foreach]
