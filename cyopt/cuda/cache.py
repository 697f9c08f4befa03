"""Compiled kernels: in memory for each GPU, and on disk for each compute capability and version."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cyopt._version import __version__
from cyopt.cuda import compiler, driver
from cyopt.cuda.source import Source

_COMPILERS = ("numba-cuda", "llvmlite", "nvidia-nvvm", "nvidia-nvjitlink")
_DIGEST_BYTES = 32
_OLDEST = (7, 5)  # the oldest compute capability that CUDA 13's compiler knows


class _NoFolderError(Exception):
    """There is no home directory for a cache."""


def folder() -> Path:
    """Where cubins are kept: CYOPT_CACHE_DIR, or the user's cache folder."""
    if own := os.environ.get("CYOPT_CACHE_DIR"):
        return Path(own)
    import platformdirs

    # A user who is unknown to the system, as in some containers, has no home: platformdirs raises,
    # or in older versions returns a path that starts with "~".
    try:
        path = Path(platformdirs.user_cache_dir("cyopt"))
    except RuntimeError as error:
        raise _NoFolderError from error
    if not path.is_absolute():
        raise _NoFolderError
    return path


def cubin(source: Source, compute_capability: tuple[int, int]) -> bytes:
    """The compiled kernel, from the disk if it was compiled before."""
    # Without a folder that can be written, it is compiled each time.
    with contextlib.suppress(OSError, _NoFolderError):
        kept = _path(source, compute_capability).read_bytes()
        code = kept[_DIGEST_BYTES:]
        if kept[:_DIGEST_BYTES] == hashlib.sha256(code).digest():
            return code
    code = compiler.link(compiler.lto_ir(source, compute_capability), compute_capability)
    with contextlib.suppress(OSError, _NoFolderError):
        _write(_path(source, compute_capability), hashlib.sha256(code).digest() + code)
    return code


def _path(source: Source, compute_capability: tuple[int, int]) -> Path:
    """Its file, whose name depends on everything that decides its content."""
    parts = [__version__, source.text, compiler_text(), *map(_version, _COMPILERS)]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    major, minor = compute_capability
    return folder() / f"{source.name}-sm_{major}{minor}-{key}.cubin"


@cache
def compiler_text() -> str:
    """The text of the modules that decide what a kernel's text means."""
    here = Path(__file__).parent
    files = ("primitives.py", "compiler.py", "layout.py")
    return "".join((here / name).read_text() for name in files)


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _write(path: Path, data: bytes) -> None:
    """Write a file completely or not at all, even while other processes do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


@cache
def kernel(source: Source, ordinal: int) -> Any:
    """The kernel loaded on a GPU, as `Device.launch` takes it."""
    from cuda.core import ObjectCode

    device = driver.device(ordinal)
    if device.compute_capability < _OLDEST:
        major, minor = device.compute_capability
        raise RuntimeError(
            f"GPU {ordinal} has compute capability {major}.{minor}; kernels are compiled for 7.5"
            " (Turing) and newer"
        )
    try:
        code = cubin(source, device.compute_capability)
    except ImportError as error:
        raise RuntimeError(
            f"the kernel {source.name} cannot be compiled, because a package is missing"
            f" ({error}): {driver.INSTALL}"
        ) from error
    with device.beside_captures():
        kernel = ObjectCode.from_cubin(code).get_kernel(compiler.entry(code))
        device.load(kernel)
    return kernel
