"""Builds the one extension module: the C kernels of src_c and their Cython binding.

CYOPT_NO_OPENMP=1 builds without threads; so does a compiler that has no OpenMP.
"""

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCES = sorted(str(path) for path in Path("src_c").glob("*.c"))
HEADERS = sorted(str(path) for ending in ("h", "inc") for path in Path("src_c").glob(f"*.{ending}"))

# Auto-vectorised, every operation rounded once: no -ffast-math, no -march=native, no contraction to
# FMA; without -fno-math-errno nothing with a square root vectorises.
UNIX_FLAGS = ["-O3", "-std=c11", "-fno-math-errno", "-ffp-contract=off", "-fvisibility=hidden"]
MSVC_FLAGS = ["/O2", "/std:c11", "/fp:precise"]


class BuildExt(build_ext):
    """Flags by compiler; OpenMP where it compiles and links."""

    def build_extensions(self) -> None:
        msvc = self.compiler.compiler_type == "msvc"
        openmp = "/openmp" if msvc else "-fopenmp"
        for extension in self.extensions:
            extension.extra_compile_args = list(MSVC_FLAGS if msvc else UNIX_FLAGS)
            if os.environ.get("CYOPT_NO_OPENMP", "0") == "0" and self.links_with(openmp):
                extension.extra_compile_args.append(openmp)
                extension.extra_link_args = [] if msvc else [openmp]
        super().build_extensions()

    def links_with(self, flag: str) -> bool:
        """Whether a program with an OpenMP call compiles and links with `flag`."""
        program = "#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n"
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.c")
            source.write_text(program)
            try:
                objects = self.compiler.compile([str(source)], folder, extra_postargs=[flag])
                self.compiler.link_executable(
                    objects,
                    "probe",
                    folder,
                    extra_postargs=[] if sys.platform == "win32" else [flag],
                )
            except Exception:  # whatever this compiler raises, the answer is no
                print("cyopt: no OpenMP; steps run on one thread", file=sys.stderr)
                return False
        return True


extension = Extension(
    "cyopt._cpu",
    ["cyopt/_cpu.pyx", *SOURCES],
    include_dirs=["src_c", np.get_include()],
    depends=HEADERS,
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
)
setup(ext_modules=cythonize([extension]), cmdclass={"build_ext": BuildExt})
