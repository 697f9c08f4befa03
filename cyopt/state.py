"""What an optimizer shows of its state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cyopt.arrays import Array
from cyopt.cuda.arrays import DeviceArray
from cyopt.hints import unknown_name
from cyopt.parameters import AVERAGE, ParameterList


class State(Mapping[str, Mapping[str, Array]]):
    """The state arrays: `opt.state[name]["exp_avg"]`. A read-only mapping of read-only mappings."""

    def __init__(self, lists: Mapping[Any, ParameterList]) -> None:
        there = list(lists.values())  # a copy: another thread may add to it
        self._where = {name: (p, i) for p in there for i, name in enumerate(p.names)}

    def __getitem__(self, name: str) -> Mapping[str, Array]:
        try:
            parameters, i = self._where[name]
        except KeyError:
            known = [str(key) for key in self._where]
            raise KeyError(f"no parameter {name!r}{unknown_name(str(name), known)}") from None
        return parameters.state_of(i)

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    def __repr__(self) -> str:
        return f"State({ {name: list(self[name]) for name in self} })"


class Averages(Mapping[str, Array]):
    """The parameters' averages: `opt.averages[name]`. A read-only mapping of those that exist."""

    def __init__(self, state: State) -> None:
        self._state = state

    def __getitem__(self, name: str) -> Array:
        if AVERAGE not in self._state[name]:
            raise KeyError(f"parameter {name!r} has no average; make its group with ema=0.999")
        average = self._state[name][AVERAGE]
        if isinstance(average, DeviceArray):
            return average.read_only()
        average.flags.writeable = False
        return average

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._state if AVERAGE in self._state[name])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"Averages({list(self)})"
