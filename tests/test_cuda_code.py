"""The code that GPUs would run, read as PTX and as machine code (SASS): make test-cuda."""

import re
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, files

import kernels_on_host
import pytest

from cyopt.cuda import compiler, gather, measure
from cyopt.cuda.source import Variant, function_source, rule_source
from cyopt.rules import RULES

if not kernels_on_host.has_compiler():
    pytest.skip("make test-cuda installs Numba's compiler for GPUs", allow_module_level=True)

CAPABILITIES = [(7, 5), (9, 0), (12, 0)]
VARIANTS = [
    Variant(rule, dtype, **options)
    for rule in RULES
    for dtype in ("float32", "float64")
    for options in (
        {},
        {"coupled": True, "limited": True, "averaged": True, "zeroed": True, "decided": True},
        {"averaged": True, "sets": 4},
    )
]
DIVIDES = ("adagrad", "rmsprop", "adam", "amsgrad")  # the rules with a division and a root


@cache
def lto_ir(source, capability):
    return compiler.lto_ir(source, capability)


def ptx(source, capability=(9, 0)):
    text = compiler.link(lto_ir(source, capability), capability, ptx=True)
    return text.rstrip(b"\0").decode()


def sass(source, tmp_path, capability=(9, 0)):
    """The instructions of the cubin, by NVIDIA's disassembler."""
    try:
        tool = next(f for f in files("nvidia-cuda-nvdisasm") if f.name == "nvdisasm").locate()
    except PackageNotFoundError:
        pytest.skip("make test-cuda installs nvdisasm")
    path = tmp_path / "kernel.cubin"
    path.write_bytes(compiler.link(lto_ir(source, capability), capability))
    shown = subprocess.run([tool, "--print-code", path], capture_output=True, text=True, check=True)
    return re.findall(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+ )?\s*([A-Z][\w.]*)", shown.stdout, re.M)


def operations(text):
    """The instructions of PTX, without guards and operands."""
    return re.findall(r"^\t(?:@!?%p\d+ )?([a-z][\w.]*)", text, re.M)


def inexact(operation):
    """Whether it may round otherwise than once: fused, approximate, or open to contraction."""
    name, *modifiers = operation.split(".")
    real = bool({"f32", "f64"} & set(modifiers))
    return (
        (name in ("fma", "mad") and real)
        or bool({"ftz", "approx", "full"} & set(modifiers))
        or (name in ("add", "sub", "mul", "div", "sqrt") and real and "rn" not in modifiers)
    )


def vectors(text, operation, variant):
    """The loads or stores of 16 bytes."""
    width = {"float32": r"v4\.[bf]32", "float64": r"v2\.[bf]64"}[variant.dtype]
    return re.findall(rf"\t{operation}\.global\.{width}", text)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_ptx_of_the_rules(variant):
    text = ptx(rule_source(variant))
    done = operations(text)
    assert not [o for o in done if inexact(o)]
    assert ".local" not in text
    other = "f64" if variant.dtype == "float32" else "f32"
    assert not [o for o in done if other in o.split(".")]
    # The loop may be unrolled: as many as there are arrays, or more.
    assert len(vectors(text, "ld", variant)) >= len(variant.columns)
    assert len(vectors(text, "st", variant)) >= len(variant.columns) - 1 + variant.zeroed


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("function", [*measure.KERNELS, gather.gather], ids=lambda f: f.__name__)
def test_ptx_of_what_decides(function, dtype):
    text = ptx(function_source(function, dtype))
    assert not [o for o in operations(text) if inexact(o)]
    assert ".local" not in text


@pytest.mark.parametrize("capability", CAPABILITIES, ids=str)
@pytest.mark.parametrize("rule", ["momentum", "adam"])
def test_every_gpu_since_turing(rule, capability):
    variant = Variant(rule, "float32")
    source = rule_source(variant)
    text = ptx(source, capability)
    assert len(vectors(text, "ld", variant)) >= len(variant.columns)
    assert not [o for o in operations(text) if inexact(o)]
    assert compiler.entry(compiler.link(lto_ir(source, capability), capability)) in text


@pytest.mark.parametrize("rule", RULES)
def test_machine_code(rule, tmp_path):
    variant = Variant(rule, "float32")
    done = sass(rule_source(variant), tmp_path)
    assert done.count("LDG.E.128") >= len(variant.columns)
    assert done.count("STG.E.128") >= len(variant.columns) - 1
    assert not [o for o in done if o.startswith(("LDL", "STL", "DADD", "DMUL", "DFMA"))]
    fused = [o for o in done if o.startswith("FFMA")]
    assert bool(fused) == rule.startswith(DIVIDES)  # the instructions of a division are fused ones
