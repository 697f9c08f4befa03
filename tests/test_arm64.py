"""The C code alone, here and on arm64, replays steps of cyopt/rules.py: see replay.c."""

import ast
import ctypes
import itertools
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from test_bits import CONTENTS, content
from test_one_pass import OPTIONS
from variants import FORMULAS, VARIANTS, name

import cyopt
from cyopt import _cpu, rules
from cyopt.hyper import CHOICES

ROOT = Path(__file__).parents[1]
if not (ROOT / "src_c").is_dir():
    pytest.skip("needs the sources, not only the package", allow_module_level=True)

# Name -> what runs the program, the compiler, its further options.
BUILDS = {
    "native": ([], "cc", []),
    "arm64": (["qemu-aarch64"], "aarch64-linux-gnu-gcc", ["-static"]),
}
STEPS = (1, 2, 1000)
# Tails of a vector loop, and a list of a large array beside small ones; chunks of 4,096 numbers.
SIZES = [(1, 15, 16, 17), (1, 4095, 17), (4097, 15), (10_000, 16)]
UNUSED = 7.0  # in the streams of state that a rule has not
N_STATES = 3
DECAYS = ("coupled", "before", "after")
C_TYPES = {"int": ctypes.c_int, "double": ctypes.c_double, "int64_t": ctypes.c_int64}


def fields_of(struct, path, types=C_TYPES):
    """The fields of a C struct, for ctypes."""
    text = re.sub(r"/\*.*?\*/", "", (ROOT / path).read_text(), flags=re.DOTALL)
    body = re.search(rf"struct {struct} \{{(.*?)\}};", text, re.DOTALL)[1]
    return [
        (field, types[c_type])
        for c_type, fields in re.findall(r"(\w[\w ]*?) ((?:\w+, )*\w+);", body)
        for field in fields.split(", ")
    ]


class CHyper(ctypes.Structure):
    _fields_ = fields_of("cyopt_hyper", "src_c/cyopt.h")

    @classmethod
    def of(cls, hyper):
        chosen = {
            "rule": _cpu.RULES.index(hyper.rule),
            "decay": DECAYS.index(hyper.decay),
            "momentum_form": CHOICES["momentum_form"].index(hyper.momentum_form),
        }
        return cls(**{**hyper._asdict(), **chosen})


class CRecord(ctypes.Structure):
    _fields_ = fields_of("record", "tests/replay.c", {**C_TYPES, "struct cyopt_hyper": CHyper})


def streams(opt, params, grads):
    """Of each parameter the bytes of all streams, one after the other."""
    states = rules.RULES[opt.groups[0].rule].state
    slots = [*states, *[""] * (N_STATES - len(states)), "average"]
    for param, grad, state in zip(params, grads, opt.state.values(), strict=True):
        unused = np.full_like(param, UNUSED)
        rows = [param, grad, *(state.get(slot, unused) for slot in slots)]
        yield b"".join(row.tobytes() for row in rows)


def steps_before(opt, t, kind, rng):
    """Make the next step the t-th one, with state of any size that a second moment can have."""
    saved = opt.state_dict()
    for entry in saved["state"].values():
        entry["step"] = t - 1
        for key, array in entry.items():
            if key != "step":
                entry[key] = abs(content(kind, array.size, array.dtype.name, rng))
    opt.load_state_dict({**saved, "steps": t - 1})


def recorded(variant, dtype, rng):
    """The bytes of one step, as replay.c reads them."""
    cls, kwargs = variant
    kind, t, sizes = rng.choice(CONTENTS), int(rng.choice(STEPS)), SIZES[rng.integers(len(SIZES))]
    norms = bool(rng.integers(2))
    params, grads = ([content(kind, n, dtype, rng) for n in sizes] for _ in range(2))
    opt = cyopt.reference.attach(cls(params, **kwargs))
    steps_before(opt, t, kind, rng)
    before = list(streams(opt, params, grads))
    opt.step(grads, norms=norms)
    measured = {norm: getattr(opt, norm) for norm in ("grad_norm", "update_norm", "param_norm")}
    record = CRecord(
        hyper=CHyper.of(opt.groups[0].at(t - 1)),
        t=t,
        **{key: -1.0 if norm is None else norm for key, norm in measured.items()},
        skipped=opt.skipped,
        want_norms=norms,
        n_arrays=len(sizes),
        dtype=("float32", "float64").index(dtype),
        has_average="ema" in kwargs,
        average_begins=t == 1 and opt.groups[0].ema_init == "params",
        zero_grad=opt.groups[0].zero_grads,
    )
    arrays = zip(sizes, before, streams(opt, params, grads), strict=True)
    return b"".join([bytes(record), *(np.int64(n).tobytes() + a + b for n, a, b in arrays)])


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """A file of recorded steps, and how many they are."""
    one_pass = itertools.product(FORMULAS, OPTIONS.values())
    more = [(cls, {"lr": 0.05, **formula, **options}) for (cls, formula), options in one_pass]
    # libm's pow may give other bits on another machine.
    variants = [variant for variant in VARIANTS + more if "libm_pow" not in variant[1]]
    path = tmp_path_factory.mktemp("replay") / "steps"
    with path.open("wb") as file:
        for variant, dtype in itertools.product(variants, ("float32", "float64")):
            rng = np.random.default_rng([*map(ord, name(variant) + dtype)])
            file.write(recorded(variant, dtype, rng))
    yield path, 2 * len(variants)
    path.unlink()


def compiled(compiler, options, folder):
    """replay.c and src_c as a program, with the flags of the build."""
    flags = re.search(r"UNIX_FLAGS = (\[.*?\])", (ROOT / "setup.py").read_text(), re.DOTALL)[1]
    sources = [ROOT / "tests" / "replay.c", *sorted((ROOT / "src_c").glob("*.c"))]
    command = [compiler, *ast.literal_eval(flags), *options, f"-I{ROOT / 'src_c'}", *sources, "-lm"]
    program = folder / "replay"
    subprocess.run([*command, "-o", program], check=True)
    return program


@pytest.fixture(scope="module", params=BUILDS)
def replay(request, tmp_path_factory):
    """The command that runs the program."""
    runner, compiler, options = BUILDS[request.param]
    for tool in [*runner, compiler]:
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")
    return [*runner, compiled(compiler, options, tmp_path_factory.mktemp(request.param))]


@pytest.mark.parametrize("threads", [1, 3])
def test_steps_of_the_rules(replay, steps, threads, monkeypatch):
    monkeypatch.delenv("LD_PRELOAD", raising=False)  # a sanitizer, for this machine alone
    path, count = steps
    command = [*replay, path, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == f"{count} steps, the same bits; at most {threads} threads\n"
