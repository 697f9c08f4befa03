"""Plans of the functional form, kept for calls whose arrays lie where they did.

Making one allocates on the GPU, and dropping it waits for it. A plan that is kept holds no array of
the caller: each call lends it its own, which are known by where they lie, and takes them back.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

from cyopt import _cpu, trees
from cyopt.cuda import libraries
from cyopt.cuda.arrays import DeviceArray
from cyopt.cuda.plan import Plan
from cyopt.hyper import Hyper
from cyopt.measured import PENDING, Done
from cyopt.rounding import check_rounded

if TYPE_CHECKING:
    from cyopt.given import GroupSpec

_MOST = 64  # plans; each is some tables on the GPU, and dense copies of strided gradients
_plans: dict[Hashable, list[KeptPlan]] = {}


class KeptPlan(Plan):
    """A plan of arrays that are lent for each call, as is the step count."""

    def keep(self, key: Hashable, arrays: list[Any]) -> None:
        """Keep it for calls with these arrays, parameters first, of which it holds none."""
        self._arrays = libraries.places(arrays)
        self._lock = threading.Lock()
        self._dtypes = {param.dtype for param in self._params}
        self._node = trees.structure(self._params)
        for own in (self._params, self._averages, *self._states):
            for array in own:
                if array is not None:
                    array.owner = None
        _keep(key, self, arrays)

    def lies_at(self, arrays: list[Any]) -> bool:
        """Whether these arrays lie where the first ones did."""
        return self._arrays.find(arrays) is self._arrays.addresses

    def same_params(self, values: list[Any]) -> bool:
        """`find` has looked already, at the state as well."""
        return True

    def call(
        self, arrays: list[Any], grads: list[Any], hyper: Hyper, step: int, stream: Any
    ) -> bool | None:
        """The step, if the gradients differ from the last call's only in their addresses.

        `arrays` are those that `keep` was given.

        True, or False if it was skipped; else None, and nothing is done.
        """
        if not all(map(libraries.is_on_gpu, _cpu.first_of_types(grads))):
            return None
        if not self._lock.acquire(blocking=False):  # another thread is inside
            return None
        try:
            self._begin(arrays, hyper, step)
            # The gradients may be used on other streams than the last ones.
            self._streams.lend([*arrays, *grads])
            params = arrays[: len(self._params)]
            done = self.again(None, params, grads, self._node, False, stream)
            return None if done is None else self._was_made(done)
        finally:
            self._give_back()
            self._lock.release()

    def call_checked(
        self,
        arrays: list[Any],
        grads: Sequence[DeviceArray | None],
        hyper: Hyper,
        step: int,
        stream: Any,
    ) -> bool:
        """The step with gradients that have been checked."""
        with self._lock:
            try:
                self._begin(arrays, hyper, step)
                return self._was_made(self.run(grads, False, stream))
            finally:
                self._give_back()

    def _begin(self, arrays: list[Any], hyper: Hyper, step: int) -> None:
        if not self._hypers or hyper is not self._hypers[0]:
            for dtype in self._dtypes:
                check_rounded(hyper, dtype)
            self.set_hypers([hyper])
        self._counts[:] = step - 1
        self._current, self._pending[:] = False, 0  # the caller knows the count
        self._lent = arrays

    def _owners(self) -> list[Any]:
        return self._lent

    def _was_made(self, done: Done) -> bool:
        """Whether the step was made; where the GPU decides that, it is waited for."""
        if done is PENDING:
            self.fetch()
            return not self._measured[3]
        return bool(done)

    def _give_back(self) -> None:
        self._streams.give_back()
        self._lent = []


def _keep(key: Hashable, plan: KeptPlan, arrays: list[Any]) -> None:
    """Put a plan in the place of one for the same arrays; the oldest goes if there are many."""
    others = [other for other in _plans.get(key, ()) if not other.lies_at(arrays)]
    _plans[key] = [*others, plan]
    if sum(map(len, list(_plans.values()))) > _MOST:
        oldest = next(iter(list(_plans)))
        # Out of the table first: while the GPU is waited for, another thread may be here.
        if rest := _plans.pop(oldest, [])[1:]:
            _plans[oldest] = rest


def key_of(group_spec: GroupSpec, values: Sequence[Any]) -> Hashable:
    """What plans are kept under: what they do, and where the first parameter lies."""
    options = (
        group_spec.slots,
        group_spec.averages,
        group_spec.average_from_zeros,
        group_spec.zero_grads,
    )
    first = values[0]
    return options, group_spec.cast_grads, len(values), libraries.identity(first)


def find(key: Hashable, arrays: list[Any]) -> KeptPlan | None:
    """A plan of this key that is for arrays that lie where these do."""
    return next((plan for plan in _plans.get(key, ()) if plan.lies_at(arrays)), None)
