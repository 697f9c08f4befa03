"""Fills buckets with gradients, and reduces them while other gradients are still computed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from mpi4py import MPI

from cyopt.arrays import Array
from cyopt.distributed.layout import FlatBuffer, Piece, flat


class Exchange:
    """The buckets of all buffers, in the order in which every rank starts their reductions."""

    def __init__(
        self, comm: Any, buffers: Sequence[FlatBuffer], params: Sequence[Array], shard: bool
    ) -> None:
        self._comm, self._params, self._shard = comm, params, shard
        self._buckets = [(buffer, k) for buffer in buffers for k in range(len(buffer.buckets))]
        self._buffer_of = {i: buffer for buffer in buffers for i in buffer.members}
        places = {(id(buffer), k): n for n, (buffer, k) in enumerate(self._buckets)}
        self._buckets_of = {
            i: [places[id(buffer), k] for k in buffer.buckets_of(i)]
            for i, buffer in self._buffer_of.items()
        }
        self._members = [0] * len(self._buckets)
        for buckets in self._buckets_of.values():
            for n in buckets:
                self._members[n] += 1
        self._pieces_of: dict[tuple[int, int, int], list[Piece]] = {}
        # With `shard`: this rank's part of the sum of each bucket, and the pieces in them.
        self._parts: list[Array] = []
        self.reduced_pieces: list[Array] = []
        for buffer, k in self._buckets if shard else ():
            own = buffer.part(k, comm.rank)
            part = np.empty(own.stop - own.start, buffer.memory.dtype)
            self._parts.append(part)
            for piece in self._pieces(buffer, k, comm.rank):
                first = piece.place - own.start
                self.reduced_pieces.append(part[first : first + piece.stop - piece.start])
        self._begin()

    def _pieces(self, buffer: FlatBuffer, bucket: int, rank: int) -> list[Piece]:
        key = id(buffer), bucket, rank
        if key not in self._pieces_of:
            self._pieces_of[key] = list(buffer.pieces_of(bucket, rank))
        return self._pieces_of[key]

    def _begin(self) -> None:
        self.packed: set[int] = set()
        self._summed: set[int] = set()  # by `accumulate`: their gradients are in the buckets
        self._missing = list(self._members)
        self.started = 0
        self._waits_from: int | None = None
        self._requests: list[Any] = []

    def add(self, i: int, grad: Array) -> None:
        """Add a gradient of a local batch that is not the last one."""
        self._put(i, grad)
        self._summed.add(i)

    def pack(self, i: int, grad: Array | None) -> None:
        """Take a gradient of the last local batch, and start the reductions that it completes.

        The mean over the ranks is a sum, since each rank divides its gradients by their number.
        """
        if grad is not None:
            self._put(i, grad)
        elif i not in self._summed:
            self._buffer_of[i].views[i][...] = 0
        self.packed.add(i)
        for n in self._buckets_of[i]:
            self._missing[n] -= 1
        self._start()

    def _put(self, i: int, grad: Array) -> None:
        view, scale = self._buffer_of[i].views[i], grad.dtype.type(1 / self._comm.size)
        with np.errstate(all="ignore"):
            if i in self._summed:
                view += scale * grad
            else:
                np.multiply(grad, scale, out=view, casting="same_kind")

    def has(self, i: int) -> bool:
        """Whether this rank has a gradient of the parameter in the buckets."""
        return i in self.packed or i in self._summed

    def _start(self) -> None:
        """Start reducing the buckets that are complete, each only after all those before it."""
        while self.started < len(self._buckets) and not self._missing[self.started]:
            buffer, k = self._buckets[self.started]
            first, last = buffer.buckets[k]
            bucket = buffer.memory[first:last]
            waits = self._waits_from is not None and self.started >= self._waits_from
            if self._shard:
                reduce = (
                    self._comm.Reduce_scatter_block if waits else self._comm.Ireduce_scatter_block
                )
                request = reduce(bucket, self._parts[self.started], MPI.SUM)
            else:
                reduce = self._comm.Allreduce if waits else self._comm.Iallreduce
                request = reduce(MPI.IN_PLACE, bucket, MPI.SUM)
            self._requests += [] if waits else [request]
            self.started += 1
        if self._requests:
            MPI.Request.Testall(self._requests)  # MPI makes progress only inside its functions

    def wait_from(self, bucket: int) -> None:
        """Reduce this bucket and those after it one by one, which takes half the time.

        Only for buckets whose gradients are all computed, and the same ones on all ranks: `bucket`
        is the largest `started` of any rank.
        """
        self._waits_from = bucket

    def finish(self) -> None:
        """Wait for all reductions, and begin the next step."""
        MPI.Request.Waitall(self._requests)
        self._begin()

    def reduced(self, i: int) -> Array:
        """The mean gradient of a parameter, without `shard`."""
        return self._buffer_of[i].views[i]

    def gather_params(self, pieces: Sequence[Piece], updated: Sequence[Array]) -> None:
        """Give all ranks the pieces of parameters that each has updated.

        Bucket by bucket: what arrives is still in the cache when it is copied to its place.
        """
        own = iter(zip(pieces, updated, strict=True))
        ranks = range(self._comm.size)
        for buffer, k in self._buckets:
            for piece, numbers in itertools.islice(
                own, len(self._pieces(buffer, k, self._comm.rank))
            ):
                buffer.memory[piece.place : piece.place + numbers.size] = numbers
            first, last = buffer.buckets[k]
            self._comm.Allgather(MPI.IN_PLACE, buffer.memory[first:last])
            for rank in ranks:
                for piece in self._pieces(buffer, k, rank) if rank != self._comm.rank else ():
                    arrived = buffer.memory[piece.place : piece.place + piece.stop - piece.start]
                    flat(self._params[piece.param])[piece.start : piece.stop] = arrived
