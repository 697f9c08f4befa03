"""The machine code of the built extension: vector instructions where promised, FMA nowhere."""

import platform
import re
import shutil
import subprocess
import sys

import pytest

from cyopt import _cpu
from cyopt.bench import _twin

KERNEL = re.compile(r"cyopt_(?P<rule>\w+?)_kernel_(?P<type>f32|f64)_(?P<isa>\w+)")
SIDE = re.compile(r"cyopt_(square_sum|all_finite|difference)_(f32|f64)_(?P<isa>\w+)")
INSTRUCTION = re.compile(r"\s+([0-9a-f]+):\s+(\S+)\s*(.*)")
PACKED = {"f32": "ps", "f64": "pd"}

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="reads an ELF file"),
    pytest.mark.skipif(
        platform.machine() != "x86_64" or "avx2" not in _cpu.ISAS, reason="knows x86 only"
    ),
]


def output_of(tool, *arguments, extension=_cpu):
    if shutil.which(tool) is None:
        pytest.skip(f"needs {tool} (binutils)")
    command = [tool, *arguments, extension.__file__]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def functions():
    return disassembled(_cpu)


def disassembled(extension):
    """Every function: name -> [(address, mnemonic, operands)]."""
    found, current = {}, []
    listing = output_of("objdump", "-d", "--no-show-raw-insn", extension=extension)
    for line in listing.splitlines():
        if line.endswith(">:"):
            current = found.setdefault(line.split("<")[1][:-2], [])
        elif match := INSTRUCTION.match(line):
            current.append((int(match[1], 16), match[2], match[3]))
    if any("__asan" in name for name in found):
        pytest.skip("the extension is built with checks")
    if not any(KERNEL.match(name) for name in found):
        pytest.skip("the extension is stripped of its symbols")
    return found


def kernels(functions, isa):
    """The kernels of one instruction set: (rule, type, instructions)."""
    matches = ((KERNEL.match(name), code) for name, code in functions.items())
    return [(m["rule"], m["type"], code) for m, code in matches if m and m["isa"].startswith(isa)]


def loops(code):
    """The bodies of the loops: what lies between the target of a jump back and the jump."""
    for end, mnemonic, operands in code:
        target = re.match(r"([0-9a-f]+) <", operands)
        if mnemonic.startswith("j") and target and code[0][0] <= int(target[1], 16) < end:
            start = int(target[1], 16)
            yield [instruction for instruction in code if start <= instruction[0] <= end]


def has(body, mnemonic, registers):
    return any(
        re.fullmatch(mnemonic, m) and re.search(registers, operands) for _, m, operands in body
    )


@pytest.mark.parametrize("isa", ["base", "avx2", "avx512"])
def test_every_rule_has_its_kernels(functions, isa):
    expected = {
        (f"{rule}{prologue}{average}", dtype)
        for rule in _cpu.RULES
        for prologue in ("", "_coupled", "_limited", "_limited_coupled")
        for average in ("", "_averaged")
        for dtype in PACKED
    }
    assert {(rule, dtype) for rule, dtype, _ in kernels(functions, isa)} == expected


def test_the_base_has_no_avx(functions):
    for rule, dtype, code in kernels(functions, "base"):
        avx = [(m, x) for _, m, x in code if m.startswith("v") or re.search("%[yz]mm", x)]
        assert not avx, f"{rule} {dtype}"


@pytest.mark.parametrize(
    ("isa", "registers", "prefix"),
    [("base", "%xmm", ""), ("avx2", "%ymm", "v"), ("avx512", "%[yz]mm", "v")],
)
def test_roots_and_divisions_are_packed_in_the_loop(functions, isa, registers, prefix):
    checked = set()
    for rule, dtype, code in kernels(functions, isa):
        if rule.startswith(("ada", "rms", "ams")):
            root, division = f"{prefix}sqrt{PACKED[dtype]}", f"{prefix}div{PACKED[dtype]}"
            assert any(
                has(body, root, registers) and has(body, division, registers)
                for body in loops(code)
            ), f"{rule} {dtype}"
            checked.add((rule, dtype))
    assert len(checked) == 2 * 8 * 7  # types; options; AdaGrad, four of RMSProp, two of Adam


@pytest.mark.parametrize(
    ("isa", "registers", "prefix"),
    [("base", "%xmm", ""), ("avx2", "%ymm", "v"), ("avx512", "%[yz]mm", "v")],
)
def test_squares_are_added_in_packed_doubles(functions, isa, registers, prefix):
    for dtype in PACKED:
        code = functions[f"cyopt_square_sum_{dtype}_{isa}"]
        assert any(
            has(body, f"{prefix}mulpd", registers) and has(body, f"{prefix}addpd", registers)
            for body in loops(code)
        ), dtype


@pytest.mark.parametrize("isa", ["base", "avx2", "avx512"])
def test_a_loop_calls_nothing(functions, isa):
    for rule, dtype, code in kernels(functions, isa):
        calls = [x for body in loops(code) for _, m, x in body if m.startswith("call")]
        assert not calls, f"{rule} {dtype}"


def test_no_fused_multiply_add_anywhere(functions):
    for name, code in functions.items():
        assert not [m for _, m, _ in code if re.match(r"vfn?m(add|sub)", m)], name


def test_only_the_kernels_use_avx(functions):
    """The rest runs before it is known what the processor has."""
    for name, code in functions.items():
        if not KERNEL.match(name) and not SIDE.match(name):
            assert not [m for _, m, x in code if re.search("%[yz]mm", x)], name


def test_only_the_init_function_is_exported():
    lines = output_of("nm", "--dynamic", "--defined-only").splitlines()
    assert [line.split()[-1] for line in lines] == ["PyInit__cpu"]


def test_the_library_of_pow_is_named():
    """Else it is found only where the process has loaded it before."""
    assert re.search(r"NEEDED.*(libm\.so|musl)", output_of("readelf", "--dynamic"))


def test_functions_shared_by_c_files_have_the_prefix():
    table = map(str.split, output_of("readelf", "--symbols", "--wide").splitlines())
    rows = [row for row in table if len(row) > 6 and row[3] in ("FILE", "FUNC")]
    last_file = max((i for i, row in enumerate(rows) if row[3] == "FILE"), default=-1)
    # What follows the last file belongs to none; the C library's own begin with an underscore.
    shared = {row[7] for row in rows[last_file + 1 :] if row[4] == "LOCAL" and row[7][0] != "_"}
    if "cyopt_step" not in shared:
        pytest.skip("the extension is stripped of its symbols")
    assert not [name for name in shared - {"pthread_atfork"} if not name.startswith("cyopt_")]


@pytest.mark.parametrize(
    ("isa", "registers"), [("base", "%xmm"), ("avx2", "%ymm"), ("avx512", "%[yz]mm")]
)
def test_the_twin_is_the_same_kernels_and_only_adds(isa, registers):
    twins = kernels(disassembled(_twin), isa)
    assert len(twins) == len(_cpu.RULES) * 8 * 2  # options; types
    for rule, dtype, code in twins:
        name, suffix = f"{rule} {dtype} {isa}", PACKED[dtype]
        assert any(has(body, f"v?add{suffix}", registers) for body in loops(code)), name
        others = rf"v?(mul|sub|div|sqrt)[ps]{suffix[1]}"
        assert not [m for _, m, _ in code if re.fullmatch(others, m)], name
