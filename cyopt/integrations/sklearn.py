"""scikit-learn's MLPClassifier and MLPRegressor on cyopt's step: `accelerate`, or `on` and `off`.

They replace the method `update_params` of scikit-learn's two optimizer classes, for "adam" and
"sgd". These keep their state in their own attributes, so estimators, their pickles and code that
reads them are unaffected. The scalars of a step are still scikit-learn's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial, wraps
from types import SimpleNamespace
from typing import Any

import numpy as np

import cyopt
from cyopt.integrations import require, whole

require("scikit-learn", "1.5", "sklearn")

from sklearn.neural_network import _stochastic_optimizers as host  # noqa: E402

_users: set[object] = set()  # the blocks that are open, and `on`
_lock = threading.Lock()


@contextmanager
def accelerate() -> Iterator[None]:
    """Within this block, cyopt takes the steps of scikit-learn's multi-layer perceptrons.

    For `solver="adam"` and `"sgd"`, `fit` and `partial_fit`, in all threads of the process. Blocks
    may be nested. Fitted models contain nothing of cyopt: they can be unpickled without it.

    float64 results have the same bits as scikit-learn's own, and so do float32 results of "sgd".
    With NumPy 2, scikit-learn's Adam computes the last part of a float32 update in float64, and
    cyopt all of it in float32: each step agrees to a few units in the last place, and whole fits
    drift apart as with any difference in rounding. With sample weights, or with a float64 y
    in a regression over float32 X, gradients are float64, and so becomes scikit-learn's state;
    cyopt's stays float32, so that both solvers differ in the last bits.

    Where cyopt refuses, scikit-learn's own method takes the step: momentum 0 or 1, a read-only
    parameter, and, with float32 parameters, float64 state or a momentum or learning rate of NumPy's
    types. Optimizers whose method comes from a subclass, or from someone else's patch, are updated
    by that method.

    State is updated in place, where scikit-learn makes new arrays at each step, and NumPy does not
    warn of overflow. In weights and state, numbers below 2.2e-308 (float32: 1.2e-38) become zero,
    unless `cyopt.set_subnormals("keep")` is set.

    The processes that joblib starts by default, as for `n_jobs=2`, run scikit-learn's own methods,
    with the same results in float64. To accelerate them too, let each start with `on`:
    `joblib.parallel_config("loky", initializer=cyopt.integrations.sklearn.on)`. Forked processes
    and threads behave like their parent.

    >>> import numpy as np
    >>> from sklearn.neural_network import MLPRegressor
    >>> from cyopt.integrations.sklearn import accelerate
    >>> X = np.linspace(-1, 1, 50).reshape(-1, 1)
    >>> model = MLPRegressor(hidden_layer_sizes=(8,), random_state=0, tol=1e-3)
    >>> own = model.fit(X, X[:, 0] ** 2).coefs_
    >>> with accelerate():
    ...     ours = model.fit(X, X[:, 0] ** 2).coefs_
    >>> all(map(np.array_equal, own, ours))
    True
    """
    block = object()
    _change(_users.add, block)
    try:
        yield
    finally:
        _change(_users.discard, block)


def on() -> None:
    """Accelerate until `off`, as described in `accelerate`; calling it twice changes nothing."""
    _change(_users.add, on)


def off() -> None:
    """Undo `on`; open blocks of `accelerate` stay in effect.

    If there are none, the classes have their original methods again, or someone else's patches.
    """
    _change(_users.discard, on)


def _change(change: Callable[[object], None], user: object) -> None:
    with _lock:
        change(user)
        for cls, method in _METHODS.items():
            if _users and cls.update_params is host.BaseOptimizer.update_params:
                cls.update_params = method
            elif not _users and vars(cls).get("update_params") is method:
                del cls.update_params


def _adam_step(optimizer: Any, params: Any, grads: Any) -> None:
    # The count and the step size, computed by scikit-learn's own method over no arrays.
    scalars = SimpleNamespace(**vars(optimizer))
    scalars.ms = scalars.vs = []
    with np.errstate(all="ignore"):  # a nonfinite step size is refused below, and computed again
        host.AdamOptimizer._get_updates(scalars, [])
    step = partial(
        cyopt.adam_,
        params,
        grads,
        optimizer.ms,
        optimizer.vs,
        step_size=float(scalars.learning_rate),
        betas=(_double(optimizer.beta_1), _double(optimizer.beta_2)),
        eps=float(optimizer.epsilon),
        like="sklearn",
        cast_grads=True,
    )
    changes = {"t": scalars.t, "learning_rate": scalars.learning_rate}
    whole(step, [(vars(optimizer), changes)])


def _sgd_step(optimizer: Any, params: Any, grads: Any) -> None:
    if optimizer.momentum in (0, 1):  # sgd_ would refuse them too, but more slowly
        raise ValueError(f"momentum is {optimizer.momentum}")
    cyopt.sgd_(
        params,
        grads,
        optimizer.velocities,
        lr=_weak(optimizer.learning_rate, params),
        momentum=_weak(optimizer.momentum, params),
        nesterov=bool(optimizer.nesterov),
        like="sklearn",
        cast_grads=True,
    )


def _weak(number: Any, params: Any) -> float:
    """A number that does not promote float32 arrays to float64, as NumPy 2's own types do."""
    if isinstance(number, np.generic) and params[0].dtype != np.float64:
        raise TypeError(f"a number is a {type(number).__name__}; expected Python's own")
    return float(number)


def _double(beta: Any) -> float:
    """A decay rate whose 1 - beta scikit-learn computes in double, as cyopt does."""
    if not isinstance(beta, float | int):
        raise TypeError(f"beta is a {type(beta).__name__}; expected a float")
    return float(beta)


def _method(cls: Any, step: Callable[[Any, Any, Any], None]) -> Callable[[Any, Any, Any], None]:
    """`update_params` of a class: `step`, if the methods it replaces are scikit-learn's own."""

    @wraps(host.BaseOptimizer.update_params)
    def update_params(self: Any, params: Any, grads: Any) -> None:
        own = super(cls, self).update_params
        if _users and _is_hosts(own) and _is_hosts(self._get_updates):
            with suppress(TypeError, ValueError):  # refused, and nothing written
                return step(self, params, grads)
        own(params, grads)

    return update_params


def _is_hosts(function: Any) -> bool:
    """Whether scikit-learn's module defines this function, not a subclass or a patch."""
    return getattr(function, "__globals__", None) is vars(host)


_METHODS = {
    cls: _method(cls, step)
    for cls, step in [(host.AdamOptimizer, _adam_step), (host.SGDOptimizer, _sgd_step)]
}
