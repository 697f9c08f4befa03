"""Which kernels update a list of parameters, and which chunks of it each launch takes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cyopt import _cpu
from cyopt.cuda import cache
from cyopt.cuda.arrays import DeviceArray
from cyopt.cuda.driver import Device
from cyopt.cuda.layout import SET
from cyopt.cuda.source import Source, Variant, kernel
from cyopt.cuda.tables import Table, chunks_of
from cyopt.hyper import Hyper

MOST_SETS = 4  # of scalars for one launch: each is up to 16 arguments


class Batch(NamedTuple):
    """Arrays that one launch updates: all of one variant."""

    source: Source
    kernel: Any
    members: list[int]
    sets: list[int]  # a member of each set of scalars
    first_chunk: int
    n_chunks: int
    launches: dict[int, _cpu.Launch]  # by stream


def options(hyper: Hyper) -> tuple[str, bool, bool, bool, bool]:
    """What of the hyperparameters decides which kernels there are."""
    coupled = hyper.decay == "coupled" and hyper.weight_decay != 0
    limited, clips = hyper.clip_value != 0, hyper.clip_norm != 0
    return hyper.rule, coupled, limited, clips, bool(hyper.skip_nonfinite)


def most_chunks(params: Sequence[DeviceArray]) -> int:
    """At least how many chunks the parameters have, whatever the rule."""
    return sum(-(-p.size // Variant("sgd", p.dtype.name).chunk) for p in params)


def launches(
    members: Mapping[Variant, Mapping[Hashable, list[int]]],
    params: Sequence[DeviceArray],
    rows: Table,
    chunks: Table,
    device: Device,
) -> list[Batch]:
    """Batches whose chunks are put into the table one after the other.

    `members` has for each variant its arrays by what their scalars depend on.
    """
    batches, first = [], 0
    for variant, classes in members.items():
        lists = list(classes.values())
        for each in [lists[i : i + MOST_SETS] for i in range(0, len(lists), MOST_SETS)]:
            indices = sorted(i for own in each for i in own)
            own = [chunks_of(i, params[i].size, variant.chunk) for i in indices]
            last = first + sum(map(len, own))
            chunks.set(np.concatenate(own), np.s_[first:last])
            for k, same in enumerate(each):
                rows.set(np.int64(k), np.s_[same, SET])
            n_sets = next(n for n in (1, 2, MOST_SETS) if n >= len(each))
            source = kernel(variant._replace(sets=n_sets))
            compiled = cache.kernel(source, device.ordinal)
            sets = [same[0] for same in each] + [each[0][0]] * (n_sets - len(each))
            batches.append(Batch(source, compiled, indices, sets, first, last - first, {}))
            first = last
    return batches
