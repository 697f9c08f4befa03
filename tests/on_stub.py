"""Run by test_cuda_driver.py beside tests/stub_cuda.c: `python on_stub.py FUNCTION`."""

import ctypes
import gc
import json
import os
import sys
from functools import cache
from pathlib import Path

import numpy as np

ON_LAUNCH = ctypes.CFUNCTYPE(
    None,
    ctypes.c_char_p,
    ctypes.c_uint,
    ctypes.c_uint,
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_void_p),
)


@cache
def stub():
    library = ctypes.CDLL("libcuda.so.1")
    library.stub_log.restype = ctypes.c_char_p
    return library


def log():
    """The driver's functions that were called since the last time."""
    names = stub().stub_log().decode().split()
    stub().stub_clear()
    return names


def launching():
    """Let launches do what the kernels do; returns what must stay alive."""
    import kernels_on_host
    from gpu_of_host import arguments_of

    from cyopt.cuda import cache as kernels
    from cyopt.cuda import compiler

    sources, cubin = {}, kernels.cubin

    def remembered(source, capability):
        code = cubin(source, capability)
        sources[compiler.entry(code)] = source
        return code

    kernels.cubin = remembered

    @ON_LAUNCH
    def launch(name, blocks, threads, stream, arguments):
        source = sources[name.decode()]
        kernels_on_host.kernel(source)(blocks, threads, *arguments_of(source, arguments))

    stub().stub_on_launch(launch)
    return launch


def made(**options):
    """An optimizer of arrays on the stub's device, its gradients, and the same on the CPU."""
    from gpu_of_host import HostArray

    import cyopt

    rng = np.random.default_rng(0)
    params = [rng.normal(size=n).astype(np.float32) for n in (5, 20_000, 0)]
    grads = [rng.normal(size=p.size).astype(np.float32) for p in params]
    twins = [p.copy() for p in params]
    cyopt.set_subnormals("keep")
    opt = cyopt.Adam(list(map(HostArray, params)), lr=0.1, **options)
    on_cpu = cyopt.Adam(twins, lr=0.1, **{**options, "capturable": False})
    return opt, list(map(HostArray, grads)), on_cpu, grads


def steady():
    """What of the driver a steady step calls, with options, by the stride of the gradients."""
    from gpu_of_host import HostArray

    options, n = json.loads(sys.argv[2]), int(sys.argv[3])
    opt, grads, _, _ = made(**options)
    grads = [HostArray(np.repeat(grad.array, n)[::n]) for grad in grads]
    opt.step(grads)
    log()
    for _ in range(3):
        opt.step(grads)
        print(*log())


def refusing():
    """A launch that the driver refuses is reported, and no step is counted."""
    for options in ({}, {"clip_norm": 1.0}):
        opt, grads, *_ = made(**options)
        opt.step(grads)
        os.environ["CYOPT_STUB_REFUSES"] = "1"
        for _ in range(2):
            try:
                opt.step(grads)
            except RuntimeError as error:
                print(error, opt.steps)
        del os.environ["CYOPT_STUB_REFUSES"]
        opt.step(grads)
        print(opt.steps)


def numba_free():
    """Kernels from the disk are launched without Numba."""
    opt, grads, _, _ = made()
    opt.step(grads)
    print("numba" in sys.modules, "llvmlite" in sys.modules)


def bits():
    """All that a step does, by way of the driver."""
    from same_bits import same_optimizers

    kept = launching()
    for options in ({}, {"clip_norm": 0.5, "skip_nonfinite": True, "zero_grads": False}):
        opt, grads, cpu, host_grads = made(ema=0.5, **options)
        for _ in range(3):
            opt.step(grads)
            cpu.step(host_grads)
        same_optimizers(opt, cpu)
        assert opt.grad_norm == cpu.grad_norm
        again, *_ = made(ema=0.5, **options)
        again.load_state_dict(opt.state_dict())
        same_optimizers(again, cpu)
    del kept
    print("same")


def streams():
    """Another library's stream is waited for, and waits."""
    from gpu_of_host import HostArray

    opt, grads, _, _ = made()
    others = [HostArray(grad.array, stream=0x50) for grad in grads]
    opt.step(others)
    log()
    opt.step(others)
    print(*log())


def captured():
    """What a step asks of the driver while its stream is captured."""
    opt, grads, *_ = made(capturable=True, clip_norm=1.0)
    opt.step(grads, stream=0x50)
    log()
    os.environ["CYOPT_STUB_CAPTURING"] = "1"
    opt.step(grads, stream=0x50)
    print(*log())


