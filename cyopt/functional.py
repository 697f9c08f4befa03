"""The rules as functions on the caller's own arrays and state, in place.

Each takes one array or equally long lists of arrays, and then makes one native call. What the
keyword arguments mean, and the formulas, are in the class of the same name; `step` counts from 1.
State arrays have their parameter's shape, dtype and element order. `like` names the framework whose
defaults and formula hold for what is not given. A gradient of None skips its parameter. `average`
is where `ema` keeps the parameter's average, and then `step` is needed: step 1 makes it a copy of
the parameter first, unless `ema_init="zeros"`.

Each returns True, or False if `skip_nonfinite` skipped the step: repeat the same `step` then.

All is checked before a byte is written; TypeError or ValueError names the argument.

Arrays on a GPU: a call with `skip_nonfinite` waits for the GPU to answer; a class does not. For
`stream` see `cyopt.Optimizer.step`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cyopt import calls, full_call, optimizers
from cyopt.optimizer import Optimizer


def sgd_(
    param: Any,
    grad: Any,
    momentum_buffer: Any = None,
    *,
    step: int | None = None,
    average: Any = None,
    stream: Any = None,
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
    return _step(optimizers.SGD, param, grad, states, step, like, hyperparameters, average, stream)


def adagrad_(
    param: Any,
    grad: Any,
    sum: Any,
    *,
    step: int | None = None,
    step_size: float | None = None,
    average: Any = None,
    stream: Any = None,
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
        stream,
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
    stream: Any = None,
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
    return _step(
        optimizers.RMSProp, param, grad, states, step, like, hyperparameters, average, stream
    )


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
    stream: Any = None,
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
    others = (average, stream, step_size, denom_scale)
    return _step(optimizers.Adam, param, grad, states, step, like, hyperparameters, *others)


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


def _step(
    cls: type[Optimizer],
    param: Any,
    grad: Any,
    states: dict[str, Any],
    step: Any,
    like: str,
    given: dict[str, Any],
    average: Any,
    stream: Any,
    step_size: float | None = None,
    denom_scale: float | None = None,
) -> bool:
    numbers = calls.Numbers(step, step_size, denom_scale)
    key = calls.key_of(cls, like, given, numbers, param) if stream is None else None
    done = calls.again(key, given, numbers, param, grad, tuple(states.values()), average)
    if done is not None:
        return done
    return full_call.step(cls, param, grad, states, like, given, numbers, average, stream, key)
