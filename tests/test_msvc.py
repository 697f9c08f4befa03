"""What Microsoft's compiler would be given, on machines without it: no word of GCC, no POSIX."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCES = sorted((Path(__file__).parents[1] / "src_c").glob("*.c"))
PREDEFINED = ["-D_MSC_VER=1938", "-D_WIN32=1", "-D_WIN64=1"]
TARGETS = ["-D_M_X64=100", "-D_M_ARM64=1"]
RULES = [[], ["-DCYOPT_TWIN=1"]]

# All the headers that src_c may include there.
HEADERS = {
    **dict.fromkeys(["float.h", "stdatomic.h", "stddef.h", "stdint.h", "xmmintrin.h"], ""),
    "math.h": """
        double sqrt(double), pow(double, double);
        float sqrtf(float);
        #define NAN ((float)(1e300 * 1e300) * 0.0f)
        int isinf(double), isnan(double), isfinite(double);
    """,
    "stdlib.h": """
        #include <stddef.h>
        void qsort(void *, size_t, size_t, int (*)(const void *, const void *));
    """,
    "string.h": """
        #include <stddef.h>
        void *memcpy(void *, const void *, size_t), *memset(void *, int, size_t);
    """,
}

pytestmark = pytest.mark.skipif(not SOURCES, reason="needs the sources, not only the package")
each_source = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
each_rules = pytest.mark.parametrize("rules", RULES, ids=["rules", "twins"])


def output_of(compiler, *arguments):
    if shutil.which(compiler) is None:
        pytest.skip(f"needs {compiler}")
    done = subprocess.run([compiler, "-std=c11", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def headers(tmp_path_factory):
    """A folder of them; those of which only the name matters are in another."""
    folder = tmp_path_factory.mktemp("headers")
    (folder / "empty").mkdir()
    for name, text in HEADERS.items():
        (folder / name if text else folder / "empty" / name).write_text(text)
    return folder


def preprocessed(source, headers, *options):
    folders = ["-nostdinc", "-isystem", headers, "-isystem", headers / "empty"]
    return output_of("cc", "-E", "-P", "-undef", *PREDEFINED, *options, *folders, source)


@each_source
@each_rules
@pytest.mark.parametrize("target", TARGETS)
def test_no_word_of_gcc_is_left(source, rules, target, headers):
    text = preprocessed(source, headers, target, *rules)
    assert "cyopt_" in text
    # Words with two underscores are a compiler's own; these two are Microsoft's.
    foreign = r"\b__(?!forceinline\b|pragma\b)\w+|\b_Pragma\b|#\s*pragma|\basm\b|\btypeof\b"
    assert not re.findall(foreign, text)


def test_no_threads_without_posix(headers):
    text = preprocessed(SOURCES[0].with_name("pool.c"), headers)
    assert re.search(r"int cyopt_has_threads\(void\)\s*\{\s*return 0;\s*\}", text)


@each_source
@each_rules
def test_c11_without_extensions_in_the_abi_of_windows(source, rules, headers):
    """By clang, with its own headers for Windows: long has 32 bits there."""
    windows = ["--target=x86_64-pc-windows-msvc", "-ffreestanding", "-nostdlibinc"]
    strict = ["-pedantic-errors", "-Werror=vla", "-Werror=implicit", "-Werror=shorten-64-to-32"]
    as_cl = ["-U__clang__", "-U__GNUC__", *rules, "-isystem", headers]
    output_of("clang", "-fsyntax-only", *windows, *strict, *as_cl, source)
