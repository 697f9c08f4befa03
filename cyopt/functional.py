"""The rules as functions on the caller's own arrays and state, in place.

Each takes one array or equally long lists of arrays, and then makes one native call. What the
keyword arguments mean, and the formulas, are in the class of the same name; `step` counts from 1.
State arrays have their parameter's shape, dtype and element order. `like` names the framework whose
defaults and formula hold for what is not given. A gradient of None skips its parameter. `average`
is where `ema` keeps the parameter's average, and then `step` is needed: step 1 makes it a copy of
the parameter first, unless `ema_init="zeros"`.

Each returns True, or False if `skip_nonfinite` skipped the step: repeat the same `step` then.

All is checked before a byte is written; TypeError or ValueError names the argument.

Arrays on a GPU: a call with `skip_nonfinite` waits for the GPU to answer; a class does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from cyopt import _cpu, calls, optimizers
from cyopt.arrays import as_array_on, check_like, check_param, device_of, same_order
from cyopt.cuda.libraries import is_on_gpu
from cyopt.given import GroupSpec, as_grads, as_params
from cyopt.group import Group
from cyopt.hyper import INITIAL, Hyper, checked_number, is_scheduled
from cyopt.measured import measurements
from cyopt.optimizer import Optimizer
from cyopt.parameters import AVERAGE, written_ranges
from cyopt.rounding import check_rounded


def sgd_(
    param: Any,
    grad: Any,
    momentum_buffer: Any = None,
    *,
    step: int | None = None,
    average: Any = None,
    like: str = "torch",
    **hyperparameters: Any,
) -> bool:
    """One step of SGD in place; with a momentum buffer, of Momentum.

    `step` is needed with dampening, which the first step does not have. Keyword arguments as in
    `cyopt.SGD`; what all share is in `help(cyopt.functional)`.

    >>> import numpy as np, cyopt
    >>> w, v = np.array([1.0]), np.array([0.0])
    >>> cyopt.sgd_(w, np.array([2.0]), v, step=1, lr=0.25, momentum=0.5)
    True
    >>> w, v
    (array([0.5]), array([2.]))
    """
    states = {"momentum_buffer": momentum_buffer}
    if step is None and average is None and hyperparameters.get("dampening", 0) == 0:
        step = 1
    return _step(optimizers.SGD, param, grad, states, step, like, hyperparameters, average)


def adagrad_(
    param: Any,
    grad: Any,
    sum: Any,
    *,
    step: int | None = None,
    step_size: float | None = None,
    average: Any = None,
    like: str = "torch",
    **hyperparameters: Any,
) -> bool:
    """One step of AdaGrad in place.

    Keyword arguments as in `cyopt.AdaGrad`; what all share is in `help(cyopt.functional)`.
    `step_size` replaces `lr / (1 + (step - 1)*lr_decay)`.

    >>> import numpy as np, cyopt
    >>> w, h = np.array([1.0]), np.array([0.0])
    >>> cyopt.adagrad_(w, np.array([2.0]), h, step=1, lr=0.25)
    True
    >>> w, h
    (array([0.75]), array([4.]))
    """
    if step_size is not None:
        step = _replaced(step, hyperparameters, ("lr_decay",), average)
    return _step(
        optimizers.AdaGrad,
        param,
        grad,
        {"sum": sum},
        step,
        like,
        hyperparameters,
        average,
        step_size,
    )


def rmsprop_(
    param: Any,
    grad: Any,
    square_avg: Any,
    grad_avg: Any = None,
    momentum_buffer: Any = None,
    *,
    step: int | None = None,
    average: Any = None,
    like: str = "torch",
    **hyperparameters: Any,
) -> bool:
    """One step of RMSProp in place; centered with `grad_avg`, with momentum with its buffer.

    Keyword arguments as in `cyopt.RMSProp`; what all share is in `help(cyopt.functional)`.
    The rule does not depend on the step; an average does.

    >>> import numpy as np, cyopt
    >>> w, v = np.array([1.0]), np.array([0.0])
    >>> cyopt.rmsprop_(w, np.array([2.0]), v, lr=0.25, alpha=0.75, eps=0)
    True
    >>> w, v
    (array([0.5]), array([1.]))
    """
    states = {"square_avg": square_avg, "grad_avg": grad_avg, "momentum_buffer": momentum_buffer}
    _decide(hyperparameters, "centered", "grad_avg", grad_avg)
    if step is None and average is None:
        step = 1
    return _step(optimizers.RMSProp, param, grad, states, step, like, hyperparameters, average)


def adam_(
    param: Any,
    grad: Any,
    exp_avg: Any,
    exp_avg_sq: Any,
    max_exp_avg_sq: Any = None,
    *,
    step: int | None = None,
    step_size: float | None = None,
    denom_scale: float | None = None,
    average: Any = None,
    like: str = "torch",
    **hyperparameters: Any,
) -> bool:
    """One step of Adam in place; of AMSGrad with `max_exp_avg_sq`.

    Keyword arguments as in `cyopt.Adam`; what all share is in `help(cyopt.functional)`. For a host
    that computes its own scalars: `step_size` and `denom_scale` (default 1) replace the bias
    corrections, `step` and `lr`:
    `p = p - step_size * m / (sqrt(v)*denom_scale + eps)`.

    >>> import numpy as np, cyopt
    >>> w, m, v = np.array([1.0]), np.array([0.0]), np.array([0.0])
    >>> cyopt.adam_(w, np.array([2.0]), m, v, step=1, lr=0.25)
    True
    >>> w.round(6), m.round(6), v.round(6)
    (array([0.75]), array([0.2]), array([0.004]))
    """
    if step_size is not None:
        step = _replaced(step, hyperparameters, ("eps_hat", "bias_correction", "libm_pow"), average)
        denom_scale = 1.0 if denom_scale is None else denom_scale
    elif denom_scale is not None:
        raise TypeError("denom_scale is given without step_size; they replace step together")
    states = {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq, "max_exp_avg_sq": max_exp_avg_sq}
    _decide(hyperparameters, "amsgrad", "max_exp_avg_sq", max_exp_avg_sq)
    own = (step_size, denom_scale)
    return _step(optimizers.Adam, param, grad, states, step, like, hyperparameters, average, *own)


def _decide(hyperparameters: dict[str, Any], flag: str, name: str, state: Any) -> None:
    """A flag that the presence of a state array decides."""
    if flag in hyperparameters:
        raise TypeError(f"{flag} is given; here the presence of {name} decides it: leave it out")
    hyperparameters[flag] = state is not None


def _replaced(
    step: int | None, hyperparameters: dict[str, Any], names: Sequence[str], average: Any
) -> int | None:
    """Refuse what `step_size` replaces; any step count then does, but for an average."""
    given = [name for name in names if name in hyperparameters]
    if given or (step is not None and average is None):
        name = given[0] if given else "step"
        raise TypeError(
            f"{name} and step_size are given; step_size replaces {name}: pass one of them"
        )
    return 1 if average is None else step


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


def _step(
    cls: type[Optimizer],
    param: Any,
    grad: Any,
    states: dict[str, Any],
    step: Any,
    like: str,
    given: dict[str, Any],
    average: Any,
    step_size: float | None = None,
    denom_scale: float | None = None,
) -> bool:
    numbers = calls.Numbers(step, step_size, denom_scale)
    key = calls.key_of(cls, like, given, numbers, param)
    arrays = tuple(states.values())
    done = calls.again(key, given, numbers, param, grad, arrays, average)
    if done is not None:
        return done
    group, group_spec, hyper, used = _checked(cls, states, like, given, numbers, average)
    values, grads, columns = _as_lists(param, grad, used)
    on_gpu = bool(values) and is_on_gpu(values[0])
    if on_gpu:
        from cyopt.cuda import kept

        gpu_key = kept.key_of(group_spec, values)
        arrays_there = list(chain(values, *columns.values()))
        held = kept.find(gpu_key, arrays_there)
        done = held.call(values, grads, hyper, step) if held else None
        if done is not None:
            return done
    names = [str(i) for i in range(len(values))]
    params = as_params(values, names)
    for array in params:
        check_rounded(hyper, array.dtype)
    rows = [
        {name: _state(column[i], array, f"{name} of {i}") for name, column in columns.items()}
        for i, array in enumerate(params)
    ]
    written = written_ranges(names, params, rows)
    checked = as_grads(grads, names, params, [group_spec] * len(params), written)
    plan_of: Any = kept.KeptPlan if on_gpu else _cpu.Plan
    plan = plan_of(
        params,
        [[row[s] if s else None for s in group_spec.slots] for row in rows],
        [row.get(AVERAGE) for row in rows],
        [group_spec],
        [0] * len(params),
        np.full(len(params), step - 1, np.int64),
        np.zeros(1, np.int64),
        np.array(measurements()),
        written,
    )
    if on_gpu:
        plan.keep(gpu_key, arrays_there)
        return bool(plan.call_checked(values, checked, hyper, step))
    plan.set_hypers([hyper])
    call = _cpu.Call(plan)
    if not group.schedules:  # of a framework's default: another number at each step
        calls.keep(key, call)
    return call.run(checked)


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
    whole = isinstance(step, int | np.integer) and not isinstance(step, bool)
    if not whole or not 1 <= step < 2**62:
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
