"""A step allocates nothing that grows; an optimizer is as large as its state."""

import gc
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from variants import FORMULAS, name

import cyopt
from cyopt.rules import RULES

SIZE = 1 << 20
FORMULA_IDS = [name(formula) for formula in FORMULAS]

# What a step may allocate: objects of Python, some hundred bytes for each array.
SMALL = 16384


def peak_of(action):
    """The most memory that Python and NumPy held during `action`, over what they hold before it."""
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        action()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("layout", ["dense", "transposed", "strided"])
@pytest.mark.parametrize(("cls", "kwargs"), FORMULAS, ids=FORMULA_IDS)
def test_a_step_allocates_nothing_that_grows(cls, kwargs, layout, threads):
    cyopt.set_num_threads(threads)
    rows = SIZE // 256
    w = np.ones((rows, 256), np.float32)
    g = {
        "dense": np.ones((rows, 256), np.float32),
        "transposed": np.ones((256, rows), np.float32).T,
        "strided": np.ones((rows, 512), np.float32)[:, ::2],
    }[layout]
    opt = cls([w], **kwargs)
    opt.step([g])
    assert peak_of(lambda: opt.step([g])) < SMALL
    opt.groups[0].lr = 0.5  # not like the last step
    assert peak_of(lambda: opt.step([g])) < SMALL


def test_a_first_step_allocates_nothing_that_grows():
    w, g = np.ones(SIZE, np.float32), np.ones(SIZE, np.float32)
    opt = cyopt.Adam([w])
    assert peak_of(lambda: opt.step([g])) < SMALL


@pytest.mark.parametrize(("cls", "kwargs"), FORMULAS, ids=FORMULA_IDS)
def test_an_optimizer_allocates_its_state(cls, kwargs):
    w = np.ones(SIZE, np.float32)
    made = []
    peak = peak_of(lambda: made.append(cls([w], **kwargs)))
    slots = sum(1 for slot in RULES[made[0].groups[0].rule].state if slot)
    page = 4096  # in which each state array has a place of its own
    assert slots * w.nbytes <= peak < slots * (w.nbytes + page) + SMALL


def test_large_state_arrays_have_places_of_their_own_in_a_page():
    """Modulo a page: a load waits for an earlier store whose address has the same last bits."""
    for offset in range(0, 4096, 272):
        memory = np.zeros(3 * 4096 + 32_768, np.uint8)[offset:]
        param = memory[memory.ctypes.data % 4 :][: 4 * 8192].view(np.float32)
        state = cyopt.RMSProp([param], momentum=0.9, centered=True, ema=0.9).state["0"].values()
        places = sorted(a.ctypes.data % 4096 for a in (param, *state))
        gaps = [b - a for a, b in zip(places, [*places[1:], places[0] + 4096], strict=True)]
        assert len(gaps) == 5 and min(gaps) > 512
        assert {a.ctypes.data % 64 for a in state} == {param.ctypes.data % 64}


RESIDENT = """
    import resource
    import numpy as np
    import cyopt

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()

    def peak():
        with open("/proc/self/status") as file:
            line = next(line for line in file if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024

    small = np.ones(1 << 16, np.float32)
    cyopt.Adam([small]).step([small.copy()])  # code and buffers that the first step brings
    cyopt.set_num_threads({threads})
    before = resident()
    w, g = np.ones({size}, np.float32), np.ones({size}, np.float32)
    opt = cyopt.Adam([w])
    for _ in range(3):
        opt.step([g])
    print(peak() - before, 4 * w.nbytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_process_holds_parameters_gradients_and_state(threads):
    """Of Adam: parameters, gradients, exp_avg and exp_avg_sq; and no more than 2 % beside them."""
    code = "if True:" + RESIDENT.format(threads=threads, size=1 << 24)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    held, needed = map(int, done.stdout.split())
    assert needed <= held < 1.02 * needed
