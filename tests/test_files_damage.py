"""Files that are damaged, and saves that do not end: what is refused, and what is left."""

import os
import random
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
from same_bits import same_optimizers
from test_files import everything, fails, refuses, trained

import cyopt


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.npz"


@pytest.fixture
def file(path):
    opt = trained(betas=(0.5, 0.75))
    cyopt.save(opt, path)
    return path.read_bytes(), everything(opt)


def loads_or_refuses(data, path, good):
    """Bytes are refused, or give what the undamaged file gave; nothing else is raised."""
    path.write_bytes(data)
    opt = cyopt.Adam()  # unbound: it has no shapes to compare with
    before = everything(opt)
    try:
        cyopt.load(opt, path)
    except ValueError as error:
        assert str(path) in str(error)
        assert everything(opt) == before
        return False
    assert everything(opt) == good
    return True


def test_a_cut_file_is_refused(file, path, full):
    data, good = file
    lengths = range(len(data)) if full else random.Random(0).sample(range(len(data)), 150)
    for length in {*lengths, 0, 1, 4, len(data) - 1}:
        assert not loads_or_refuses(data[:length], path, good), length
    assert loads_or_refuses(data, path, good)


def test_a_flipped_bit_is_refused_or_means_nothing(file, path, full):
    data, good = file
    end = len(data) - 400  # the zip file's directory, where bits have every kind of effect
    bits = range(8 * len(data))
    if not full:
        bits = random.Random(0).sample(bits, 500) + random.Random(1).sample(bits[8 * end :], 500)
    for bit in bits:
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        loads_or_refuses(damaged, path, good)


def test_an_array_that_became_shorter_is_refused(path):
    """NumPy would not read it to its end, where zipfile compares the checksum."""
    opt = cyopt.SGD([np.ones(3000)], momentum=0.9)
    cyopt.save(opt, path)
    data = path.read_bytes()
    assert data.count(b"(3000,)") == 1
    path.write_bytes(data.replace(b"(3000,)", b"(1000,)"))
    refuses(cyopt.SGD(momentum=0.9), path, "checksum of 0.momentum_buffer.npy is wrong")


def test_a_compressed_file_is_refused(tmp_path):
    """It could grow to any size when it is read."""
    path, small = tmp_path / "sgd.npz", tmp_path / "small.npz"
    cyopt.save(cyopt.SGD([np.ones(2)], momentum=0.9), path)
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(small, "w", zipfile.ZIP_DEFLATED) as new:
        for name in whole.namelist():
            new.writestr(name, whole.read(name))
    with pytest.raises(ValueError, match="compressed"):
        cyopt.load(cyopt.SGD([np.ones(2)], momentum=0.9), small)


def test_a_file_with_lost_blocks_is_refused(file, path):
    """A crash of the system may leave zeros in a file that was not synced."""
    data, good = file
    for begin in range(0, len(data), 128):
        for end in (begin + 128, len(data)):
            lost = data[:begin] + bytes(len(data[begin:end])) + data[end:]
            assert not loads_or_refuses(lost, path, good), (begin, end)


# --- interruptions --------------------------------------------------------------------------------


def test_an_interrupted_save_leaves_the_old_file(path, monkeypatch):
    cyopt.save(trained(), path)
    before = path.read_bytes()
    for module, function in ((os, "replace"), (os, "fsync"), (np, "savez")):
        with monkeypatch.context() as context:
            context.setattr(module, function, fails(OSError("made up")))
            with pytest.raises(OSError, match="made up"):
                cyopt.save(trained(lr=0.5), path)
        assert path.read_bytes() == before
        assert os.listdir(path.parent) == [path.name]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # zipfile's, 3.10
def test_a_full_disk_leaves_the_old_file(path):
    resource = pytest.importorskip("resource")
    cyopt.save(trained(), path)
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in (0, 100, len(before) // 2, len(before) - 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            with pytest.raises(OSError, match="too large"):
                cyopt.save(trained(lr=0.002), path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert path.read_bytes() == before
        assert os.listdir(path.parent) == [path.name]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="asks /proc what is synced")
def test_the_file_is_on_disk_before_it_has_the_name(path, monkeypatch):
    def fsync(descriptor):
        target = os.readlink(f"/proc/self/fd/{descriptor}")
        calls.append("folder" if os.path.isdir(target) else os.path.getsize(target))

    def replace(*names):
        calls.append("replace")
        os.rename(*names)

    calls = []
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    cyopt.save(trained(), path)
    assert calls == [path.stat().st_size, "replace", "folder"]


def test_a_folder_that_cannot_be_written_keeps_the_old_file(path):
    cyopt.save(trained(), path)
    before = path.read_bytes()
    os.chmod(path.parent, 0o555)
    try:
        if os.access(path.parent, os.W_OK):
            pytest.skip("this user may write everywhere")
        with pytest.raises(PermissionError):
            cyopt.save(trained(lr=0.5), path)
    finally:
        os.chmod(path.parent, 0o755)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


SAVES = """
import sys, itertools, numpy as np, cyopt
opts = []
for steps in range(1, 5):
    params = np.zeros(100_000)
    opts.append(cyopt.Adam(params))
    for step in range(steps):
        opts[-1].step(np.full(100_000, step + 1.0))
for opt in itertools.cycle(opts):
    cyopt.save(opt, sys.argv[1])
    print("saved", flush=True)
"""


def test_a_killed_process_leaves_a_state_that_it_saved(path, full):
    moments = random.Random(0)
    for _ in range(40 if full else 6):
        command = [sys.executable, "-c", SAVES, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"saved\n"
            time.sleep(moments.uniform(0, 0.1))
            process.send_signal(signal.SIGKILL)
        cyopt.load(opt := cyopt.Adam(np.zeros(100_000)), path)
        twin = cyopt.Adam(np.zeros(100_000))
        for step in range(opt.steps):
            twin.step(np.full(100_000, step + 1.0))
        assert 1 <= opt.steps <= 4
        same_optimizers(opt, twin)


class TimeLimit(Exception):  # noqa: N818  # as users name theirs
    """Of a program's own signal handler."""


@pytest.mark.parametrize("error", [TimeoutError, TimeLimit, MemoryError])
def test_a_signal_handlers_error_is_not_taken_for_a_damaged_file(error, tmp_path, monkeypatch):
    cyopt.save(cyopt.Adam(), tmp_path / "opt.npz")

    def late(*args, **kwargs):
        raise error("job is out of time")

    monkeypatch.setattr(np, "load", late)
    with pytest.raises(error, match="out of time"):
        cyopt.load(cyopt.Adam(), tmp_path / "opt.npz")
