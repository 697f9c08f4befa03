"""A call of the functional form that is not like one that is kept: checks, a plan, the step."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np

from cyopt import _cpu, calls
from cyopt.arrays import as_array_on, check_like, check_param, device_of, same_order
from cyopt.cuda.libraries import is_on_gpu, notify_of
from cyopt.given import GroupSpec, as_grads, as_params
from cyopt.group import Group
from cyopt.hyper import INITIAL, Hyper, checked_number, is_count, is_scheduled
from cyopt.measured import measurements
from cyopt.optimizer import Optimizer
from cyopt.parameters import AVERAGE, by_slot, written_by_step, written_ranges
from cyopt.rounding import check_rounded


def step(
    cls: type[Optimizer],
    param: Any,
    grad: Any,
    states: dict[str, Any],
    like: str,
    given: dict[str, Any],
    numbers: calls.Numbers,
    average: Any,
    stream: Any,
    key: bytes | None,
) -> bool:
    """Make the step, and keep the call under `key`; True, or False if it was skipped."""
    group, group_spec, hyper, used = _checked(cls, states, like, given, numbers, average)
    values, grads, columns = _as_lists(param, grad, used)
    if values and is_on_gpu(values[0]):
        return _step_on_gpu(group_spec, values, grads, columns, hyper, numbers.step, stream)
    if stream is not None:
        raise TypeError("stream is given, but the arrays are on the CPU: leave it out")
    plan, checked = _planned(_cpu.Plan, group_spec, values, grads, columns, hyper, numbers.step)
    notify_of(written_by_step([values, *columns.values()], grads, [group_spec] * len(values)))
    plan.set_hypers([hyper])
    call = _cpu.Call(plan)
    if not group.schedules:  # of a framework's default: another number at each step
        calls.keep(key, call)
    return call.run(checked)


def _step_on_gpu(
    group_spec: GroupSpec,
    values: list[Any],
    grads: list[Any],
    columns: dict[str, list[Any]],
    hyper: Hyper,
    step: int,
    stream: Any,
) -> bool:
    from cyopt.cuda import kept

    key = kept.key_of(group_spec, values)
    arrays = list(chain(values, *columns.values()))
    plan = kept.find(key, arrays)
    done = plan.call(arrays, grads, hyper, step, stream) if plan else None
    if done is not None:
        return done
    plan, checked = _planned(kept.KeptPlan, group_spec, values, grads, columns, hyper, step)
    plan.keep(key, arrays)
    made: bool = plan.call_checked(arrays, checked, hyper, step, stream)
    return made


def _planned(
    plan_class: Any,
    group_spec: GroupSpec,
    values: list[Any],
    grads: list[Any],
    columns: dict[str, list[Any]],
    hyper: Hyper,
    step: int,
) -> tuple[Any, list[Any]]:
    """A plan for arrays that are checked here in full, and the gradients."""
    names = [str(i) for i in range(len(values))]
    params = as_params(values, names)
    for array in params:
        check_rounded(hyper, array.dtype)
    states = [
        {name: _state(column[i], array, f"{name} of {i}") for name, column in columns.items()}
        for i, array in enumerate(params)
    ]
    written = written_ranges(names, params, states)
    group_specs = [group_spec] * len(params)
    checked = as_grads(grads, names, params, group_specs, written)
    plan = plan_class(
        params,
        *by_slot(states, group_specs),
        [group_spec],
        [0] * len(params),
        np.full(len(params), step - 1, np.int64),
        np.zeros(1, np.int64),
        np.array(measurements()),
        written,
    )
    return plan, checked


def _checked(
    cls: type[Optimizer],
    states: dict[str, Any],
    like: str,
    given: dict[str, Any],
    numbers: calls.Numbers,
    average: Any,
) -> tuple[Group, GroupSpec, Hyper, dict[str, Any]]:
    """The numbers of a step, and the state and average that it uses."""
    step = numbers.step
    if not is_count(step) or step == 0:
        raise TypeError(f"step is {step!r}; expected an integer from 1: 1 in the first step")
    if average is None and given.get("ema") is not None:
        raise TypeError("ema is given without average, the array that holds the average")
    group, group_spec, hyper = _hyper(cls, like, given, numbers, int(step))
    if average is not None and group.ema is None:
        raise TypeError("average is given without ema, its decay, such as 0.999")
    for name, value in states.items():
        if (value is None) != (name not in group_spec.slots):
            need = "is needed" if value is None else "is given but not used"
            raise TypeError(f"{name} {need} by {hyper.rule} with these hyperparameters")
    used = {name: states[name] for name in group_spec.slots if name}
    used = used if average is None else {**used, AVERAGE: average}
    return group, group_spec, hyper, used


def _hyper(
    cls: type[Optimizer], like: str, given: dict[str, Any], own: calls.Numbers, step: int
) -> tuple[Group, GroupSpec, Hyper]:
    """The numbers of a step, by way of the class: the same defaults and the same checks."""
    for name, value in given.items():
        if name in INITIAL:
            raise TypeError(f"{name} is given, but the state is the caller's: fill it there")
        if is_scheduled(value):
            raise TypeError(f"{name} is a schedule; a function takes the number itself")
        if name == "params":
            raise TypeError("params is given; a function takes the arrays themselves")
        if name == "capturable" and value:
            raise TypeError("capturable is True; a function is told its step: use a class")
    scalars: dict[str, Any] = {
        name: checked_number(name, getattr(own, name))
        for name in ("step_size", "denom_scale")
        if getattr(own, name) is not None
    }
    placeholder = {"lr": 0.0} if "step_size" in scalars else {}
    group, group_spec = calls.group_of(cls, like, {**placeholder, **given})
    hyper = group.at(step - 1)
    if scalars:
        hyper = hyper._replace(**scalars)
    if "step_size" in scalars:
        decays = hyper.decay != "coupled" and hyper.weight_decay != 0
        if decays and "lr" not in given:
            raise TypeError("lr is missing; beside step_size, decoupled weight decay needs it")
        if "lr" in given and not decays:
            raise TypeError("lr and step_size are given; step_size replaces lr: pass one of them")
    return group, group_spec, hyper


def _as_lists(
    param: Any, grad: Any, arrays: dict[str, Any]
) -> tuple[list[Any], list[Any], dict[str, list[Any]]]:
    """One array as lists of one; lists must be equally long."""
    if not isinstance(param, list | tuple):
        return [param], [grad], {name: [array] for name, array in arrays.items()}
    for value in (grad, *arrays.values()):
        if not isinstance(value, list | tuple) or len(value) != len(param):
            found = f"list of {len(value)}" if isinstance(value, list | tuple) else "single one"
            raise TypeError(
                f"param is a list of {len(param)} arrays, but grad or a state is a {found};"
                " expected such lists for grad and each state as well"
            )
    return list(param), list(grad), {name: list(array) for name, array in arrays.items()}


def _state(value: Any, param: np.ndarray[Any, Any], what: str) -> np.ndarray[Any, Any]:
    array = as_array_on(value, device_of(param), what, written=True)
    check_param(array, what)
    check_like(array, param.shape, param.dtype, what)
    if not same_order(array, param):
        raise ValueError(
            f"{what} has strides {array.strides}; expected the element order of its parameter,"
            f" whose strides are {param.strides}: make it with np.zeros_like(param)"
        )
    return array
