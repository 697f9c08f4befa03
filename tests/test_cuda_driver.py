"""The driver's side of a step on a GPU, against a libcuda.so.1 that only writes down its calls."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import kernels_on_host
import pytest

if not kernels_on_host.has_compiler():
    pytest.skip("make test-cuda installs what speaks to the driver", allow_module_level=True)

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def stub(tmp_path_factory):
    """The folder of the stub."""
    compiler = shutil.which("gcc") or shutil.which("clang")
    if not compiler or sys.platform != "linux":
        pytest.skip("the stub needs Linux and a C compiler")
    folder = tmp_path_factory.mktemp("stub")
    flags = ["-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    library = folder / "libcuda.so.1"
    subprocess.run([compiler, *flags, "-o", library, HERE / "stub_cuda.c", "-ldl"], check=True)
    return folder


@pytest.fixture
def on_stub(stub, tmp_path):
    """Run a function of on_stub.py; returns the lines that it prints."""

    def run(name, *arguments, **environment):
        own = {"LD_LIBRARY_PATH": str(stub), "CYOPT_CACHE_DIR": str(tmp_path), **environment}
        done = subprocess.run(
            [sys.executable, HERE / "on_stub.py", name, *arguments],
            env={**os.environ, **own},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert not done.stderr  # the first step says nothing
        return done.stdout.splitlines()

    return run


# The thread's current context is asked for, which asks nothing of the GPU.
STEADY = ["cuCtxGetCurrent cuLaunchKernel"] * 3


def test_a_steady_step_is_one_launch(on_stub):
    assert on_stub("steady", "{}", "1") == STEADY


@pytest.mark.parametrize(
    ("options", "launches"),
    [
        ({"ema": 0.9}, 1),
        ({"zero_grads": True}, 1),
        ({"clip_value": 0.5}, 1),
        ({"capturable": True}, 2),
        ({"clip_norm": 1.0}, 7),
        ({"skip_nonfinite": True}, 7),
        ({"skip_nonfinite": True, "capturable": True, "ema": 0.9, "zero_grads": True}, 7),
    ],
    ids=str,
)
def test_a_steady_step_with_options_only_launches(options, launches, on_stub):
    """And clears a flag: it waits for nothing, and uploads and reads nothing."""
    cleared = ["cuMemsetD8Async"] if launches > 1 else []
    step = " ".join(["cuCtxGetCurrent", *cleared, *["cuLaunchKernel"] * launches])
    assert on_stub("steady", json.dumps(options), "1") == [step] * 3


def test_a_steady_step_with_strided_gradients_only_launches(on_stub):
    for step in on_stub("steady", "{}", "2"):
        assert set(step.split()) == {"cuCtxGetCurrent", "cuLaunchKernel"}


def test_a_refused_launch_raises_and_counts_no_step(on_stub):
    refused = "the CUDA driver says CUDA_ERROR_STUB: an error of the stub 1"
    assert on_stub("refusing") == [refused, refused, "2"] * 2


def test_steps_have_the_bits_of_the_cpu(on_stub):
    assert on_stub("bits") == ["same"]


@pytest.mark.parametrize("safe_path", ["", "1"])
def test_info_names_the_gpu_from_another_process(on_stub, safe_path):
    """After cuInit no fork of this one could use CUDA."""
    assert on_stub("info", PYTHONSAFEPATH=safe_path) == ["0: Stub 0; driver for CUDA 13.0", ""]


def test_a_step_may_be_made_beside_the_capture_of_another_thread(on_stub):
    assert on_stub("moved") == ["3 True"]


def test_the_programs_context_is_current_after_a_step(on_stub):
    assert on_stub("context") == ["0 0x2000"] * 3


def test_the_programs_context_is_current_after_an_interrupt(on_stub):
    assert on_stub("interrupted") == ["0x2000"] * 2


def test_a_first_step_in_a_context_that_is_current_for_a_while_keeps_none(on_stub):
    assert on_stub("lent") == ["0"]


def test_a_forks_child_frees_nothing_of_its_parents_optimizer(on_stub):
    child, parent = on_stub("forked")
    assert "cuMemFree" not in child and "cuMemFree" in parent


def test_streams_wait_for_each_other(on_stub):
    (line,) = on_stub("streams")
    calls = line.split()
    launch = calls.index("cuLaunchKernel")
    for order in (calls[:launch], calls[launch:]):
        assert order.index("cuEventRecord") < order.index("cuStreamWaitEvent")


def test_a_captured_step_asks_for_nothing_that_a_capture_forbids(on_stub):
    (line,) = on_stub("captured")
    part_of_it = {"cuLaunchKernel", "cuMemcpyHtoDAsync", "cuMemsetD8Async"}
    beside = {"cuThreadExchangeStreamCaptureMode", "cuMemHostAlloc", "cuMemAllocHost"}
    calls = line.split()
    asking = {"cuStreamIsCapturing", "cuCtxGetCurrent"}
    assert set(calls) <= asking | part_of_it | beside
    modes = [i for i, name in enumerate(calls) if name == "cuThreadExchangeStreamCaptureMode"]
    for i, name in enumerate(calls):
        if name in beside - {"cuThreadExchangeStreamCaptureMode"}:
            assert sum(mode < i for mode in modes) % 2  # between two of them


def test_arrays_may_lie_on_another_device_than_the_current_one(on_stub):
    here = {"CYOPT_STUB_DEVICES": "2", "CYOPT_STUB_ORDINAL": "1"}
    assert on_stub("second", **here) == ["1 0"] * 2


def test_the_tests_that_need_a_gpu_pass(on_stub):
    """What a GPU adds to them is the GPU."""
    chosen = "test_a_run or float32 and (test_bits and Adam and not weight or zero_grads)"
    assert "passed" in on_stub("gpu_tests", "-k", chosen)[-1]


def test_the_benchmark_measures_a_gpu(on_stub, tmp_path):
    for library in ("cpuinfo", "matplotlib", "psutil", "rich"):
        pytest.importorskip(library, reason='needs pip install "cyopt[bench]"')
    file = tmp_path / "gpu.json"
    words = ["--quick", "--only", "sgd", "adam", "float32", "1k", "digits", "--json", str(file)]
    lines = on_stub("bench", *words, "--plot", str(tmp_path / "gpu.png"))
    assert any(line.startswith("  share of that copy") for line in lines)
    records = json.loads(file.read_text())["records"]
    ours = [r for r in records if r["implementation"] == "cyopt on the GPU"]
    assert len(ours) == 4 and all(record["same_bits"] for record in ours)
    assert len(list(tmp_path.glob("gpu*.png"))) == 2


def test_kernels_are_kept_on_disk(on_stub, tmp_path):
    on_stub("numba_free")
    (kept,) = tmp_path.glob("adam_float32-sm_90-*.cubin")
    made = kept.stat().st_mtime_ns
    assert on_stub("numba_free") == ["False False"]
    assert kept.stat().st_mtime_ns == made
    kept.write_bytes(kept.read_bytes()[:-1])  # a file that is not whole is made again
    on_stub("numba_free")
    assert kept.stat().st_mtime_ns != made
    assert on_stub("numba_free") == ["False False"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes anywhere")
def test_a_folder_that_cannot_be_written_does_not_matter(on_stub, tmp_path):
    tmp_path.chmod(0o500)
    assert on_stub("steady", "{}", "1") == STEADY


def test_an_error_names_the_half_of_an_installation_that_is_missing(on_stub):
    (line,) = on_stub("without_compiler")
    assert re.search(r"adam_float32 cannot be compiled.*numba.*: pip install 'cyopt\[cuda\]'", line)


@pytest.mark.parametrize(
    ("name", "environment", "message"),
    [
        ("refused", {"CYOPT_STUB_DEVICES": "0"}, "no CUDA device.*CUDA_VISIBLE_DEVICES"),
        ("refused", {"CYOPT_STUB_VERSION": "12040"}, "for CUDA 12.4, .*13.0: install a newer"),
        ("refused", {"LD_LIBRARY_PATH": ""}, "NVIDIA's driver was not found"),
        ("without_packages", {}, r"not installed: pip install 'cyopt\[cuda\]'"),
    ],
)
def test_an_error_names_what_is_missing(on_stub, name, environment, message):
    (line,) = on_stub(name, **environment)
    assert line.startswith("parameter '0' is on a GPU: ")
    assert re.search(message, line)
