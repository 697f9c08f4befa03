"""The text of a kernel -> a function that Numba compiles -> LTO-IR -> a cubin.

Numba is used only as a compiler: `numba.cuda.compile` needs no GPU, and a launch by the driver's
own function (_launch.pxi) takes a fraction of the time of a launch by Numba. LTO-IR is used because
in PTX division and square root stay function calls, with twice the registers; it is linked to a
cubin because a driver may be too old for the compiler's PTX.
"""

from __future__ import annotations

import linecache
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from cyopt.cuda import layout
from cyopt.cuda.source import VECTOR_BYTES, Source


def names(module: ModuleType, cuda: Any, dtype: str) -> dict[str, Any]:
    """The meaning of the names of `cyopt.cuda.names` in a kernel of this dtype.

    `module` is `cyopt.cuda.primitives` or `.simulated`; `cuda` gives a thread its indices.
    """
    width = VECTOR_BYTES // np.dtype(dtype).itemsize
    real = np.dtype(dtype).type
    return {
        **{name: value for name, value in vars(layout).items() if isinstance(value, int)},
        "ITEMSIZE": real().itemsize,
        "cuda": cuda,
        "h_zero": real(0),
        "real": real,
        "double": np.float64,
        "load_int": module.load("int64"),
        "store_int": module.store("int64"),
        "load_double": module.load("float64"),
        "store_double": module.store("float64"),
        "load": module.load(dtype),
        "store": module.store(dtype),
        "load_vector": module.load(dtype, width),
        "store_vector": module.store(dtype, width),
        **module.arithmetic(dtype),
        **{f"{name}_double": f for name, f in module.arithmetic("float64").items()},
    }


def function(source: Source, module: ModuleType, cuda: Any) -> Callable[..., None]:
    """The kernel as a Python function, whose text tracebacks and debuggers show."""
    file = f"<cyopt kernel {source.name}>"
    linecache.cache[file] = (len(source.text), None, source.text.splitlines(True), file)
    namespace = names(module, cuda, source.dtype)
    exec(compile(source.text, file, "exec"), namespace)
    made: Callable[..., None] = namespace[source.name]
    return made


def signature(source: Source) -> tuple[Any, ...]:
    """The types of a kernel's arguments: addresses and integers, then scalars of its dtype."""
    from numba import types

    real = getattr(types, source.dtype)
    return (types.int64,) * len(source.addresses) + (real,) * len(source.scalars) * source.sets


def lto_ir(source: Source, compute_capability: tuple[int, int]) -> bytes:
    """The kernel as Numba compiles it for a compute capability."""
    from numba import cuda

    from cyopt.cuda import primitives

    code, _ = cuda.compile(
        function(source, primitives, cuda),
        signature(source),
        device=False,
        abi="numba",
        cc=compute_capability,
        output="ltoir",
    )
    return bytes(code)


def link(code: bytes, compute_capability: tuple[int, int], ptx: bool = False) -> bytes:
    """LTO-IR linked to a cubin, or to PTX for people to read."""
    from cuda.core import Linker, LinkerOptions, ObjectCode

    major, minor = compute_capability
    options = LinkerOptions(
        arch=f"sm_{major}{minor}", link_time_optimization=True, ptx=True if ptx else None
    )
    linker = Linker(ObjectCode.from_ltoir(code, name="cyopt"), options=options)
    return bytes(linker.link("ptx" if ptx else "cubin").code)


def entry(cubin: bytes) -> str:
    """The name that Numba gave to the only kernel of a cubin."""
    found = re.search(rb"\.text\.(_Z\w+)", cubin)
    assert found, "a cubin without a kernel"
    return found.group(1).decode()
