"""The fast path of the functional form: calls like an earlier one, which was checked in full.

A host calls with the same arrays again and again. A call is kept under what such calls have in
common (`call_key`: the function, its hyperparameters, the address of the first array). It is reused
if every array that a step writes has the same address, shape, type and order, and each gradient
passes the quick checks of `Plan`. Anything else takes the slow path.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from cyopt import _cpu
from cyopt.given import GroupSpec
from cyopt.group import Group, group_spec
from cyopt.optimizer import Optimizer

# The most calls and parameters that are kept: 2.5 KB for each call, half a KB for each parameter.
_MOST_CALLS, _MOST_PARAMS = 1024, 16_384
_MOST_GROUPS = 256
_kept: dict[bytes, _cpu.Call] = {}
_groups: dict[tuple[type[Optimizer], str, str], tuple[Group, GroupSpec]] = {}


class Numbers(NamedTuple):
    """What may differ from call to call; None if it was not given."""

    step: Any
    step_size: Any
    denom_scale: Any


def key_of(function: object, like: object, given: dict[str, Any], x: Numbers, param: Any) -> Any:
    """The key under which this call is kept; None if it is not to be kept."""
    replaces, scales = x.step_size is not None, x.denom_scale is not None
    return _cpu.call_key(function, like, given, replaces, scales, param)


def again(
    key: bytes | None,
    given: dict[str, Any],
    x: Numbers,
    param: Any,
    grad: Any,
    states: tuple[Any, ...],
    average: Any,
) -> bool | None:
    """The step, if it is like an earlier call of this key: True, or False if it was skipped."""
    call = _kept.get(key) if key is not None else None
    if call is None:
        return None
    return call.again(param, grad, states, average, given, *x)


def keep(key: bytes | None, call: _cpu.Call) -> None:
    """Keep a call that has been checked in full, instead of any older one with this key."""
    if key is None:
        return
    others = sum(kept.n for kept in list(_kept.values()))
    if len(_kept) >= _MOST_CALLS or others + call.n > _MOST_PARAMS:
        _kept.clear()
    _kept[key] = call


def group_of(cls: type[Optimizer], like: str, given: dict[str, Any]) -> tuple[Group, GroupSpec]:
    """The class's numbers; making them takes longer than a small step, so the last ones are kept.

    The key is the `repr` of the arguments, which distinguishes True and 1.0 from 1 and -0.0 from
    0.0, inside betas as well. Only plain types have one: NumPy 1's repr of a float32 is that of a
    different float64.
    """
    key = (cls, repr(like), repr(given)) if all(map(_is_plain, given.values())) else None
    made = _groups.get(key) if key is not None else None
    if made is None:
        group = cls.like(like, **given).groups[0]
        made = group, group_spec(group, {})
        if key is not None:
            if len(_groups) >= _MOST_GROUPS:
                _groups.clear()
            _groups[key] = made
    return made


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return type(value) in (float, np.float64, int, bool, str, type(None))
