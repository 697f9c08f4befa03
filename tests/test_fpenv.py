"""The floating-point environment: a step leaves MXCSR as it was and does not depend on it."""

import ctypes
import platform
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from same_bits import same_bits, same_optimizers
from variants import FORMULAS, name

import cyopt
from cyopt import _cpu

# MXCSR: sticky flags 0x003F, operands flushed 0x0040, traps masked 0x1F80, rounding 0x6000, results
# flushed 0x8000.
DEFAULT, FLUSH, STICKY = 0x1F80, 0x9FC0, 0x003F
DOWN, UP, TO_ZERO = 0x2000, 0x4000, 0x6000
MXCSR = {
    "default": DEFAULT,
    "all flags set": DEFAULT | STICKY,
    "some flags set": DEFAULT | 0x0015,
    "flushing": FLUSH,
    "flushing results": DEFAULT | 0x8000,
    "flushing operands": DEFAULT | 0x0040,
    "rounding down": DEFAULT | DOWN,
    "rounding up": DEFAULT | UP,
    "rounding to zero": DEFAULT | TO_ZERO,
    "flushing, rounding to zero, flags set": FLUSH | TO_ZERO | STICKY,
}
SUBNORMALS = ["flush", "keep"]
SOURCES = Path(__file__).parents[1] / "src_c"

x86_64 = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="MXCSR is a register of x86"
)

# Python computes too, so C sets the register, calls back and reads it.
HELPER = """
#include <xmmintrin.h>
void *PyObject_CallFunctionObjArgs(void *function, ...);
void Py_DecRef(void *object);
unsigned call_under(unsigned mxcsr, void *function, void *argument)
{
    const unsigned saved = _mm_getcsr();
    _mm_setcsr(mxcsr);
    void *result = PyObject_CallFunctionObjArgs(function, argument, (void *)0);
    const unsigned after = _mm_getcsr();
    _mm_setcsr(saved);
    Py_DecRef(result);
    return after;
}
"""


# Each thread of the pool has its own MXCSR, set before the steps and looked at after them; the
# barrier sees to it that every helper is there.
TEAM = """
#include <cyopt.h>
#include <pool.h>
#include <pthread.h>
#include <xmmintrin.h>
enum { TEAM = 4, SIZE = 300000 };
static pthread_barrier_t barrier;
static _Thread_local unsigned mine;
static int wrong;
static void set(void *value, int id)
{
    pthread_barrier_wait(&barrier);
    mine = *(unsigned *)value ^ (unsigned)id; /* other sticky flags in each thread */
    _mm_setcsr(mine);
}
static void look(void *unused, int id)
{
    pthread_barrier_wait(&barrier);
    if (_mm_getcsr() != mine)
        __atomic_add_fetch(&wrong, 1, __ATOMIC_SEQ_CST);
}
int main(void)
{
    static float param[SIZE], grad[SIZE], m[SIZE], v[SIZE];
    unsigned values[] = {0x1F80, 0x7F80, 0x9FC0 | 0x3F, 0x5F80, 0xBF95};
    struct cyopt_config config;
    cyopt_default_config(&config);
    config.num_threads = TEAM;
    config.grain = 1;
    pthread_barrier_init(&barrier, NULL, TEAM);
    struct cyopt_array array = {.size = SIZE, .param = param, .grad = grad, .state = {m, v}};
    struct cyopt_report report = {0};
    struct cyopt_scalars scalars = {.rule = CYOPT_RULE_adam, .s = 1, .k = 1, .step = 1, .r = 1};
    for (int i = 0; i < 10; i++) {
        config.flush_subnormals = i % 2;
        cyopt_pool_run(TEAM, set, &values[i / 2]);
        for (int j = 0; j < 10; j++) /* 0 / 0 sets a flag */
            if (cyopt_step(&array, 1, &scalars, &config, &report) != TEAM)
                return 100;
        cyopt_pool_run(TEAM, look, NULL);
    }
    return wrong;
}
"""


