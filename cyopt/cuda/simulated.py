"""The primitives in Python, over host memory: for Numba's simulator, and without it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

_C: dict[str, Any] = {
    "float32": ctypes.c_float,
    "float64": ctypes.c_double,
    "int64": ctypes.c_int64,
}


def _at(address: Any, dtype: str, width: int) -> Any:
    item = _C[dtype]
    if int(address) % (ctypes.sizeof(item) * width):
        raise AssertionError(f"{width} numbers of {dtype} at {int(address):#x}: not aligned")
    return (item * width).from_address(int(address))


def load(dtype: str, width: int = 1) -> Callable[..., Any]:
    """`load(address)`: a number, or a tuple of `width` of them."""
    real = np.dtype(dtype).type

    def load(address: Any) -> Any:
        values = tuple(map(real, _at(address, dtype, width)))
        return values if width > 1 else values[0]

    return load


def store(dtype: str, width: int = 1) -> Callable[..., Any]:
    """`store(address, value)`: a number, or a tuple of `width` of them."""

    def store(address: Any, value: Any) -> None:
        values = value if width > 1 else (value,)
        python = int if dtype == "int64" else float
        _at(address, dtype, width)[:] = [python(x) for x in values]

    return store


def arithmetic(dtype: str) -> dict[str, Callable[..., Any]]:
    """The operators of the rules."""
    return {
        "add": np.add,
        "mul": np.multiply,
        "div": np.divide,
        "sqrt": np.sqrt,
        "maximum": lambda a, b: a if a > b else b,
        "minimum": lambda a, b: a if a < b else b,
    }
