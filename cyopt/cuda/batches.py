"""Which kernels update a list of parameters, and which chunks of it each launch takes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cyopt.cuda import cache
from cyopt.cuda.arrays import DeviceArray
from cyopt.cuda.driver import Device
from cyopt.cuda.source import Source, Variant, kernel
from cyopt.cuda.tables import Table, chunks_of
from cyopt.hyper import Hyper


class Batch(NamedTuple):
    """Arrays that one launch updates: all of one variant, group and step count."""

    source: Source
    kernel: Any
    members: list[int]
    first_chunk: int
    n_chunks: int


def options(hyper: Hyper) -> tuple[str, bool, bool, bool, bool]:
    """What of the hyperparameters decides which kernels there are."""
    coupled = hyper.decay == "coupled" and hyper.weight_decay != 0
    limited, clips = hyper.clip_value != 0, hyper.clip_norm != 0
    return hyper.rule, coupled, limited, clips, bool(hyper.skip_nonfinite)


def most_chunks(params: Sequence[DeviceArray]) -> int:
    """At least how many chunks the parameters have, whatever the rule."""
    return sum(-(-p.size // Variant("sgd", p.dtype.name).chunk) for p in params)


def launches(
    members: Mapping[tuple[Variant, Hashable], list[int]],
    params: Sequence[DeviceArray],
    chunks: Table,
    device: Device,
) -> list[Batch]:
    """A batch for each key, whose chunks are put into the table one after the other."""
    batches, first = [], 0
    for (variant, _), indices in members.items():
        own = [chunks_of(i, params[i].size, variant.chunk) for i in indices]
        last = first + sum(map(len, own))
        chunks.set(np.concatenate(own), np.s_[first:last])
        source = kernel(variant)
        compiled = cache.kernel(source, device.ordinal)
        batches.append(Batch(source, compiled, indices, first, last - first))
        first = last
    return batches
