"""Which samples of each mini-batch belong to a rank."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np


def own_batches(
    samples: int, batch: int, comm: Any, *, epoch: int, seed: int = 0
) -> Iterator[tuple[np.ndarray[Any, Any], float]]:
    """For each mini-batch of an epoch, this rank's samples, and the weight of their mean gradient.

    All ranks shuffle `samples` in the same way, from `seed` and `epoch`, and cut them into
    mini-batches of `batch`, the last one of what is left; each rank takes its share of each. So
    every sample goes to one rank, once per epoch, and mini-batches are the same for any number of
    ranks. The weight is 1 unless shares differ in size; with it, the mean over the ranks is the
    mean over the samples.

    >>> from mpi4py import MPI
    >>> from cyopt.distributed import own_batches
    >>> [(len(own), weight) for own, weight in own_batches(10, 4, MPI.COMM_WORLD, epoch=0)]
    [(4, 1.0), (4, 1.0), (2, 1.0)]
    """
    order = np.random.default_rng([seed, epoch]).permutation(samples)
    for first in range(0, samples, batch):
        members = order[first : first + batch]
        own = np.array_split(members, comm.size)[comm.rank]
        yield own, len(own) * comm.size / len(members)
