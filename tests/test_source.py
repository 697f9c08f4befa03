"""The sources agree with each other and with their own rules."""

import re
from pathlib import Path

import pytest

import cyopt
from cyopt import _cpu
from cyopt.hyper import Hyper
from cyopt.rules import RULES, prepare

ROOT = Path(__file__).parents[1]
C_SOURCES = sorted((ROOT / "src_c").glob("*"))
PYTHON = [
    path for folder in ("cyopt", "tests") for path in sorted((ROOT / folder).rglob("*.p[yx]*"))
]
SOURCES = [path for path in [*C_SOURCES, *PYTHON] if path.suffix != ".pyc"]
# Of a step's scalars: what chooses the kernel, and what is used before it.
SWITCHES = {
    *("rule", "coupled", "limited"),
    *("clip_norm", "clip_eps", "clip_per_array", "skip_nonfinite"),
}
MAX_LINES = {"src_c": 350, "cyopt": 350, "tests": 500}

pytestmark = pytest.mark.skipif(not C_SOURCES, reason="needs the sources, not only the package")


def path_id(path):
    return path.relative_to(ROOT).as_posix()


def code_of(name):
    """A C file without its comments and strings."""
    text = (ROOT / "src_c" / name).read_text()
    return re.sub(r'/\*.*?\*/|//[^\n]*|"[^"\n]*"', " ", text, flags=re.DOTALL)


def table(name):
    """The rows of an X macro of cyopt.h, split at their commas."""
    header = re.sub(r"/\*.*?\*/", "", (ROOT / "src_c" / "cyopt.h").read_text(), flags=re.DOTALL)
    body = re.search(rf"#define {name}\(X\)((?:.*\\\n)*.*)", header)[1]
    return [[part.strip() for part in row.split(",")] for row in re.findall(r"X\((.*?)\)", body)]


def test_rules_are_the_same_in_c_and_python():
    assert [row[0] for row in table("CYOPT_RULES")] == list(RULES) == list(_cpu.RULES)


@pytest.mark.parametrize("row", table("CYOPT_RULES") if C_SOURCES else [], ids=lambda row: row[0])
def test_a_rule_has_the_function_and_the_state_of_its_python(row):
    name, function, variant, slots, _ = row
    rule = RULES[name]
    flags = {flag.removeprefix("CYOPT_").lower() for flag in re.findall(r"CYOPT_\w+", variant)}
    assert function == rule.function.__name__
    assert flags == set(rule.flags)
    used = {int(slot) for slot in re.findall(r"[124]", slots)}
    assert used == {1 << i for i, state in enumerate(rule.state) if state}


def test_scalars_are_the_same_in_c_and_python():
    names = [row[0] for row in table("CYOPT_SCALARS")]
    hyper = Hyper("adam", "coupled", 0.1, 0.0, 1.0, False)
    for scalars in (prepare(hyper, 1), _cpu.prepare(hyper, 1)):
        assert sorted(names) == sorted(set(scalars) - SWITCHES)


def test_every_scalar_is_used_by_a_rule():
    used = set(re.findall(r"\bh\.(\w+)", code_of("rules.h")))
    assert used == {row[0] for row in table("CYOPT_SCALARS")}


def test_the_hyperparameters_are_the_same_in_c_and_python():
    struct = re.search(r"struct cyopt_hyper \{(.*?)\};", code_of("cyopt.h"), re.DOTALL)[1]
    fields = re.findall(r"(\w+)\s*[,;]", struct)
    assert sorted(fields) == sorted(Hyper._fields)


@pytest.mark.parametrize("name", [path.name for path in C_SOURCES if path.suffix == ".c"])
def test_functions_of_c_have_the_prefix(name):
    # A definition begins in the first column and has its brace there in the next line.
    definitions = re.findall(r"^([A-Za-z][^;{}()#=]*?)\(([^;{}]*)\)\n\{", code_of(name), re.M)
    external = [head.split()[-1].lstrip("*") for head, _ in definitions if "static" not in head]
    assert not [f for f in external if not f.startswith("cyopt_")]


@pytest.mark.parametrize("name", ["rules.h", "kernels.inc"])
def test_a_kernel_calls_nothing_and_has_no_number(name):
    code = re.sub(r"^\s*#.*$", "", code_of(name), flags=re.M)
    assert not re.findall(r"\b(?:pow|exp|log|fma|fabs|sqrtf?)\w*\s*\(", code)
    if name == "rules.h":
        assert not re.findall(r"(?<![\w])\d", code)


def test_only_pool_c_knows_of_threads():
    for path in C_SOURCES:
        if path.suffix in (".c", ".h", ".inc") and path.name != "pool.c":
            assert not re.search(r"pthread|omp_|#pragma omp|_OPENMP", code_of(path.name)), path.name


def test_rules_are_auto_vectorised():
    intrinsics = r"_mm\d*_(?!getcsr|setcsr)\w+|immintrin"
    for path in C_SOURCES:
        assert not re.search(intrinsics, code_of(path.name)), path.name


def test_flags_of_the_build():
    flags = re.sub(r"#.*", "", (ROOT / "setup.py").read_text())
    for wanted in ("-fno-math-errno", "-ffp-contract=off", "-fvisibility=hidden", "-std=c11"):
        assert f'"{wanted}"' in flags
    for unwanted in ("fast-math", "-Ofast", "-march", "-mtune", "-mavx", "-mfma", "/fp:fast"):
        assert unwanted not in flags


@pytest.mark.parametrize("path", SOURCES, ids=path_id)
def test_length(path):
    lines = len(path.read_text().splitlines())
    assert lines <= MAX_LINES[path.relative_to(ROOT).parts[0]]


@pytest.mark.parametrize("path", SOURCES, ids=path_id)
def test_no_path_of_a_machine(path):
    if path.name != Path(__file__).name:
        assert not re.search(r"/home/|/root/|/work/|/Users/|C:\\", path.read_text())


def test_readme_has_every_class():
    readme = (ROOT / "README.md").read_text()
    if not readme:
        pytest.skip("README is empty")
    for cls in cyopt.ALL:
        assert re.search(rf"^\| `{cls.__name__}` \|", readme, re.M), cls.__name__


def test_readme_has_every_framework_of_like():
    readme = (ROOT / "README.md").read_text()
    if not readme:
        pytest.skip("README is empty")
    for framework in ("torch", "keras", "tf1", "optax", "sklearn", "thinc", "autograd", "ema"):
        assert framework in readme
