"""Builds the one extension module: the C kernels of src_c and their Cython binding.

CYOPT_NO_THREADS=1 builds without threads. No OpenMP is used: src_c/pool.c says why.
"""

import os
from pathlib import Path

import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCES = sorted(str(path) for path in Path("src_c").glob("*.c"))
HEADERS = sorted(str(path) for ending in ("h", "inc") for path in Path("src_c").glob(f"*.{ending}"))

# Auto-vectorised, every operation rounded once: no -ffast-math, no -march=native, no contraction to
# FMA; without -fno-math-errno nothing with a square root vectorises.
UNIX_FLAGS = [
    "-O3",
    "-std=c11",
    "-fno-math-errno",
    "-ffp-contract=off",
    "-fvisibility=hidden",
    "-pthread",
]
MSVC_FLAGS = ["/O2", "/std:c11", "/experimental:c11atomics", "/fp:precise"]


class BuildExt(build_ext):
    """Flags by compiler."""

    def build_extensions(self) -> None:
        msvc = self.compiler.compiler_type == "msvc"
        for extension in self.extensions:
            extension.extra_compile_args = MSVC_FLAGS if msvc else UNIX_FLAGS
            extension.extra_link_args = [] if msvc else ["-pthread"]
        super().build_extensions()


macros = [("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")]
if os.environ.get("CYOPT_NO_THREADS", "0") != "0":
    macros.append(("CYOPT_NO_THREADS", "1"))

extension = Extension(
    "cyopt._cpu",
    ["cyopt/_cpu.pyx", *SOURCES],
    include_dirs=["src_c", np.get_include()],
    depends=HEADERS,
    define_macros=macros,
)
setup(
    ext_modules=cythonize([extension], build_dir="build"),
    cmdclass={"build_ext": BuildExt},
    include_package_data=False,  # the wheel has what package-data names, not the sources
)
