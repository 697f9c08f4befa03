"""cyopt from C and Cython: the C interface with and without Python, and its examples."""

import math
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

import cyopt
from cyopt import _cpu

ROOT = Path(__file__).parents[1]
SOURCES = sorted(map(str, (ROOT / "src_c").glob("*.c")))

needs_gcc = pytest.mark.skipif(
    not SOURCES or os.name != "posix" or not shutil.which("gcc"), reason="needs sources and gcc"
)


def run(*command, cwd=None):
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=cwd,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# ---- defaults

OPTIMIZERS = {
    "sgd": cyopt.SGD(),
    "momentum": cyopt.Momentum(),
    "nesterov": cyopt.Momentum(nesterov=True),
    "adagrad": cyopt.AdaGrad(),
    "rmsprop": cyopt.RMSProp(),
    "rmsprop_centered": cyopt.RMSProp(centered=True),
    "rmsprop_momentum": cyopt.RMSProp(momentum=0.9),
    "rmsprop_centered_momentum": cyopt.RMSProp(centered=True, momentum=0.9),
    "adam": cyopt.Adam(),
    "amsgrad": cyopt.Adam(amsgrad=True),
}


def test_every_rule_is_compared():
    assert set(OPTIMIZERS) == set(_cpu.RULES)


@pytest.mark.parametrize("rule", OPTIMIZERS)
def test_defaults_are_those_of_the_classes(rule):
    hyper, ours = OPTIMIZERS[rule].groups[0].at(0), _cpu.default_hyper(rule)
    assert hyper.rule == rule == _cpu.RULES[ours.pop("rule")]
    assert ours.pop("decay") == ours.pop("momentum_form") == 0
    assert (hyper.decay, hyper.momentum_form) == ("coupled", "lr_outside")
    if rule.startswith("rmsprop"):
        ours["momentum"] = hyper.momentum  # up to the caller
    for name, value in ours.items():
        expected = getattr(hyper, name)
        assert value == expected or (math.isnan(value) and math.isnan(expected)), name


# ---- C alone


def documented_command():
    """The lines of the example's first comment that compile and run it."""
    text = (ROOT / "examples/embed_c/one_step.c").read_text()
    lines = re.search(r"( \*     gcc(?:.|\n)*?one_step)\n \*/", text)[1]
    return re.sub(r"\\?\n \*\s*", " ", lines.removeprefix(" *     "))


@needs_gcc
def test_the_c_example_runs_by_the_command_that_it_names(tmp_path):
    for name in ("src_c", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    printed = run("sh", "-c", documented_command(), cwd=tmp_path)
    assert printed.split() == ["0.9", "-1.9", "3"]


@needs_gcc
@pytest.mark.parametrize("kind", ["static", "shared"])
def test_a_library_of_the_c_files_alone(tmp_path, kind):
    flags = ["-O3", "-std=c11", "-fno-math-errno", "-ffp-contract=off", "-pthread", "-fPIC"]
    if kind == "static":
        run("gcc", *flags, "-c", *SOURCES, cwd=tmp_path)
        run("ar", "rcs", "libcyopt.a", *tmp_path.glob("*.o"), cwd=tmp_path)
    else:
        run("gcc", *flags, "-shared", *SOURCES, "-lm", "-o", "libcyopt.so", cwd=tmp_path)
    example = ROOT / "examples/embed_c/one_step.c"
    include = ROOT / "src_c"
    link = ["-L.", "-Wl,-rpath,.", "-lcyopt", "-lm", "-pthread"]
    run("gcc", f"-I{include}", example, *link, "-o", "one_step", cwd=tmp_path)
    assert run("./one_step", cwd=tmp_path).split() == ["0.9", "-1.9", "3"]


@needs_gcc
@pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")
def test_the_header_is_c_plus_plus_as_well(tmp_path):
    source = '#include "cyopt.h"\nint main() { cyopt_config c; cyopt_default_config(&c); }\n'
    (tmp_path / "main.cpp").write_text(source)
    strict = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only"]
    run("g++", *strict, f"-I{cyopt.get_include()}", "main.cpp", cwd=tmp_path)


# ---- compiled modules of Python


def install_example(folder, headers=None):
    """The Cython example, installed by pip beside the cyopt that is; where it then is."""
    pytest.importorskip("Cython")
    pytest.importorskip("setuptools")
    pytest.importorskip("pip")
    source = folder / "source"
    shutil.copytree(ROOT / "examples/embed_cython", source)
    if headers:
        setup = source / "setup.py"
        setup.write_text(setup.read_text().replace("cyopt.get_include()", repr(str(headers))))
    options = ["--quiet", "--disable-pip-version-check", "--no-build-isolation", "--no-deps"]
    pip = [sys.executable, "-m", "pip", "install", *options]
    run(*pip, "--target", folder / "installed", source)
    return folder / "installed"


def python(folder, code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, cwd=folder
    )


def fitted(x, y, steps, lr):
    """What the example computes, in Python."""
    w = np.zeros(x.shape[1])
    opt = cyopt.Adam(lr=lr)
    for _ in range(steps):
        errors = (1 / (1 + np.exp(-(x @ w))) - y) / len(x)
        opt.step(x.T @ errors, w)
    return w


@needs_gcc
def test_the_cython_example(tmp_path):
    folder = install_example(tmp_path)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 5))
    y = (x[:, 0] > 0.5 * x[:, 1]).astype(float)
    np.savez(folder / "data.npz", x=x, y=y)
    code = """if True:
        import numpy as np, logistic
        data = np.load("data.npz")
        np.save("weights.npy", logistic.fit(data["x"], data["y"], 50, 0.1))
    """
    done = python(folder, code)
    assert done.returncode == 0, done.stderr
    # The sums of the gradients are in another order.
    expected = fitted(x, y, 50, 0.1)
    np.testing.assert_allclose(np.load(folder / "weights.npy"), expected, rtol=1e-9)


