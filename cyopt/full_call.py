"""A call of the functional form that is not like one that is kept: checks, a plan, the step."""

from __future__ import annotations

from itertools import chain
from typing import Any, NamedTuple

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


class _Asked(NamedTuple):
    """What a call asks for; a single array is a list of one."""

    group_spec: GroupSpec
    hyper: Hyper
    step: int
    params: list[Any]
    grads: list[Any]
    state: dict[str, list[Any]]  # with the average


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
    asked = _Asked(group_spec, hyper, numbers.step, *_as_lists(param, grad, used))
    if asked.params and is_on_gpu(asked.params[0]):
        return _step_on_gpu(asked, stream)
    if stream is not None:
        raise TypeError("stream is given, but the arrays are on the CPU: leave it out")
    plan, grads = _planned(_cpu.Plan, asked)
    columns = [asked.params, *asked.state.values()]
    notify_of(written_by_step(columns, asked.grads, [group_spec] * len(asked.params)))
    plan.set_hypers([hyper])
    call = _cpu.Call(plan)
    if not group.schedules:  # of a framework's default: another number at each step
        calls.keep(key, call)
    return call.run(grads)


def _step_on_gpu(asked: _Asked, stream: Any) -> bool:
    from cyopt.cuda import kept

    key = kept.key_of(asked.group_spec, asked.params)
    arrays = list(chain(asked.params, *asked.state.values()))
    plan = kept.find(key, arrays)
    done = plan.call(arrays, asked.grads, asked.hyper, asked.step, stream) if plan else None
    if done is not None:
        return done
    plan, grads = _planned(kept.KeptPlan, asked)
    plan.keep(key, arrays)
    made: bool = plan.call_checked(arrays, grads, asked.hyper, asked.step, stream)
    return made


def _planned(plan_class: Any, asked: _Asked) -> tuple[Any, list[Any]]:
    """A plan for the arrays, which are checked here in full, and the gradients."""
    n = len(asked.params)
    names = [str(i) for i in range(n)]
    params = as_params(asked.params, names)
    for array in params:
        check_rounded(asked.hyper, array.dtype)
    states = [
        {name: _state(column[i], array, f"{name} of {i}") for name, column in asked.state.items()}
        for i, array in enumerate(params)
    ]
    written = written_ranges(names, params, states)
    group_specs = [asked.group_spec] * n
    grads = as_grads(asked.grads, names, params, group_specs, written)
    plan = plan_class(
        params,
        *by_slot(states, group_specs),
        [asked.group_spec],
        [0] * n,
        np.full(n, asked.step - 1, np.int64),
        np.zeros(1, np.int64),
        np.array(measurements()),
        written,
    )
    return plan, grads


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
