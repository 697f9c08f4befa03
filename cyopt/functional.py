"""The rules as functions on the caller's own arrays and state, in place.

Each takes one array or equally long lists of arrays, and then makes one native call. What the
keyword arguments mean, and the formulas, are in the class of the same name; `step` counts from 1.
State arrays have their parameter's shape, dtype and element order. `like` names the framework whose
defaults and formula hold for what is not given. A gradient of None skips its parameter.

All is checked before a byte is written; TypeError or ValueError names the argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cyopt import _cpu, conventions, optimizers
from cyopt.arrays import as_array, check_like, check_param, same_order
from cyopt.hyper import INITIAL, Hyper, check_rounded, checked_number, is_scheduled
from cyopt.optimizer import Optimizer
from cyopt.parameters import as_grad, as_params, check_places
from cyopt.rules import RULES


def sgd_(
    param: Any,
    grad: Any,
    momentum_buffer: Any = None,
    *,
    step: int | None = None,
    like: str = "torch",
    **hyperparameters: Any,
) -> None:
    """One step of SGD in place; with a momentum buffer, of Momentum.

    `step` is needed with dampening, which the first step does not have. Keyword arguments as in
    `cyopt.SGD`.

    >>> import numpy as np, cyopt
    >>> w, v = np.array([1.0]), np.array([0.0])
    >>> cyopt.sgd_(w, np.array([2.0]), v, step=1, lr=0.25, momentum=0.5)
    >>> w, v
    (array([0.5]), array([2.]))
    """
    states = {"momentum_buffer": momentum_buffer}
    if step is None and hyperparameters.get("dampening", 0) == 0:
        step = 1
    _step(optimizers.SGD, param, grad, states, step, like, hyperparameters)


def adagrad_(
    param: Any,
    grad: Any,
    sum: Any,
    *,
    step: int | None = None,
    step_size: float | None = None,
    like: str = "torch",
    **hyperparameters: Any,
) -> None:
    """One step of AdaGrad in place.

    Keyword arguments as in `cyopt.AdaGrad`. `step_size` replaces `lr / (1 + (step - 1)*lr_decay)`.

    >>> import numpy as np, cyopt
    >>> w, h = np.array([1.0]), np.array([0.0])
    >>> cyopt.adagrad_(w, np.array([2.0]), h, step=1, lr=0.25)
    >>> w, h
    (array([0.75]), array([4.]))
    """
    if step_size is not None:
        step = _replaced(step, hyperparameters, ("lr_decay",))
    own = {"step_size": step_size}
    _step(optimizers.AdaGrad, param, grad, {"sum": sum}, step, like, hyperparameters, own)


def rmsprop_(
    param: Any,
    grad: Any,
    square_avg: Any,
    grad_avg: Any = None,
    momentum_buffer: Any = None,
    *,
    like: str = "torch",
    **hyperparameters: Any,
) -> None:
    """One step of RMSProp in place; centered with `grad_avg`, with momentum with its buffer.

    Keyword arguments as in `cyopt.RMSProp`. The rule does not depend on the step.

    >>> import numpy as np, cyopt
    >>> w, v = np.array([1.0]), np.array([0.0])
    >>> cyopt.rmsprop_(w, np.array([2.0]), v, lr=0.25, alpha=0.75, eps=0)
    >>> w, v
    (array([0.5]), array([1.]))
    """
    states = {"square_avg": square_avg, "grad_avg": grad_avg, "momentum_buffer": momentum_buffer}
    _decide(hyperparameters, "centered", "grad_avg", grad_avg)
    _step(optimizers.RMSProp, param, grad, states, 1, like, hyperparameters)


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
    like: str = "torch",
    **hyperparameters: Any,
) -> None:
    """One step of Adam in place; of AMSGrad with `max_exp_avg_sq`.

    Keyword arguments as in `cyopt.Adam`. For a host that computes its own scalars: `step_size` and
    `denom_scale` (default 1) replace the bias corrections, `step` and `lr`:
    `p = p - step_size * m / (sqrt(v)*denom_scale + eps)`.

    >>> import numpy as np, cyopt
    >>> w, m, v = np.array([1.0]), np.array([0.0]), np.array([0.0])
    >>> cyopt.adam_(w, np.array([2.0]), m, v, step=1, lr=0.25)
    >>> w.round(6), m.round(6), v.round(6)
    (array([0.75]), array([0.2]), array([0.004]))
    """
    if step_size is not None:
        step = _replaced(step, hyperparameters, ("eps_hat", "bias_correction", "libm_pow"))
        denom_scale = 1.0 if denom_scale is None else denom_scale
    elif denom_scale is not None:
        raise TypeError("denom_scale is given without step_size; they replace step together")
    states = {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq, "max_exp_avg_sq": max_exp_avg_sq}
    _decide(hyperparameters, "amsgrad", "max_exp_avg_sq", max_exp_avg_sq)
    own = {"step_size": step_size, "denom_scale": denom_scale}
    _step(optimizers.Adam, param, grad, states, step, like, hyperparameters, own)


def _decide(hyperparameters: dict[str, Any], flag: str, name: str, state: Any) -> None:
    """A flag that the presence of a state array decides."""
    if flag in hyperparameters:
        raise TypeError(f"{flag} is given; here the presence of {name} decides it: leave it out")
    hyperparameters[flag] = state is not None


def _replaced(step: int | None, hyperparameters: dict[str, Any], names: Sequence[str]) -> int:
    """Refuse what `step_size` replaces; any step count then does."""
    for name in ("step", *names):
        if name in hyperparameters or (name == "step" and step is not None):
            raise TypeError(
                f"{name} and step_size are given; step_size replaces {name}: pass one of them"
            )
    return 1


def _hyper(
    cls: type[Optimizer], like: str, given: dict[str, Any], own: dict[str, float | None]
) -> Hyper:
    """The numbers of a step, by way of the class: the same defaults and the same checks."""
    for name, value in given.items():
        if name in INITIAL:
            raise TypeError(f"{name} is given, but the state is the caller's: fill it there")
        if is_scheduled(value):
            raise TypeError(f"{name} is a schedule; a function takes the number itself")
        if name == "params":
            raise TypeError("params is given; a function takes the arrays themselves")
    scalars: dict[str, Any] = {
        name: checked_number(name, value) for name, value in own.items() if value is not None
    }
    placeholder = {"lr": 0.0} if "step_size" in scalars else {}
    hyper = _hyper_of(cls, like, {**placeholder, **given})._replace(**scalars)
    if "step_size" in scalars:
        decays = hyper.decay != "coupled" and hyper.weight_decay != 0
        if decays and "lr" not in given:
            raise TypeError("lr is missing; beside step_size, decoupled weight decay needs it")
        if "lr" in given and not decays:
            raise TypeError("lr and step_size are given; step_size replaces lr: pass one of them")
    return hyper


def _hyper_of(cls: type[Optimizer], like: str, given: dict[str, Any]) -> Hyper:
    """The class's numbers; making them takes longer than a small step, so the last ones are kept.

    Kept by their text: True, 1.0 and -0.0 are other keys than 1 and 0.0, inside betas as well.
    """
    key = (cls, repr(like), repr(given))
    hyper = _kept.get(key)
    if hyper is None:
        hyper = cls.like(like, **given).groups[0].at(0)
        if like not in conventions.REMARKS:  # which are made each time
            if len(_kept) >= 256:
                _kept.clear()
            _kept[key] = hyper
    return hyper


_kept: dict[tuple[type[Optimizer], str, str], Hyper] = {}


def _step(
    cls: type[Optimizer],
    param: Any,
    grad: Any,
    states: dict[str, Any],
    step: Any,
    like: str,
    given: dict[str, Any],
    own: dict[str, float | None] | None = None,
) -> None:
    whole = isinstance(step, int | np.integer) and not isinstance(step, bool)
    if not whole or not 1 <= step < 2**62:
        raise TypeError(f"step is {step!r}; expected an integer from 1: 1 in the first step")
    hyper = _hyper(cls, like, given, own or {})
    slots = RULES[hyper.rule].state
    for name, value in states.items():
        if (value is None) != (name not in slots):
            need = "is needed" if value is None else "is given but not used"
            raise TypeError(f"{name} {need} by {hyper.rule} with these hyperparameters")
    values, grads, columns = _as_lists(param, grad, [states[s] if s else None for s in slots])
    names = [str(i) for i in range(len(values))]
    params = as_params(values, names)
    for array in params:
        check_rounded(hyper, array.dtype)
    rows = [
        [
            _state(column[i], array, f"{s} of {i}") if s else None
            for s, column in zip(slots, columns, strict=True)
        ]
        for i, array in enumerate(params)
    ]
    counts = np.full(len(params), step - 1, np.int64)
    written = check_places(names, params, [slots] * len(params), rows)
    checked = [
        as_grad(g, name, p.shape, p.dtype, written)
        for g, name, p in zip(grads, names, params, strict=True)
    ]
    plan = _cpu.Plan(params, rows, [0] * len(params), counts, np.zeros(1, np.int64), written)
    plan.set_hypers([hyper])
    plan.run(checked)


def _as_lists(
    param: Any, grad: Any, states: Sequence[Any]
) -> tuple[list[Any], list[Any], list[list[Any]]]:
    """One array as lists of one; lists must be equally long."""
    if not isinstance(param, list | tuple):
        return [param], [grad], [[state] for state in states]
    lists = [param, grad, *(state for state in states if state is not None)]
    for value in lists:
        if not isinstance(value, list | tuple) or len(value) != len(param):
            raise TypeError(
                f"param is a list of {len(param)} arrays; expected such lists for grad and each"
                " state as well"
            )
    return list(param), list(grad), [list(s) if s is not None else [] for s in states]


def _state(value: Any, param: np.ndarray[Any, Any], what: str) -> np.ndarray[Any, Any]:
    array = as_array(value, what, written=True)
    check_param(array, what)
    check_like(array, param.shape, param.dtype, what)
    if not same_order(array, param):
        raise ValueError(
            f"{what} has strides {array.strides}; expected the element order of its parameter,"
            f" whose strides are {param.strides}: make it with np.zeros_like(param)"
        )
    return array
