"""Builds the extension module (the C kernels of src_c and their binding) and two for the benchmark.

CYOPT_NO_THREADS=1 builds without threads. No OpenMP is used: src_c/pool.c says why.
"""

import os
from pathlib import Path

import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py


def files(folder: str, *endings: str) -> list[str]:
    """The files of a folder with these endings."""
    return sorted(str(path) for ending in endings for path in Path(folder).glob(f"*.{ending}"))


SOURCES = files("src_c", "c")
KERNELS = [path for path in SOURCES if Path(path).stem.startswith(("kernels", "dispatch"))]
HEADERS = files("src_c", "h", "inc")
# The headers in the folder cyopt.get_include().
PUBLIC_HEADERS = ["src_c/cyopt.h", "src_c/cyopt_python.h"]
CYTHON = files("cyopt", "pyx", "pxd", "pxi")

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
    """Flags by compiler; a folder for each extension, as two are built from the same C files."""

    def build_extension(self, extension: Extension) -> None:
        msvc = self.compiler.compiler_type == "msvc"
        extension.extra_compile_args = MSVC_FLAGS if msvc else UNIX_FLAGS
        extension.extra_link_args = [] if msvc else ["-pthread", "-lm"]
        shared, self.build_temp = self.build_temp, str(Path(self.build_temp, extension.name))
        super().build_extension(extension)
        self.build_temp = shared


class BuildPy(build_py):
    """Adds the public headers to the package; an install in place has them in src_c."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            folder = Path(self.build_lib, "cyopt", "include")
            self.mkpath(str(folder))
            for header in PUBLIC_HEADERS:
                self.copy_file(header, str(folder / Path(header).name))


def extension(name: str, pyx: str, sources: list[str], macros: list[str]) -> Extension:
    """An extension module of the package."""
    return Extension(
        name,
        [pyx, *sources],
        include_dirs=["src_c", np.get_include()],
        depends=[*HEADERS, *CYTHON],
        define_macros=[
            ("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION"),
            *((name, "1") for name in macros),
        ],
    )


threads = ["CYOPT_NO_THREADS"] if os.environ.get("CYOPT_NO_THREADS", "0") not in ("", "0") else []
BENCH = "cyopt/bench"
setup(
    ext_modules=cythonize(
        [
            extension("cyopt._cpu", "cyopt/_cpu.pyx", SOURCES, threads),
            # What `python -m cyopt bench` compares with: the same loops with other rules, and
            # code that shares nothing with them.
            extension("cyopt.bench._twin", f"{BENCH}/_twin.pyx", KERNELS, ["CYOPT_TWIN"]),
            extension("cyopt.bench._roof", f"{BENCH}/_roof.pyx", [], []),
        ],
        build_dir="build",
    ),
    cmdclass={"build_ext": BuildExt, "build_py": BuildPy},
    include_package_data=False,  # the wheel has what package-data names, not the sources
)
