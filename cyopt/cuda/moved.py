"""Gradients that differ only in their addresses from those that were checked.

Backward passes allocate new memory at each step. A full check of a gradient takes 40 us; here the
properties that must not have changed are compared, and what follows from the addresses is checked
for all gradients at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cyopt.arrays import Written
from cyopt.cuda import driver, libraries
from cyopt.cuda.arrays import DeviceArray

Addresses = np.ndarray[Any, np.dtype[np.int64]]


class Moved:
    """Decides for a list of parameters whether such gradients can be read."""

    def __init__(self, ordinal: int, params: Sequence[DeviceArray], written: Written) -> None:
        self._ordinal = ordinal
        self._nbytes = np.array([param.nbytes for param in params])
        self._itemsizes = np.array([param.itemsize for param in params])
        self._begins = np.array(written.begins, np.int64)
        self._ends = np.array(written.ends, np.int64)

    def can_be_read(self, grads: Sequence[Any], addresses: Addresses) -> bool:
        """Whether gradients that are like known, dense ones can be read where they are.

        False only means that the full check has to be made.
        """
        has_bytes = self._nbytes != 0
        given = np.flatnonzero((addresses != 0) & has_bytes)
        absent = np.flatnonzero((addresses == 0) & has_bytes).tolist()
        if any(grads[i] is not None for i in absent):
            return False  # one whose memory was freed
        begins = addresses[given]
        ends = begins + self._nbytes[given]
        order = np.argsort(begins)
        apart = ends[order][:-1] <= begins[order][1:]  # as zeroed gradients must be
        # Written arrays are sorted and disjoint: of those that end after a gradient's start, the
        # first must start at or after the gradient's end.
        nearest = np.searchsorted(self._ends, begins, side="right")
        written = np.append(self._begins, np.iinfo(np.int64).max)[nearest]
        aligned = begins % self._itemsizes[given] == 0
        if not (aligned.all() and apart.all() and (ends <= written).all()):
            return False
        return all(
            # If the library reports the device, it is part of the identity that was compared.
            libraries.of(grads[i]).device is not None or driver.ordinal_of(address) == self._ordinal
            for i, address in zip(given.tolist(), begins.tolist(), strict=True)
        )