def compile_c(source, folder, *arguments):
    """What GCC makes of this C source; a skip where there is no GCC."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    (folder / "helper.c").write_text(source)
    subprocess.run(
        ["gcc", "-std=c11", "-D_GNU_SOURCE", "-O1", "-o", "helper", "helper.c", *arguments],
        cwd=folder,
        check=True,
    )
    return folder / "helper"


@pytest.fixture(scope="module")
def helper_path(tmp_path_factory):
    return compile_c(HELPER, tmp_path_factory.mktemp("helper"), "-shared", "-fPIC")


@pytest.fixture(scope="module")
def call_under(helper_path):
    """call_under(mxcsr, function, argument) calls with that MXCSR; returns MXCSR after it."""
    call = ctypes.PyDLL(str(helper_path)).call_under
    call.argtypes = [ctypes.c_uint, ctypes.py_object, ctypes.py_object]
    call.restype = ctypes.c_uint
    return call


def arrays(seed, dtype, sizes=(100, 33)):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(size).astype(dtype) for size in sizes]


def run_of(opt):
    """A function of the gradients: a step by the last one's plan, no sums of Python's own."""
    return partial(opt._lists[None].plan.run, norms=False)


@x86_64
@pytest.mark.parametrize("subnormals", SUBNORMALS)
@pytest.mark.parametrize("mxcsr", MXCSR.values(), ids=MXCSR)
def test_a_step_leaves_mxcsr_as_it_was(call_under, mxcsr, subnormals):
    cyopt.set_subnormals(subnormals)
    # 0/0, overflow, underflow: each sets a flag in the kernel.
    grads = [np.array([0.0, 1e300, 1e-300, 1e-310, np.inf, np.nan, 1 / 3])]
    for cls in cyopt.ALL:
        opt = cls([np.zeros(7)], lr=0.1)
        opt.step(grads)
        assert call_under(mxcsr, run_of(opt), grads) == mxcsr
        assert call_under(mxcsr, opt.step, grads) & ~STICKY == mxcsr & ~STICKY


@x86_64
@pytest.mark.skipif(not _cpu.HAS_THREADS, reason="built without threads")
@pytest.mark.skipif(not SOURCES.exists(), reason="needs the C sources")
def test_mxcsr_of_each_thread_of_the_pool(tmp_path):
    sources = sorted(SOURCES.glob("*.c"))
    program = compile_c(TEAM, tmp_path, "-I", SOURCES, *sources, "-pthread", "-lm")
    assert subprocess.run([program], timeout=60).returncode == 0


@x86_64
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("formula", FORMULAS, ids=map(name, FORMULAS))
def test_the_bits_do_not_depend_on_the_caller(call_under, formula, dtype):
    cls, kwargs = formula
    kwargs = {**kwargs, "lr": 0.03, "weight_decay": 0.1, "grad_scale": 3.0}
    kwargs |= {"clip_norm": 0.1, "ema": 0.9}
    expected = arrays(0, dtype)
    expected_opt = cls(expected, **kwargs)
    for seed in range(3):
        expected_opt.step(arrays(seed, dtype))
    for mxcsr in MXCSR.values():
        params = arrays(0, dtype)
        opt = cls(params, **kwargs)
        for seed in range(3):
            call_under(mxcsr, opt.step, arrays(seed, dtype))
        same_optimizers(opt, expected_opt)
        assert all(map(same_bits, params, expected))


@x86_64
@pytest.mark.parametrize("subnormals", SUBNORMALS)
def test_a_caller_whose_exceptions_trap_can_step(helper_path, subnormals):
    code = f"""if True:
        import ctypes, functools, numpy as np, cyopt
        call_under = ctypes.PyDLL({str(helper_path)!r}).call_under
        call_under.argtypes = [ctypes.c_uint, ctypes.py_object, ctypes.py_object]
        cyopt.set_subnormals({subnormals!r})
        grads = [np.array([0.0, 1e300, 1e-310, np.inf, np.nan, 1 / 3])]
        opt = cyopt.Adam([np.zeros(6)], lr=0.1, eps=0.0)
        opt.step(grads)
        plan = opt._lists[None].plan
        run = functools.partial(plan.run, norms=False)
        print(call_under(0, run, grads))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr


# ---- subnormals flushed or kept

TINY = {"f4": 1e-40, "f8": 1e-310}


@pytest.fixture(params=_cpu.ISAS_AVAILABLE)
def isa(request):
    cyopt.set_isa(request.param)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", TINY)
def test_subnormal_state_is_flushed_or_kept(dtype):
    def opt_with_tiny_state(tiny):
        opt = cyopt.Adam([np.ones(40, dtype)], eps=1e-3, amsgrad=True)
        for state in opt.state["0"].values():
            state[...] = tiny
        return opt

    grads = [np.zeros(40, dtype)]
    flushed, kept, zero = map(opt_with_tiny_state, (TINY[dtype], TINY[dtype], 0.0))
    reference = cyopt.reference.attach(opt_with_tiny_state(TINY[dtype]))
    flushed.step(grads)
    zero.step(grads)
    same_optimizers(flushed, zero)
    cyopt.set_subnormals("keep")
    kept.step(grads)
    reference.step(grads)
    same_optimizers(kept, reference)
    assert kept.state["0"]["exp_avg"].all()


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", TINY)
def test_a_subnormal_gradient_or_parameter_is_flushed_or_kept(dtype):
    def stepped(param, grad, attach=lambda opt: opt):
        params = [np.full(40, param, dtype)]
        attach(cyopt.SGD(params, lr=1.0)).step([np.full(40, grad, dtype)])
        return params[0]

    tiny, reference = TINY[dtype], cyopt.reference.attach
    assert not stepped(0.0, tiny).any()
    assert not stepped(tiny, 0.0).any()
    cyopt.set_subnormals("keep")
    for param, grad in [(0.0, tiny), (tiny, 0.0), (3 * tiny, tiny)]:
        assert same_bits(stepped(param, grad), stepped(param, grad, reference))
        assert stepped(param, grad).all()


@pytest.mark.parametrize("threads", [1, 3])
def test_each_thread_of_the_team_flushes(threads):
    _cpu.set_config(grain=1, num_threads=threads)
    params = [np.full(1000, TINY["f4"], "f4")]
    opt = cyopt.SGD(params, lr=1.0)
    opt.step([np.zeros(1000, "f4")])
    assert not params[0].any()
    params[0][...] = TINY["f4"]
    cyopt.set_subnormals("keep")
    opt.step([np.zeros(1000, "f4")])
    assert params[0].all()


def test_set_subnormals_takes_two_modes():
    for mode in SUBNORMALS:
        cyopt.set_subnormals(mode)
        assert cyopt.get_subnormals() == mode
    with pytest.raises(ValueError, match="mode is 'sometimes'; expected 'flush' or 'keep'"):
        cyopt.set_subnormals("sometimes")
