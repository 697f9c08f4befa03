"""The norm of gradients of which each rank has a part, with the bits that a single rank would get.

A sum of squares is made of sums over chunks of 4,096 numbers of one parameter. A rank sums the
chunks that it holds completely; of those that a cut divides, all ranks get the numbers. Each sum
and each number comes from one rank, and the others add 0, so that nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mpi4py import MPI

from cyopt import _cpu, rules
from cyopt.arrays import Array
from cyopt.distributed.layout import FlatBuffer, Piece

Numbers = np.ndarray[Any, np.dtype[np.float64]]
CHUNK = rules.CHUNK


class Sums:
    """The sums of squares of the gradients of all parameters."""

    def __init__(self, comm: Any, buffers: Sequence[FlatBuffer], params: Sequence[Array]) -> None:
        self._comm, self._params = comm, params
        counts = [-(-param.size // CHUNK) for param in params]
        self._first = np.concatenate([[0], np.cumsum(counts)]).astype(int)
        # Each cut inside a parameter is the start of a piece.
        pieces = [
            piece for buffer in buffers for r in range(comm.size) for piece in buffer.pieces(r)
        ]
        divided = sorted({(p.param, p.start // CHUNK) for p in pieces if p.start % CHUNK})
        self._divided = {chunk: row for row, chunk in enumerate(divided)}
        # Sums of chunks; how many parts of each parameter are nonfinite; the numbers of the
        # divided chunks.
        sizes = [int(self._first[-1]), len(params), CHUNK * len(divided)]
        self._message = np.zeros(sum(sizes))
        self._sums, self._nonfinite, numbers = np.split(self._message, np.cumsum(sizes)[:2])
        self._numbers = numbers.reshape(-1, CHUNK)

    def measure(
        self, pieces: Sequence[Piece], grads: Sequence[Array | None], scales: Sequence[float]
    ) -> tuple[list[float], list[bool]]:
        """Each parameter's sum of squares, and whether it is nonfinite, the same on all ranks.

        `grads` are those of the pieces; `scales` has the `s` of each parameter.
        """
        self._message[:] = 0
        for piece, grad in zip(pieces, grads, strict=True):
            if grad is not None:
                self._add(piece, grad, scales[piece.param])
        self._comm.Allreduce(MPI.IN_PLACE, self._message, MPI.SUM)
        for (i, chunk), row in self._divided.items():
            n = min(CHUNK, self._params[i].size - CHUNK * chunk)
            numbers = self._numbers[row, :n].astype(self._params[i].dtype)
            place = self._first[i] + chunk
            _cpu.square_sums(numbers, scales[i], self._sums[place : place + 1])
        spans = zip(self._first, self._first[1:], strict=False)
        sums = [rules.pairwise_sum(self._sums[first:last]) for first, last in spans]
        return sums, [bool(n) for n in self._nonfinite]

    def _add(self, piece: Piece, grad: Array, s: float) -> None:
        """Add a piece: its whole chunks, then the rest at either end."""
        first = -(-piece.start // CHUNK) * CHUNK
        whole = piece.stop == self._params[piece.param].size
        last = piece.stop if whole else piece.stop // CHUNK * CHUNK
        if first < last:
            place = self._first[piece.param] + first // CHUNK
            sums = self._sums[place : place + -(-(last - first) // CHUNK)]
            inner = grad[first - piece.start : last - piece.start]
            self._nonfinite[piece.param] += not _cpu.square_sums(inner, s, sums)
        for a, b in ((piece.start, min(first, piece.stop)), (max(last, first), piece.stop)):
            if a < b:
                row = self._divided[piece.param, a // CHUNK]
                numbers = grad[a - piece.start : b - piece.start]
                self._numbers[row, a % CHUNK : a % CHUNK + b - a] = numbers
                with np.errstate(over="ignore", invalid="ignore"):
                    scaled = grad.dtype.type(s) * numbers
                self._nonfinite[piece.param] += not np.isfinite(scaled).all()
