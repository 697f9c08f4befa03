"""The primitives of kernels: arithmetic that rounds once, and loads and stores at an address.

The arithmetic is libdevice's `*_rn`, which neither NVVM nor the assembler contracts to a fused
multiply-add, as they may with Numba's operators. A load or store of a tuple is one instruction of
16 bytes, which Numba has no other way to generate. `cyopt.cuda.simulated` has the same for Numba's
simulator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.cuda import libdevice
from numba.cuda.extending import intrinsic

_GLOBAL = 1  # address space
_LLVM = {"float32": ir.FloatType(), "float64": ir.DoubleType(), "int64": ir.IntType(64)}


def _pointer(builder: Any, address: Any, dtype: str, width: int) -> tuple[Any, int]:
    """A pointer to one or to `width` numbers, and its alignment in bytes."""
    item = _LLVM[dtype]
    whole = ir.VectorType(item, width) if width > 1 else item
    alignment = np.dtype(dtype).itemsize * width
    return builder.inttoptr(address, ir.PointerType(whole, addrspace=_GLOBAL)), alignment


def _type(dtype: str, width: int) -> Any:
    return getattr(types, dtype) if width == 1 else types.UniTuple(getattr(types, dtype), width)


def load(dtype: str, width: int = 1) -> Callable[..., Any]:
    """`load(address)`: a number, or a tuple of `width` of them."""
    result = _type(dtype, width)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer, alignment = _pointer(builder, args[0], dtype, width)
        value = builder.load(pointer, align=alignment)
        if width == 1:
            return value
        lanes = [builder.extract_element(value, ir.IntType(32)(i)) for i in range(width)]
        return context.make_tuple(builder, result, lanes)

    @intrinsic
    def load(typing_context, address):  # type: ignore[no-untyped-def]
        return result(types.int64), generate

    made: Callable[..., Any] = load
    return made


def store(dtype: str, width: int = 1) -> Callable[..., Any]:
    """`store(address, value)`: a number, or a tuple of `width` of them."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer, alignment = _pointer(builder, args[0], dtype, width)
        value = args[1]
        if width > 1:
            value = ir.Constant(ir.VectorType(_LLVM[dtype], width), ir.Undefined)
            for i in range(width):
                lane = builder.extract_value(args[1], i)
                value = builder.insert_element(value, lane, ir.IntType(32)(i))
        builder.store(value, pointer, align=alignment)
        return context.get_dummy_value()

    @intrinsic
    def store(typing_context, address, value):  # type: ignore[no-untyped-def]
        return types.void(types.int64, _type(dtype, width)), generate

    made: Callable[..., Any] = store
    return made


def _select(dtype: str, comparison: str) -> Callable[..., Any]:
    """`a > b ? a : b`, or with another comparison: b if one is NaN."""
    real = _type(dtype, 1)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered(comparison, *args), *args)

    @intrinsic
    def select(typing_context, a, b):  # type: ignore[no-untyped-def]
        return real(real, real), generate

    made: Callable[..., Any] = select
    return made


def arithmetic(dtype: str) -> dict[str, Callable[..., Any]]:
    """The operators of the rules."""
    prefix = "f" if dtype == "float32" else "d"
    names = ("add", "mul", "div", "sqrt")
    operators = {name: getattr(libdevice, f"{prefix}{name}_rn") for name in names}
    return {**operators, "maximum": _select(dtype, ">"), "minimum": _select(dtype, "<")}
