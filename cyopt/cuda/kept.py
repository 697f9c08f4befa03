"""Plans of the functional form, kept for calls whose arrays lie where they did.

Making one allocates on the GPU, and dropping it waits for it. A plan that is kept holds no array of
the caller: each call lends it its own, which are known by where they lie, and takes them back.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

from cyopt import trees
from cyopt.cuda import libraries
from cyopt.cuda.arrays import DeviceArray, lenders
from cyopt.cuda.plan import Plan
from cyopt.hyper import Hyper

if TYPE_CHECKING:
    from cyopt.parameters import Layout

_MOST = 64  # plans; each is some tables on the GPU
_plans: dict[Hashable, KeptPlan] = {}


class KeptPlan(Plan):
    """A plan whose step count the caller tells, with arrays that are lent."""

    def call(
        self, params: Sequence[Any], grads: Sequence[Any], hyper: Hyper, step: int
    ) -> bool | None:
        """The step, if the gradients are as in the last call but for their addresses.

        True, or False if it was skipped; else None, and nothing is done.
        """
        self._begin(params, grads, hyper, step)
        node = trees.structure(params)
        try:
            if self.again(None, params, grads, node, False) is None:
                return None
            return self._done()
        finally:
            self._give_back()

    def call_checked(
        self, params: Sequence[Any], grads: Sequence[DeviceArray | None], hyper: Hyper, step: int
    ) -> bool:
        """The step with gradients that have been checked."""
        self._begin(params, [], hyper, step)
        try:
            self.run(grads, False)
            return self._done()
        finally:
            self._give_back()

    def _begin(self, params: Sequence[Any], grads: Sequence[Any], hyper: Hyper, step: int) -> None:
        self.set_hypers([hyper])
        self._counts[:] = step - 1
        self._current = False
        for array, value in zip(self._params, params, strict=True):
            array.owner = value
        # Of these gradients, which may be elsewhere than the last ones, only the streams matter.
        place, device = self._params[0].where, self._device.ordinal
        given = [DeviceArray(place, device, grad) for grad in grads if grad is not None]
        self._lenders = lenders([*self._params, *given])

    def _done(self) -> bool:
        self.fetch()
        return not self._measured[3]

    def _give_back(self) -> None:
        self._lenders = []
        for arrays in (self._params, self._averages, *self._states):
            for array in arrays:
                if array is not None:
                    array.owner = None


def key_of(layout: Layout, columns: Sequence[Sequence[Any]]) -> Hashable:
    """What a plan is kept under: what it does, and where parameters and state lie."""
    options = layout.slots, layout.averages, layout.average_from_zeros, layout.zero_grads
    places = tuple(tuple(libraries.identities(column)) for column in columns)
    return options, layout.cast_grads, places


def find(key: Hashable) -> KeptPlan | None:
    """The plan of this key."""
    return _plans.get(key)


def keep(key: Hashable, plan: KeptPlan) -> None:
    """Keep it, in the place of the oldest one if there are many."""
    if len(_plans) >= _MOST:
        del _plans[next(iter(_plans))]
    _plans[key] = plan