def second():
    """Which device is current during launches, and after all steps, of arrays on the second one."""
    during, launched = set(), ON_LAUNCH(lambda *_: during.add(stub().stub_current()))
    stub().stub_on_launch(launched)
    for options in ({}, {"clip_norm": 1.0, "ema": 0.5}):
        opt, grads, *_ = made(**options)
        stub().cuCtxSetCurrent(ctypes.c_void_p(0x1000))
        for _ in range(3):
            opt.step(grads)
            opt.step(grads, norms=True)
        opt.state_dict()
        del opt
        print(*during, stub().stub_current())


def bench():
    """`python -m cyopt bench --device cuda`, with the arguments of this program."""
    import argparse

    from cyopt.bench import add_arguments, main

    kept = launching()
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    code = main(parser.parse_args(["--device", "cuda", *sys.argv[2:]]))
    del kept
    sys.exit(code)


def gpu_tests():
    """The tests that need a GPU, with kernels that are run on the CPU."""
    import pytest

    kept = launching()
    code = pytest.main(
        [str(Path(__file__).with_name("gpu")), "-p", "no:cacheprovider", *sys.argv[2:]]
    )
    del kept
    sys.exit(code)


def info():
    """What `python -m cyopt info` says."""
    import cyopt

    log()
    print(cyopt.info()["CUDA"])
    print(*log())


def moved():
    """Steps whose gradients have moved, while another thread captures a graph."""
    from gpu_of_host import HostArray

    opt, grads, _, host_grads = made()
    opt.step(grads)
    os.environ["CYOPT_STUB_CAPTURED_ELSEWHERE"] = "1"
    for _ in range(2):
        opt.step([HostArray(grad.copy()) for grad in host_grads])
    print(opt.steps, "cuEventQuery" in log())


def context():
    """A context that the program made before or after a step is current again after each one."""
    during, launched = [], ON_LAUNCH(lambda *_: during.append(stub().stub_current()))
    stub().stub_on_launch(launched)
    stub().cuCtxPushCurrent(ctypes.c_void_p(0x2000))
    opt, grads, *_ = made(ema=0.5)
    opt.step(grads)
    print(*set(during), hex(0x1000 + stub().stub_current()))
    stub().cuCtxPopCurrent(ctypes.byref(ctypes.c_void_p()))
    opt.step(grads)
    stub().cuCtxPushCurrent(ctypes.c_void_p(0x2000))
    for _ in range(2):
        opt.step(grads)
        print(*set(during), hex(0x1000 + stub().stub_current()))


def interrupted():
    """The program's own context, after an interrupt that follows the push of the GPU's."""
    from cyopt.cuda import driver

    opt, grads, *_ = made()
    stub().cuCtxPushCurrent(ctypes.c_void_p(0x2000))
    call = driver._call

    def interrupt(name, *args):
        value = call(name, *args)
        if name == "cuCtxPushCurrent":
            raise KeyboardInterrupt
        return value

    driver._call = interrupt
    try:
        opt.step(grads)
    except KeyboardInterrupt:
        driver._call = call
        print(hex(0x1000 + stub().stub_current()))
    opt.step(grads)
    print(hex(0x1000 + stub().stub_current()))


def lent():
    """CUDA's usual context, current for a while at the first step, as in Numba's blocks."""
    during, launched = [], ON_LAUNCH(lambda *_: during.append(stub().stub_current()))
    stub().stub_on_launch(launched)
    stub().cuCtxPushCurrent(ctypes.c_void_p(0x1000))
    opt, grads, *_ = made()
    opt.step(grads)
    stub().cuCtxPopCurrent(ctypes.byref(ctypes.c_void_p()))
    opt.step(grads)
    print(*set(during))


def forked():
    """A fork's child that drops what it has of an optimizer calls no function of the driver."""
    opt, grads, *_ = made(clip_norm=1.0)
    opt.step(grads)
    log()
    child = not os.fork()
    if not child:
        os.wait()
    del opt
    gc.collect()
    print(*sorted(set(log())), flush=True)
    if child:
        os._exit(0)


def without_packages():
    """As on a machine where they are not installed."""
    sys.modules["cuda.bindings"] = None
    refused()


def without_compiler():
    """As beside other packages for CUDA, without Numba."""
    sys.modules["numba"] = None
    opt, grads, *_ = made()
    try:
        opt.step(grads)
    except RuntimeError as error:
        print(error)


def refused():
    """What is missing is reported."""
    try:
        made()
    except RuntimeError as error:
        print(error)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
