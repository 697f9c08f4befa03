"""How steps run in this process: instruction set, threads, subnormals; and a report of it."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cyopt import _cpu
from cyopt._version import __version__
from cyopt.cgroup import cgroup_cpus
from cyopt.cuda import driver


def get_include() -> str:
    """The folder of cyopt.h and cyopt_python.h, for the compiler of a module that includes them.

    For `cimport cyopt`, in the setup.py of another package:
    `Extension("mine", ["mine.pyx"], include_dirs=[cyopt.get_include()])`.

    >>> import pathlib, cyopt
    >>> (pathlib.Path(cyopt.get_include()) / "cyopt.h").is_file()
    True
    """
    package = Path(__file__).parent
    installed = package / "include"
    return str(installed if installed.is_dir() else package.parent / "src_c")


def set_isa(name: str) -> None:
    """Choose the instruction set of the kernels: "avx512", "avx2" or "base" (the ABI's baseline).

    "best" is the widest that this machine has. The results have the same bits with each. The
    environment variable CYOPT_ISA makes this choice at import.

    Raises ValueError if this build has no such kernels or this machine cannot run them.

    >>> import cyopt
    >>> cyopt.set_isa("base")
    >>> cyopt.set_isa("sse9")
    Traceback (most recent call last):
    ValueError: ISA 'sse9' is unknown; this build has avx512, avx2, base
    >>> cyopt.set_isa("best")
    """
    if name == "best":
        name = _cpu.ISAS_AVAILABLE[0]
    if name not in _cpu.ISAS:
        raise ValueError(f"ISA {name!r} is unknown; this build has {', '.join(_cpu.ISAS)}")
    if name not in _cpu.ISAS_AVAILABLE:
        raise ValueError(
            f"ISA {name!r} is not available on this machine; it has"
            f" {', '.join(_cpu.ISAS_AVAILABLE)}"
        )
    _cpu.set_config(isa=_cpu.ISAS.index(name))


def get_isa() -> str:
    """The instruction set of the kernels in use."""
    return _cpu.ISAS[_cpu.get_config()["isa"]]


def set_num_threads(n: int | None) -> None:
    """Set the most threads that a step may use; None: what the machine and its settings allow.

    None means the CPUs of the calling thread's affinity, at most OMP_NUM_THREADS (as it was at
    import) and the quota of the process's cgroup. A step uses fewer if it is too small to gain, and
    only one while a step of another Python thread has the helpers.

    Raises ValueError or TypeError for anything but None or an integer of at least 1.
    """
    if n is not None and (isinstance(n, bool) or not isinstance(n, int | np.integer)):
        raise TypeError(f"n is {n!r}; expected an integer or None")
    if n is not None and n < 1:
        raise ValueError(f"n is {n}; expected at least 1, or None for what the machine allows")
    if n is not None and n > _cpu.MAX_TEAM:
        raise ValueError(f"n is {n}; expected at most {_cpu.MAX_TEAM}, the most this build can use")
    _cpu.set_config(num_threads=int(n or 0))


def get_num_threads() -> int:
    """The most threads that a step may use."""
    return _cpu.max_team()


def set_subnormals(mode: str) -> None:
    """Let kernels flush subnormal numbers to zero ("flush", the default) or keep them ("keep").

    A subnormal (below 1.2e-38 in float32) costs a CPU over a hundred cycles, and moments decay to
    subnormals. With "keep" the bits are those of IEEE 754 on every machine; with "flush" only where
    no subnormal occurs.

    Raises ValueError for any other mode.
    """
    if mode not in ("flush", "keep"):
        raise ValueError(f"mode is {mode!r}; expected 'flush' or 'keep'")
    _cpu.set_config(flush_subnormals=mode == "flush")


def get_subnormals() -> str:
    """Whether subnormals are flushed ("flush") or kept ("keep"): see `set_subnormals`."""
    return "flush" if _cpu.get_config()["flush_subnormals"] else "keep"


class Info(dict[str, str]):
    """A report that prints one line per entry."""

    def __repr__(self) -> str:
        width = max(map(len, self))
        return "\n".join(f"{key:<{width}}  {value}" for key, value in self.items())


def info() -> Info:
    """The versions and settings in use: the first lines of a bug report.

    >>> import cyopt
    >>> print(cyopt.info())  # doctest: +ELLIPSIS
    cyopt       ...
    ISA         ...
    """
    return Info(
        {
            "cyopt": __version__,
            "ISA": f"{get_isa()} (available: {', '.join(_cpu.ISAS_AVAILABLE)})",
            "threads": f"at most {get_num_threads()}; {os.cpu_count()} CPUs"
            + ("" if _cpu.HAS_THREADS else " (built without threads)"),
            "subnormals": get_subnormals(),
            "compiler": _cpu.COMPILER,
            "CUDA": driver.describe(),
            "NumPy": np.__version__,
            "Python": f"{platform.python_implementation()} {platform.python_version()}",
            "platform": f"{sys.platform} {platform.machine()}",
        }
    )


def thread_limit(environment: Mapping[str, str], quota: int) -> int:
    """The most threads that OMP_NUM_THREADS (its first number), the quota and the CPUs allow."""
    first = environment.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    asked = int(first) if first.isdecimal() and len(first) < 10 else 0
    return min(n for n in (asked, quota, os.cpu_count() or 1) if n > 0)


def configure() -> None:
    """Apply the settings of the environment; called once, at import."""
    _cpu.set_config(max_threads=thread_limit(os.environ, cgroup_cpus()))
    if name := os.environ.get("CYOPT_ISA"):
        try:
            set_isa(name)
        except ValueError as error:
            raise ValueError(f"environment variable CYOPT_ISA: {error}") from None
