"""Where the numbers of all parameters lie in the buckets that are communicated.

All parameters of one dtype lie one after another, the last one first, since a backward pass
computes the last gradients first. This flat buffer is cut into buckets, and each bucket into equal
parts, one for each rank, at multiples of 64 bytes:

    parameters     |      w3      |  b2  |            w2            | b1 |     w1     |
    buckets        |           0             |            1            |      2      ...
    parts          |  rank 0    |  rank 1    |  rank 0    |  rank 1    |   ...

With `shard` a rank keeps state only for its part of each bucket.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from cyopt.arrays import Array

PART_BYTES = 64  # parts are multiples of it: a cache line, and a vector of AVX-512


class Piece(NamedTuple):
    """A run of one parameter's numbers inside one part of a bucket."""

    param: int  # its place in the list
    start: int  # the first number, in the parameter's own memory order
    stop: int
    place: int  # where the first number lies in the buffer


class FlatBuffer:
    """The parameters of one dtype, and the buffer for communicating them and their gradients."""

    def __init__(
        self, params: Sequence[Array], members: Sequence[int], ranks: int, bucket_bytes: int
    ) -> None:
        dtype = params[members[0]].dtype
        self.ranks, self.members, self.starts = ranks, list(reversed(members)), {}
        size = 0
        for i in self.members:
            self.starts[i] = size
            size += params[i].size
        grain = ranks * PART_BYTES // dtype.itemsize
        most = max(bucket_bytes // dtype.itemsize // grain, 1) * grain
        self.size = -(-size // grain) * grain
        self.buckets = [(a, min(a + most, self.size)) for a in range(0, self.size, most)]
        self._params = params
        self.memory = np.zeros(self.size, dtype)
        self.views = {i: _like(self.memory[self.starts[i] :], params[i]) for i in self.members}

    def part(self, bucket: int, rank: int) -> slice:
        """The part of a bucket that a rank owns."""
        first, last = self.buckets[bucket]
        size = (last - first) // self.ranks
        return slice(first + rank * size, first + (rank + 1) * size)

    def pieces(self, rank: int) -> Iterator[Piece]:
        """The pieces that a rank owns, bucket by bucket."""
        for bucket in range(len(self.buckets)):
            yield from self.pieces_of(bucket, rank)

    def pieces_of(self, bucket: int, rank: int) -> Iterator[Piece]:
        """The pieces of a bucket that a rank owns."""
        part = self.part(bucket, rank)
        for i in self.members:
            first = self.starts[i]
            start, stop = max(part.start, first), min(part.stop, first + self._params[i].size)
            if start < stop:
                yield Piece(i, start - first, stop - first, start)

    def buckets_of(self, i: int) -> list[int]:
        """The buckets in which a parameter lies."""
        first, last = self.starts[i], self.starts[i] + self._params[i].size
        return [k for k, (a, b) in enumerate(self.buckets) if a < last and first < b]


def flat_buffers(params: Sequence[Array], ranks: int, bucket_bytes: int) -> list[FlatBuffer]:
    """A buffer for each dtype of the parameters."""
    dtypes = sorted({param.dtype.name for param in params})
    members = [[i for i, p in enumerate(params) if p.dtype.name == dtype] for dtype in dtypes]
    return [FlatBuffer(params, each, ranks, bucket_bytes) for each in members]


def flat(param: Array) -> Array:
    """A flat view of a dense array, in memory order."""
    return (param if param.flags.c_contiguous else param.T).reshape(-1)


def _like(memory: Array, param: Array) -> Array:
    """An array at the start of `memory` with the shape and element order of a parameter."""
    shape = param.shape if param.flags.c_contiguous else param.T.shape
    array = memory[: param.size].reshape(shape)
    return array if param.flags.c_contiguous else array.T
