"""The C code alone, without Python, under the compiler's checks: random lists, and many threads.

tests/fuzz.c is also a target for libFuzzer: `make fuzz-c`.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(map(str, (ROOT / "src_c").glob("*.c")))
FLAGS = ["-std=c11", "-O1", "-g", "-fno-math-errno", "-ffp-contract=off", "-pthread"]

pytestmark = [
    pytest.mark.skipif(not SOURCES, reason="needs the sources, not only the package"),
    pytest.mark.skipif(os.name != "posix" or not shutil.which("gcc"), reason="needs gcc"),
]


def run(folder, program, checks, *arguments):
    """Build a program of this folder with all C files; run it."""
    binary = folder / "program"
    inputs = [f"-I{ROOT / 'src_c'}", str(ROOT / "tests" / program), *SOURCES]
    command = ["gcc", *FLAGS, f"-fsanitize={checks}", "-fno-sanitize-recover=all"]
    built = subprocess.run([*command, *inputs, "-lm", "-o", binary], capture_output=True, text=True)
    if "cannot find" in built.stderr:
        pytest.skip(f"this gcc has no {checks} sanitizer")
    assert built.returncode == 0, built.stderr
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    done = subprocess.run(
        [binary, *arguments], capture_output=True, text=True, timeout=500, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_random_lists_give_the_bits_of_plain_copies(tmp_path, full):
    run(tmp_path, "fuzz.c", "address,undefined", "30000" if full else "1500", "1")


def test_threads_have_no_race(tmp_path):
    run(tmp_path, "stress.c", "thread")
