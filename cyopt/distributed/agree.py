"""What must be the same on all ranks, and how each of them reports a difference."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from cyopt.arrays import Array
from cyopt.distributed.layout import flat
from cyopt.hyper import Hyper, is_scheduled
from cyopt.optimizer import Optimizer


def description(opt: Optimizer, options: dict[str, Any]) -> dict[str, str]:
    """All that ranks must agree on, keyed by its name in error messages."""
    (parameters,) = opt._lists.values()
    about = {"the optimizer": type(opt).__name__, "the number of groups": str(len(opt.groups))}
    about.update({name: str(value) for name, value in options.items()})
    about["the list of parameters"] = str(parameters.names)
    for name, spec, g, count in zip(
        parameters.names, parameters.specs, parameters.group_of, parameters.counts, strict=True
    ):
        about[f"parameter {name!r}"] = f"{spec} in group {g} after {count} steps"
    for i, group in enumerate(opt.groups):
        for name, value in group.values().items():
            shown = "a schedule" if is_scheduled(value) else repr(value)
            about[f"{name} of group {i}"] = shown
    return about


def description_of_step(steps: int, hypers: Sequence[Hyper]) -> dict[str, str]:
    """What ranks must agree on in a step: values that may have changed since the start."""
    about = {"the number of steps": str(steps)}
    for i, hyper in enumerate(hypers):
        about.update({f"{field} of group {i}": repr(x) for field, x in hyper._asdict().items()})
    return about


def check_same(comm: Any, own: dict[str, str]) -> None:
    """Raise ValueError on every rank, with the first difference, if ranks differ."""
    everyone = comm.allgather(own)
    first = everyone[0]
    for rank, other in enumerate(everyone):
        for name in [*first, *other]:
            if first.get(name) != other.get(name):
                raise ValueError(
                    f"rank {rank} differs from rank 0: {name} is {other.get(name, 'missing')}"
                    f" there and {first.get(name, 'missing')} on rank 0; make the same optimizer"
                    " on all ranks"
                )


def number_of(values: object) -> int:
    """A 31-bit hash of values, by which ranks compare them."""
    return zlib.crc32(repr(values).encode()) & 0x7FFFFFFF


def check_bits(comm: Any, names: Sequence[str], params: Sequence[Array], step: int) -> None:
    """Raise RuntimeError on every rank, unless all have the same bits in all parameters."""
    numbers = [flat(param).view(np.uint8) for param in params]
    own = [hashlib.blake2b(each.data, digest_size=8).digest() for each in numbers]
    everyone = comm.allgather(own)
    for rank, other in enumerate(everyone):
        for name, a, b in zip(names, everyone[0], other, strict=True):
            if a != b:
                raise RuntimeError(
                    f"after step {step} parameter {name!r} has other bits on rank {rank} than on"
                    " rank 0: something else changed it on one of them"
                )
