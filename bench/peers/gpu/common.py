"""What the peers on a GPU share: copies of a case's arrays as arrays of their library."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Any

from cyopt.bench.cases import Array, Case
from cyopt.bench.gpu import subject
from cyopt.bench.implementations import Subject
from cyopt.rules import RULES as FORMULAS

from ..common import adam_scalars


class Copies:
    """Parameters, gradients and state of a case, as what a library makes of a NumPy array.

    `assign` copies the elements of a NumPy array into one of the library's, `to_host` back.
    """

    def __init__(
        self,
        case: Case,
        made_of: Callable[[Array], Any],
        assign: Callable[[Any, Array], Any],
        to_host: Callable[[Any], Array],
    ) -> None:
        self.case, self.assign, self.to_host = case, assign, to_host
        self.params = [made_of(param.reshape(-1)) for param in case.params]
        self.grads = [made_of(grad.reshape(-1)) for grad in case.grads]
        n_states = sum(1 for state in FORMULAS[case.rule.name].state if state)
        self.states = [[made_of(p.reshape(-1)) for p in case.params] for _ in range(n_states)]

    def reset(self) -> None:
        """Set the parameters to the case's, and the state to zero."""
        self._fill(self.params, self.case.params)
        for state in self.states:
            for array, param in zip(state, self.case.params, strict=True):
                self.assign(array, 0 * param.reshape(-1))

    def read_grads(self) -> None:
        """Set the gradients to the case's."""
        self._fill(self.grads, self.case.grads)

    def results(self) -> Sequence[Array]:
        """The parameters, in the shapes of the case."""
        pairs = zip(self.params, self.case.params, strict=True)
        return [self.to_host(ours).reshape(param.shape) for ours, param in pairs]

    def _fill(self, arrays: Sequence[Any], values: Sequence[Array]) -> None:
        for array, value in zip(arrays, values, strict=True):
            self.assign(array, value.reshape(-1))


def adam(name: str, copies: Copies, step: Callable[..., None]) -> Iterable[Subject]:
    """Adam by `step(param, grad, exp_avg, exp_avg_sq, step_size, root_scale)` for each array."""
    names: dict[str, Any] = {
        "rows": list(zip(copies.params, copies.grads, *copies.states, strict=True)),
        "step": step,
        "scalars": adam_scalars,
    }

    def start() -> None:
        copies.reset()
        names["t"] = count(1)

    statement = "a = scalars(next(t))\nfor row in rows: step(*row, *a)"
    yield subject(name, statement, names, start, copies.results, copies.read_grads)