@needs_gcc
def test_a_module_for_another_version_is_refused(tmp_path):
    headers = tmp_path / "headers"
    headers.mkdir()
    for name in ("cyopt.h", "cyopt_python.h"):
        text = Path(cyopt.get_include(), name).read_text()
        (headers / name).write_text(re.sub(r"API_VERSION \d+\n", "API_VERSION 99\n", text))
    done = python(install_example(tmp_path, headers), "import logistic")
    assert done.returncode == 1
    assert "ImportError: this module was compiled for version 99 of cyopt's C" in done.stderr


EXTENSION = r"""
#include "cyopt_python.h"

static PyObject *halve(PyObject *self, PyObject *object)
{
    const struct cyopt_api *api = cyopt_import();
    Py_buffer buffer;
    (void)self;
    if (!api || PyObject_GetBuffer(object, &buffer, PyBUF_WRITABLE) < 0)
        return NULL;
    struct cyopt_array array = {.size = buffer.len / 8, .dtype = CYOPT_FLOAT64};
    array.param = buffer.buf;
    array.grad_dtype = CYOPT_FLOAT64;
    double *gradient = malloc(buffer.len);
    memcpy(gradient, buffer.buf, buffer.len);
    array.grad = gradient;
    struct cyopt_hyper hyper;
    api->default_hyper(CYOPT_RULE_sgd, &hyper);
    hyper.lr = 0.5;
    const struct cyopt_config config = *api->config;
    Py_BEGIN_ALLOW_THREADS
    api->update(&array, 1, &hyper, 1, &config);
    Py_END_ALLOW_THREADS
    free(gradient);
    PyBuffer_Release(&buffer);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {{"halve", halve, METH_O, ""}, {0}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "plain", 0, -1, methods, 0, 0, 0, 0};
PyMODINIT_FUNC PyInit_plain(void) { return PyModule_Create(&module); }
"""


@needs_gcc
def test_a_plain_c_extension(tmp_path):
    (tmp_path / "plain.c").write_text(EXTENSION)
    include = [f"-I{cyopt.get_include()}", f"-I{sysconfig.get_path('include')}"]
    run("gcc", "-shared", "-fPIC", *include, "plain.c", "-o", "plain.so", cwd=tmp_path)
    code = """if True:
        import numpy as np, plain
        x = np.arange(5.0)
        plain.halve(x)
        print(x.tolist())
    """
    done = python(tmp_path, code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[0.0, 0.5, 1.0, 1.5, 2.0]"


def test_the_headers_are_where_get_include_says():
    folder = Path(cyopt.get_include())
    assert {"cyopt.h", "cyopt_python.h"} <= {path.name for path in folder.iterdir()}
