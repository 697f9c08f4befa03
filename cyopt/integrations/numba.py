"""cyopt inside functions that Numba compiles: a whole training loop without Python or the GIL.

    numbers = hyper(cyopt.Adam(lr=1e-3), np.float32)    # once, in Python: checks everything

    @njit(nogil=True)
    def train(w, m, v, numbers, steps):
        for t in range(1, steps + 1):
            numbers[0].lr = 1e-3 / t                     # any number may be changed
            update(numbers, t, w, gradient(w), (m, v))

The bits are those of `cyopt.Adam.step`: both run the same compiled code, with the instruction set
and number of threads that are set.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import cyopt
from cyopt import _cpu
from cyopt.arrays import DTYPES
from cyopt.integrations import require

require("numba", "0.61", "numba")

import llvmlite.binding as llvm  # noqa: E402
from llvmlite import ir  # noqa: E402
from numba import from_dtype, types  # noqa: E402
from numba.core import cgutils  # noqa: E402
from numba.core.errors import TypingError  # noqa: E402
from numba.extending import intrinsic, overload  # noqa: E402

# Called by name: what Numba caches on disk must not contain an address of this process.
_SYMBOL = "cyopt_update_as_set"
llvm.add_symbol(_SYMBOL, _cpu.UPDATE_AS_SET)

# What `hyper` returns: struct cyopt_hyper, then the item size of the parameters.
_STRUCT = _cpu.hyper_record(cyopt.SGD().groups[0].at(0)).dtype
_NUMBERS = np.dtype([*_STRUCT.descr, ("itemsize", np.intc)])
_RECORD = from_dtype(_NUMBERS)

# Options that a step from Python has beyond the rule, and the values that turn them off.
_OFF = {
    "clip_norm": None,
    "skip_nonfinite": False,
    "zero_grads": False,
    "cast_grads": False,
    "capturable": False,
    "ema": None,
}

# Rule -> which slots of `struct cyopt_array` its state takes.
_SLOTS = tuple(
    tuple(i for i, name in enumerate(cyopt.rules.RULES[rule].state) if name) for rule in _cpu.RULES
)
_COUNTS = tuple(map(len, _SLOTS))
_SECOND = tuple(slots[1] if len(slots) > 1 else 1 for slots in _SLOTS)


def hyper(optimizer: cyopt.Optimizer, dtype: Any) -> np.ndarray[Any, Any]:
    """The numbers of an optimizer for `update`: an array of one record, `numbers[0].lr` and so on.

    `optimizer` gives the formula and its numbers, as in `cyopt.Adam(lr=0.1, eps_hat=True)`; `dtype`
    is that of the parameters. The fields are those of `struct cyopt_hyper` in cyopt.h: betas are
    `beta1` and `beta2`, alpha is `beta2`. Compiled code may change them, but must keep them in
    range.

    Raises TypeError for a schedule (set the field in the loop), for what `update` cannot do
    (clip_norm, skip_nonfinite, zero_grads, cast_grads, capturable, averages), and for a nonzero
    initial value of the state, which the caller fills; ValueError for numbers that are invalid in
    `dtype`.

    >>> import numpy as np, cyopt
    >>> from cyopt.integrations.numba import hyper
    >>> numbers = hyper(cyopt.SGD(lr=0.5), np.float32)
    >>> float(numbers[0]["lr"])
    0.5
    """
    if not isinstance(optimizer, cyopt.Optimizer):
        raise TypeError(f"optimizer is {optimizer!r}; expected one, such as cyopt.Adam(lr=1e-3)")
    try:
        known = dtype is not None and np.dtype(dtype) in DTYPES
    except TypeError:
        known = False
    if not known:
        raise TypeError(f"dtype is {dtype!r}; expected that of the parameters, float32 or float64")
    if len(optimizer.groups) != 1:
        raise TypeError(f"optimizer has {len(optimizer.groups)} groups; pass one with one group")
    (group,) = optimizer.groups
    for name, off in _OFF.items():
        if group.values()[name] is not off:
            raise TypeError(
                f"{name} is {group.values()[name]!r}, which update() in compiled code does"
                f" not support: pass {name}={off}, or call step() from Python"
            )
    for name in optimizer.initial_values.values():
        if group.values()[name] != 0:
            raise TypeError(
                f"{name} is {group.values()[name]!r}, but the caller makes the state for update():"
                f" pass {name}=0, and fill the array with it"
            )
    for field, (name, _) in group.schedules.items():
        raise TypeError(
            f"{name} is a schedule; pass a number, and set numbers[0].{field} in the compiled loop"
        )
    numbers = np.zeros(1, _NUMBERS)
    numbers[list(_STRUCT.names or ())] = _cpu.hyper_record(group.at(0, [np.dtype(dtype)]))
    numbers["itemsize"] = np.dtype(dtype).itemsize
    return numbers


def update(numbers: Any, step: int, param: Any, grad: Any, state: Any) -> None:
    """Make step `step`, counted from 1, of one array in place; for code that Numba compiles.

    `numbers` comes from `hyper`. `param`, `grad` and the arrays in the tuple `state`, in the order
    of the functional form (`(exp_avg, exp_avg_sq)` for Adam, `()` for SGD), are contiguous arrays
    of the same dtype (float32 or float64), shape and order. The caller ensures that no two of them
    share memory. It runs without the GIL if the compiled function does; the instruction set,
    threads and subnormals are as set, by cyopt's functions in Python, at the time of the call.

    Raises numba.TypingError, at compilation, for arrays of other kinds and a step that is not an
    integer; ValueError, before anything is written, for a dtype other than the one given to
    `hyper`, shapes that differ, a wrong number of state arrays, and a step below 1; RuntimeError if
    Numba cached the function (`cache=True`) with another version of cyopt.

    >>> import numpy as np, cyopt
    >>> from numba import njit
    >>> from cyopt.integrations.numba import hyper, update
    >>> @njit
    ... def descend(w, numbers):
    ...     for t in range(1, 4):
    ...         update(numbers, t, w, 2 * w, ())
    >>> w = np.array([1.0, 2.0])
    >>> descend(w, hyper(cyopt.SGD(lr=0.25), w.dtype))
    >>> w
    array([0.125, 0.25 ])
    """
    raise TypeError("update is called from Python; call it in a function that Numba compiles")


@overload(update)  # type: ignore[untyped-decorator]
def _update(
    numbers: Any, step: Any, param: Any, grad: Any, state: Any
) -> Callable[..., None] | None:
    _check_types(numbers, step, param, grad, state)
    n_state = len(state)

    def implementation(numbers: Any, step: Any, param: Any, grad: Any, state: Any) -> None:
        if len(numbers) != 1:
            raise ValueError("numbers is not the one record that hyper gives")
        if numbers[0].itemsize != param.itemsize:
            raise ValueError("numbers was made by hyper for another dtype than that of param")
        rule = numbers[0].rule
        if rule < 0 or rule >= len(_COUNTS) or _COUNTS[rule] != n_state:
            raise ValueError("state does not have as many arrays as the rule of these numbers")
        if np.int64(step) < 1:
            raise ValueError("step counts from 1")
        if numbers[0].clip_norm != 0.0 or numbers[0].skip_nonfinite != 0:
            raise ValueError("clip_norm and skip_nonfinite cannot be turned on in compiled code")
        if grad.shape != param.shape:
            raise ValueError("grad does not have the shape of param")
        if param.ctypes.data % param.itemsize != 0 or grad.ctypes.data % param.itemsize != 0:
            raise ValueError("param or grad is not aligned to its item size: pass a copy")
        if n_state > 0:  # Numba cannot loop over an empty tuple
            for array in state:
                if array.shape != param.shape:
                    raise ValueError("an array of state does not have the shape of param")
                if array.ctypes.data % param.itemsize != 0:
                    raise ValueError(
                        "an array of state is not aligned to its item size: allocate it again"
                    )
        if _call(numbers, step, param, grad, state, _SECOND[rule]) < 0:
            raise RuntimeError(
                "this function was compiled for another version of cyopt: delete Numba's cache"
                " of it (__pycache__, NUMBA_CACHE_DIR)"
            )

    return implementation


def _check_types(numbers: Any, step: Any, param: Any, grad: Any, state: Any) -> None:
    """The checks that are possible when the call is compiled."""
    if not isinstance(numbers, types.Array) or (numbers.dtype, numbers.ndim) != (_RECORD, 1):
        raise TypingError(f"numbers is {numbers}; expected what cyopt's hyper() gives")
    if not isinstance(step, types.Integer):
        raise TypingError(f"step is {step}; expected an integer, 1 in the first step")
    if not isinstance(state, types.BaseTuple):
        raise TypingError(f"state is {state}; expected a tuple of arrays, () if there are none")
    for name, array in [("param", param), ("grad", grad), *(("state", array) for array in state)]:
        if not isinstance(array, types.Array) or array.dtype not in (types.float32, types.float64):
            raise TypingError(f"{name} is {array}; expected an array of float32 or float64")
        if array.layout not in "CF":
            raise TypingError(f"{name} is {array}; expected a contiguous one: np.ascontiguousarray")
        if not array.aligned or (name != "grad" and not array.mutable):
            raise TypingError(f"{name} is {array}; expected an aligned array that may be written")
        if (array.dtype, array.ndim) != (param.dtype, param.ndim) or (
            array.layout != param.layout and param.ndim > 1
        ):
            raise TypingError(
                f"{name} is {array}; expected the type and order of param, {param}: .astype,"
                " np.ascontiguousarray"
            )


@intrinsic  # type: ignore[untyped-decorator]
def _call(
    typingctx: Any, numbers: Any, step: Any, param: Any, grad: Any, state: Any, second: Any
) -> Any:
    """`cyopt_update` of one array. Its struct is on the stack, and the arrays are the caller's."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def array(kind: Any, value: Any) -> Any:
            return context.make_array(kind)(context, builder, value)

        word, integer = ir.IntType(64), ir.IntType(32)
        pointer = cgutils.voidptr_t
        words = ir.ArrayType(word, _cpu.ARRAY_SIZE // 8)
        struct = cgutils.alloca_once(builder, words)
        builder.store(ir.Constant(words, None), struct)
        base = builder.bitcast(struct, pointer)

        def store(offset: Any, value: Any) -> None:
            place = builder.gep(base, [offset if hasattr(offset, "type") else word(offset)])
            builder.store(value, builder.bitcast(place, value.type.as_pointer()))

        def address(kind: Any, value: Any) -> Any:
            return builder.ptrtoint(array(kind, value).data, word)

        offsets = _cpu.ARRAY_OFFSETS
        dtype = integer(1 if param.dtype == types.float64 else 0)
        store(offsets["size"], array(param, args[2]).nitems)
        store(offsets["dtype"], dtype)
        store(offsets["grad_dtype"], dtype)
        store(offsets["param"], address(param, args[2]))
        store(offsets["grad"], address(grad, args[3]))
        for i, kind in enumerate(state):
            place = word(offsets["state"] + 8 * i)
            if i == 1:  # the one slot that depends on the rule
                place = builder.add(word(offsets["state"]), builder.mul(args[5], word(8)))
            store(place, address(kind, builder.extract_value(args[4], i)))
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(integer, [integer, pointer, pointer, word]), _SYMBOL
        )
        hypers = builder.bitcast(array(numbers, args[0]).data, pointer)
        return builder.call(function, [integer(_cpu.API_VERSION), base, hypers, args[1]])

    return types.int32(numbers, types.int64, param, grad, state, types.int64), codegen
