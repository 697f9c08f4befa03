"""Functions that return a new array and leave the old one, for code that still needs it.

Each is the function of the same name with an underscore, on a copy of the parameter; state is
updated in place. The parameter may be read-only, of any strides, and a subclass of ndarray; the
result is an ndarray in its element order, or in C order where that would leave gaps. With `out`, it
is written to that array, which is returned; it may be `param` itself. Lists of arrays give a list.
A step that `skip_nonfinite` skips returns a plain copy. If an interrupt arrives between the step
and the write to `out`, state is updated and `out` is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cyopt import _cpu
from cyopt.arrays import Array, as_array, elements_apart, sharing
from cyopt.cuda.libraries import is_on_gpu
from cyopt.foreign import is_foreign
from cyopt.functional import adagrad_, adam_, rmsprop_, sgd_


def sgd(
    param: Any, grad: Any, momentum_buffer: Any = None, *, out: Any = None, **others: Any
) -> Any:
    """The parameter after a step of SGD; all else as in `cyopt.sgd_`.

    >>> import numpy as np, cyopt
    >>> w = np.array([1.0])
    >>> cyopt.sgd(w, np.array([2.0]), lr=0.25), w
    (array([0.5]), array([1.]))
    """
    return _returned(sgd_, param, grad, {"momentum_buffer": momentum_buffer}, out, others)


def adagrad(param: Any, grad: Any, sum: Any, *, out: Any = None, **others: Any) -> Any:
    """The parameter after a step of AdaGrad; all else as in `cyopt.adagrad_`.

    >>> import numpy as np, cyopt
    >>> w, h = np.array([1.0]), np.array([0.0])
    >>> cyopt.adagrad(w, np.array([2.0]), h, step=1, lr=0.25), w, h
    (array([0.75]), array([1.]), array([4.]))
    """
    return _returned(adagrad_, param, grad, {"sum": sum}, out, others)


def rmsprop(
    param: Any,
    grad: Any,
    square_avg: Any,
    grad_avg: Any = None,
    momentum_buffer: Any = None,
    *,
    out: Any = None,
    **others: Any,
) -> Any:
    """The parameter after a step of RMSProp; all else as in `cyopt.rmsprop_`.

    >>> import numpy as np, cyopt
    >>> w, v = np.array([1.0]), np.array([0.0])
    >>> cyopt.rmsprop(w, np.array([2.0]), v, lr=0.25, alpha=0.75, eps=0), w, v
    (array([0.5]), array([1.]), array([1.]))
    """
    states = {"square_avg": square_avg, "grad_avg": grad_avg, "momentum_buffer": momentum_buffer}
    return _returned(rmsprop_, param, grad, states, out, others)


def adam(
    param: Any,
    grad: Any,
    exp_avg: Any,
    exp_avg_sq: Any,
    max_exp_avg_sq: Any = None,
    *,
    out: Any = None,
    **others: Any,
) -> Any:
    """The parameter after a step of Adam; all else as in `cyopt.adam_`.

    >>> import numpy as np, cyopt
    >>> w, m, v = np.array([1.0]), np.array([0.0]), np.array([0.0])
    >>> cyopt.adam(w, np.array([2.0]), m, v, step=1, lr=0.25).round(6), w
    (array([0.75]), array([1.]))
    """
    states = {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq, "max_exp_avg_sq": max_exp_avg_sq}
    return _returned(adam_, param, grad, states, out, others)


def _returned(
    update: Callable[..., bool],
    param: Any,
    grad: Any,
    states: Mapping[str, Any],
    out: Any,
    others: dict[str, Any],
) -> Any:
    """Update copies. `out` is written last, when nothing can be refused any more."""
    params = [_checked(array) for array in _each(param)]
    kept = _arrays({**states, "average": others.get("average")})
    grads = _arrays({"grad": grad})
    written = [*kept, *grads] if others.get("zero_grads") else kept
    n = len(params)
    if sharing([*params, *written], lambda i, j: (i < n) != (j < n)):
        raise ValueError(
            "param shares memory with a state, an average or a gradient that is set to zero, and"
            " would change with it; pass a copy of it"
        )
    copies = [_dense(array) for array in params]
    if out is not None:
        _check_out(_each(out), copies, [*kept, *grads])
    several = isinstance(param, list | tuple)
    update(copies if several else copies[0], grad, *states.values(), **others)
    if out is None:
        return copies if several else copies[0]
    _cpu.copy_into(list(zip(map(np.asarray, _each(out)), copies, strict=True)))
    return out


def _dense(param: Array) -> Array:
    """A copy in the same element order if that is dense, else in C order."""
    kept = np.array(param, order="K", subok=False)
    return kept if kept.flags.forc else np.array(param, order="C", subok=False)


def _each(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else [value]


def _checked(param: Any) -> Array:
    if is_on_gpu(param):
        raise TypeError(
            "param is on a GPU, where there is no step out of place; copy it, and call the function"
            " of the same name with an underscore, such as cyopt.adam_"
        )
    if not isinstance(param, np.ndarray) or isinstance(param, np.ma.MaskedArray):
        raise TypeError(f"param is a {type(param).__name__}; expected a numpy.ndarray")
    return param


def _arrays(arguments: Mapping[str, Any]) -> list[Array]:
    """All arrays among these and in lists; the update refuses what is not an array."""
    each = [(value, name) for name, several in arguments.items() for value in _each(several)]
    return [as_array(value, name) for value, name in each if _is_array(value)]


def _is_array(value: object) -> bool:
    return type(value) in (np.ndarray, np.memmap) or is_foreign(value)


def _check_out(out: Sequence[Any], copies: Sequence[Array], others: Sequence[Array]) -> None:
    """`out` must be writable arrays like the copies, apart from each other and from all others."""
    if len(out) != len(copies):
        raise ValueError(f"out has {len(out)} arrays; expected {len(copies)}, one for each param")
    for array, copy in zip(out, copies, strict=True):
        if type(array) not in (np.ndarray, np.memmap):
            raise TypeError(f"out is a {type(array).__name__}; expected a numpy.ndarray, or None")
        if array.shape != copy.shape or array.dtype != copy.dtype:
            raise ValueError(
                f"out is {array.dtype} of shape {array.shape}; expected {copy.dtype} of shape"
                f" {copy.shape}, as its param"
            )
        if not array.flags.writeable:
            raise ValueError("out is read-only; pass a writable array")
        if not elements_apart(array):
            raise ValueError(
                f"out has strides {array.strides} for its shape {array.shape}: elements share"
                " memory; pass an array of its own"
            )
    n = len(out)
    if sharing([*out, *others], lambda i, j: i < n or j < n):
        raise ValueError(
            "out shares memory with a gradient, a state, an average or another out; pass an array"
            " of its own"
        )
