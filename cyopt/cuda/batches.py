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
from cyopt.cuda.source import CHUNK_BYTES, Source, Variant, rule_source
from cyopt.cuda.tables import Table, chunks_of
from cyopt.hyper import Hyper

MOST_SETS = 4  # sets of scalars per launch, each of up to 16 arguments


class Batch(NamedTuple):
    """Arrays that one launch updates: all of one variant."""

    source: Source
    kernel: Any
    sets: list[int]  # for each set of scalars, an array that uses it
    first_chunk: int
    n_chunks: int
    launches: dict[int, _cpu.Launch]  # by stream


def options(hyper: Hyper) -> tuple[str, bool, bool, bool, bool]:
    """The properties of the hyperparameters that decide which kernel is used."""
    coupled = hyper.decay == "coupled" and hyper.weight_decay != 0
    limited, clips = hyper.clip_value != 0, hyper.clip_norm != 0
    return hyper.rule, coupled, limited, clips, bool(hyper.skip_nonfinite)


def count_chunks(params: Sequence[DeviceArray]) -> int:
    """How many chunks all parameters have, which is the size of their table."""
    return sum(-(-p.nbytes // CHUNK_BYTES) for p in params)


def make_batches(
    members: Mapping[Variant, Mapping[Hashable, list[int]]],
    params: Sequence[DeviceArray],
    rows: Table,
    chunks: Table,
    device: Device,
) -> list[Batch]:
    """Batches, whose chunks are put into the table one after another.

    `members` maps each variant to its arrays, grouped by what their scalars depend on.
    """
    batches, first = [], 0
    for variant, classes in members.items():
        lists = list(classes.values())
        for some in (lists[i : i + MOST_SETS] for i in range(0, len(lists), MOST_SETS)):
            indices = sorted(i for alike in some for i in alike)
            own = np.concatenate([chunks_of(i, params[i].size, variant.chunk) for i in indices])
            chunks.set(own, np.s_[first : first + len(own)])
            for k, alike in enumerate(some):
                rows.set(np.int64(k), np.s_[alike, SET])
            # Three kernels per variant are enough; no row chooses one of the sets left over.
            n_sets = next(n for n in (1, 2, MOST_SETS) if n >= len(some))
            sets = [alike[0] for alike in some] + [some[0][0]] * (n_sets - len(some))
            source = rule_source(variant._replace(sets=n_sets))
            compiled = cache.kernel(source, device.ordinal)
            batches.append(Batch(source, compiled, sets, first, len(own), {}))
            first += len(own)
    return batches
