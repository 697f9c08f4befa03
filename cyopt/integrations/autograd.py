"""The optimizers of autograd (HIPS) on cyopt's step: the same signatures, callbacks and results.

Write `from cyopt.integrations.autograd import adam` instead of `from autograd.misc.optimizers
import adam`; nothing else changes. Where autograd flattens all parameters into one vector at each
step, here each array is updated in place, once a step.

Each function takes `grad(x, i)`, which returns the gradient at iteration i in the structure of x;
`x0`, any nesting of dict, list and tuple of arrays and numbers, which is not modified; and
`callback(x, i, g)`, called before the update. `grad` and `callback` get copies, which they may keep
or change. The result is float64, and a number becomes a 0-d array, as in autograd. sgd has the same
bits as autograd's; the others round in a different order.

Unlike in autograd, parameters of other real types, such as float32 or int, are float64 from the
first iteration on, not the second; complex and extended-precision ones are refused; gradients must
have their parameters' shapes, and do not flow through the optimizer (to hyperparameters, say).
Errors are TypeError or ValueError, and name the array, or the hyperparameter by cyopt's name.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any

import numpy as np

import cyopt
from cyopt.arrays import Array, as_array
from cyopt.integrations import require

require("autograd", "1.7", "autograd")

from autograd.tracer import isbox  # noqa: E402

Tree = Any  # an array or number, or a dict, list or tuple of trees
Grad = Callable[[Tree, int], Tree]
Callback = Callable[[Tree, int, Tree], object]


def sgd(
    grad: Grad,
    x0: Tree,
    callback: Callback | None = None,
    num_iters: int = 200,
    step_size: float = 0.1,
    mass: float = 0.9,
) -> Tree:
    """Gradient descent with momentum: `v = mass*v - (1-mass)*g`; `x = x + step_size*v`.

    >>> from cyopt.integrations.autograd import sgd
    >>> sgd(lambda x, i: 2 * x, 1.0, num_iters=2, mass=0.5)
    array(0.76)

    Source: autograd.misc.optimizers.sgd.
    """
    own = {"lr": step_size, "momentum": mass}
    return _run(cyopt.SGD, own, grad, x0, callback, num_iters)


def rmsprop(
    grad: Grad,
    x0: Tree,
    callback: Callback | None = None,
    num_iters: int = 100,
    step_size: float = 0.1,
    gamma: float = 0.9,
    eps: float = 1e-8,
) -> Tree:
    """RMSProp: `v = gamma*v + (1-gamma)*g*g`, v from 1; `x = x - step_size*g / (sqrt(v) + eps)`.

    >>> from cyopt.integrations.autograd import rmsprop
    >>> rmsprop(lambda x, i: x - 3, 4.0, num_iters=1, step_size=0.5, eps=0.0)
    array(3.5)

    Source: autograd.misc.optimizers.rmsprop.
    """
    own = {"lr": step_size, "alpha": gamma, "eps": eps}
    return _run(cyopt.RMSProp, own, grad, x0, callback, num_iters)


def adam(
    grad: Grad,
    x0: Tree,
    callback: Callback | None = None,
    num_iters: int = 100,
    step_size: float = 0.001,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
) -> Tree:
    """Adam: `m = b1*m + (1-b1)*g`; `v = b2*v + (1-b2)*g*g`; at iteration t = 1, 2, ...,
    `x = x - step_size * m/(1-b1^t) / (sqrt(v/(1-b2^t)) + eps)`.

    >>> from cyopt.integrations.autograd import adam
    >>> adam(lambda x, i: {"w": 2 * x["w"]}, {"w": 1.0}, num_iters=1, step_size=0.5, eps=0.0)
    {'w': array(0.5)}

    Source: autograd.misc.optimizers.adam.
    """  # noqa: D205
    own = {"lr": step_size, "betas": (b1, b2), "eps": eps}
    return _run(cyopt.Adam, own, grad, x0, callback, num_iters)


def _run(
    cls: type[cyopt.Optimizer],
    hyperparameters: dict[str, Any],
    grad: Grad,
    x0: Tree,
    callback: Callback | None,
    num_iters: int,
) -> Tree:
    x = _mapped(_own, _float64(x0, "x0"))
    opt = cls.like("autograd", {"x": x}, **hyperparameters)
    for i in range(num_iters):
        given = _mapped(np.copy, x)
        g = _float64(grad(given, i), "the gradient")
        if callback:
            callback(given, i, _mapped(np.copy, g))
        opt.step({"x": g})
    return x


def _mapped(function: Callable[..., Any], tree: Tree, where: str = "") -> Tree:
    """The tree with `function` applied to each leaf; containers are those that autograd flattens.

    With `where`, the name of the tree, the function also gets the name of the leaf.
    """
    if type(tree) is dict:
        return {k: _mapped(function, x, where and f"{where}[{k!r}]") for k, x in tree.items()}
    if type(tree) in (list, tuple):
        leaves = [_mapped(function, x, where and f"{where}[{i}]") for i, x in enumerate(tree)]
        return type(tree)(leaves)
    return function(tree, where) if where else function(tree)


def _own(array: Array) -> Array:
    return np.array(array, order="A")


def _float64(tree: Tree, what: str) -> Tree:
    """The tree with a float64 array for each real array or number; others are refused."""

    def convert(leaf: Any, where: str) -> Array:
        if isbox(leaf):
            raise TypeError(
                f"{where} is autograd's {type(leaf).__name__}, but gradients do not flow through"
                " cyopt's step; use autograd.misc.optimizers instead"
            )
        number = isinstance(leaf, numbers.Real)
        array = np.asarray(leaf) if number else as_array(leaf, where)
        safe = np.can_cast(array.dtype, np.float64)
        return array.astype(np.float64, copy=False) if safe else array

    return _mapped(convert, tree, what)
