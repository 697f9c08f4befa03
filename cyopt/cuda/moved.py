"""Gradients that differ in their addresses alone from those that were checked.

Backward passes give new memory at each step. A full look at each gradient takes 40 us; here what
cannot have changed is compared, and what follows from the addresses is checked for all at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cyopt.arrays import Written
from cyopt.cuda import driver, libraries
from cyopt.cuda.arrays import DeviceArray
from cyopt.cuda.libraries import Identity

Identities = Sequence[Identity | None]


class Moved:
    """What tells for a list of parameters whether such gradients can be read."""

    def __init__(self, ordinal: int, params: Sequence[DeviceArray], written: Written) -> None:
        self._ordinal = ordinal
        self._nbytes = np.array([param.nbytes for param in params])
        self._itemsizes = np.array([param.itemsize for param in params])
        self._begins = np.array(written.begins, np.int64)
        self._ends = np.array(written.ends, np.int64)

    def can_be_read(self, grads: Sequence[Any], found: Identities, known: Identities) -> bool:
        """Whether these are as the known ones, which are dense, but for harmless other addresses.

        False only says that all is to be looked at.
        """
        if len(found) != len(known) or not all(map(_alike, found, known)):
            return False
        given = [i for i, one in enumerate(found) if one is not None and self._nbytes[i]]
        addresses = np.array([found[i][0] for i in given], np.int64)  # type: ignore[index]
        ends = addresses + self._nbytes[given]
        order = np.argsort(addresses)
        apart = ends[order][:-1] <= addresses[order][1:]
        # The first written array that ends behind a gradient's begin begins behind its end.
        nearest = np.searchsorted(self._ends, addresses, side="right")
        begins = np.append(self._begins, np.iinfo(np.int64).max)[nearest]
        aligned = addresses % self._itemsizes[given] == 0
        if not (aligned.all() and apart.all() and (ends <= begins).all()):
            return False
        return all(
            libraries.of(grads[i]).device or driver.ordinal_of(address) == self._ordinal
            for i, address in zip(given, addresses.tolist(), strict=True)
        )


def _alike(one: Identity | None, other: Identity | None) -> bool:
    if one is None or other is None:
        return one is other
    return one[1] == other[1]
