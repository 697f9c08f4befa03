"""What a caller gives, as checked arrays: parameters, and gradients that match them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cyopt.arrays import (
    Array,
    Written,
    as_array,
    as_array_on,
    check_apart,
    check_like,
    check_param,
    check_read,
    check_zeroed,
    device_name,
    device_of,
)


class Spec(NamedTuple):
    """What a parameter was when its state was made, and must stay."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    c_order: bool
    f_order: bool
    device: int | None  # as of `device_of`

    @classmethod
    def of(cls, array: Array) -> Spec:
        """What `array` is."""
        orders = array.flags.c_contiguous, array.flags.f_contiguous
        return cls(array.shape, array.dtype, *orders, device_of(array))

    def __str__(self) -> str:
        order = "C" if self.c_order else "Fortran"
        place = f" on {device_name(self.device)}" if self.device is not None else ""
        return f"{self.dtype.name} of shape {self.shape} in {order} order{place}"


class GroupSpec(NamedTuple):
    """The group options that fix what is stored per parameter and how gradients are treated."""

    slots: tuple[str, ...]  # of the rule's state in order, "" where this variant uses none
    initial: Mapping[str, float]  # state -> its starting value
    averages: bool
    average_from_zeros: bool
    zero_grads: bool
    cast_grads: bool
    capturable: bool


def as_params(values: Sequence[Any], names: Sequence[str]) -> list[Array]:
    """The parameters as arrays that a step may write."""
    arrays: list[Array] = []
    for value, name in zip(values, names, strict=True):
        array = as_array(value, f"parameter {name!r}", written=True)
        check_param(array, f"parameter {name!r}")
        if arrays and device_of(array) != device_of(arrays[0]):
            raise ValueError(
                f"parameter {name!r} is on {device_name(device_of(array))} and {names[0]!r} is on"
                f" {device_name(device_of(arrays[0]))}; make an optimizer for each device"
            )
        arrays.append(array)
    return arrays


def as_same_params(
    values: Sequence[Any], names: Sequence[str], specs: Sequence[Spec]
) -> list[Array]:
    """The parameters as arrays, if they are still what they were."""
    params = as_params(values, names)
    for array, spec, name in zip(params, specs, names, strict=True):
        new = Spec.of(array)
        order_kept = (new.c_order and spec.c_order) or (new.f_order and spec.f_order)
        same = (new.shape, new.dtype, new.device) == (spec.shape, spec.dtype, spec.device)
        if not same or not order_kept:
            raise ValueError(
                f"parameter {name!r} is now {new}; it was {spec} when its state was made;"
                " make a new optimizer for new parameters"
            )
    return params


_HOW_FLOAT64 = "; one np.float64 scalar in its computation makes a float32 gradient float64"


def _as_grad(
    value: Any, name: str, like: Array | Spec, group_spec: GroupSpec, written: Written
) -> Array | None:
    """The gradient of a parameter like this, as an array that a step can read; None skips."""
    if value is None:
        return None
    what = f"gradient of {name!r}"
    if isinstance(value, np.float32 | np.float64) and not group_spec.zero_grads:
        value = np.asarray(value)  # NumPy turns 0-d arrays into these
    # A view: nobody else can change its shape while it is read.
    device = like.device if isinstance(like, Spec) else device_of(like)
    skips = ", or None to skip the parameter"
    array = as_array_on(value, device, what, group_spec.zero_grads, skips).view()
    cast = group_spec.cast_grads and array.dtype == np.float64
    check_like(array, like.shape, array.dtype if cast else like.dtype, what, _HOW_FLOAT64)
    check_read(array, what, written)
    if group_spec.zero_grads:
        check_zeroed(array, what)
    return array


def as_grads(
    values: Sequence[Any],
    names: Sequence[str],
    likes: Sequence[Array | Spec],
    group_specs: Sequence[GroupSpec],
    written: Written,
) -> list[Array | None]:
    """The gradients of all parameters, checked in full; no other overlaps one that is zeroed."""
    grads = [_as_grad(*row, written) for row in zip(values, names, likes, group_specs, strict=True)]
    if any(group_spec.zero_grads for group_spec in group_specs):
        places = [f"gradient of {name!r}" for name in names]
        check_apart(grads, places, [group_spec.zero_grads for group_spec in group_specs])
    return grads
