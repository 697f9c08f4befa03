"""Kernels run on the CPU, thread by thread, in one of three ways.

Compiled by LLVM they are what Numba gives to NVVM: loads, stores, addresses, arithmetic are those
of the GPU's kernel. Where Numba's compiler for GPUs is not installed, Python runs their text. With
NUMBA_ENABLE_CUDASIM=1 Numba's simulator does, which makes a thread for each thread. None knows
barriers or shared memory, which cyopt's kernels do not use.
"""

import ctypes
import importlib.util
import os
import re
from functools import cache
from types import SimpleNamespace

import numpy as np

from cyopt.cuda import compiler, simulated

COMPUTE_CAPABILITY = (9, 0)
C_TYPES = {
    "i64": ctypes.c_int64,
    "float": ctypes.c_float,
    "double": ctypes.c_double,
}


def simulates():
    """Whether Numba's simulator is asked for."""
    return os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"


def has_compiler():
    """Whether Numba's compiler for GPUs and what it needs are installed."""
    return bool(importlib.util.find_spec("numba_cuda") and importlib.util.find_spec("cuda.core"))


@cache
def kernel(source):
    """A function of the number of blocks, that of threads, and the kernel's arguments."""
    if simulates():
        return _simulate(source)
    return _compile(source) if has_compiler() else _interpret(source)


def _simulate(source):
    from numba import cuda

    jitted = cuda.jit(compiler.function(source, simulated, cuda))

    def run(blocks, threads, *args):
        with np.errstate(all="ignore"):
            jitted[blocks, threads](*args)

    return run


def _interpret(source):
    block, thread = SimpleNamespace(x=0), SimpleNamespace(x=0)
    function = compiler.function(
        source, simulated, SimpleNamespace(blockIdx=block, threadIdx=thread)
    )

    def run(blocks, threads, *args):
        numbers = [int(x) if isinstance(x, np.int64) else x for x in args]
        with np.errstate(all="ignore"):
            for block.x in range(blocks):
                for thread.x in range(threads):
                    function(*numbers)

    return run


def _compile(source):
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    text, arguments = for_cpu(numba_ir(source))
    module = llvm.parse_assembly(text)
    module.verify()
    machine = llvm.Target.from_default_triple().create_target_machine(opt=3)
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(3))
    builder.getModulePassManager().run(module, builder)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    types = [C_TYPES[name] for name in arguments]
    function = ctypes.CFUNCTYPE(None, *types)(engine.get_function_address("kernel"))
    places = {name: _number(engine, name) for name in ("tid_x", "ctaid_x")}

    def run(blocks, threads, *args, engine=engine):  # the engine owns the code
        numbers = [x.item() for x in args]
        for places["ctaid_x"].value in range(blocks):
            for places["tid_x"].value in range(threads):
                function(*numbers)

    return run


def _number(engine, name):
    return ctypes.c_int32.from_address(engine.get_global_value_address(name))


def numba_ir(source):
    """What Numba gives to NVVM."""
    from numba import cuda
    from numba.cuda.compiler import _compile_pyfunc_with_fixup

    from cyopt.cuda import primitives

    library, _ = _compile_pyfunc_with_fixup(
        compiler.function(source, primitives, cuda),
        compiler.signature(source),
        device=False,
        abi="numba",
        cc=COMPUTE_CAPABILITY,
    )
    return library.get_llvm_str()


def for_cpu(text):
    """The same for LLVM's code generator of this CPU, and the types of the kernel's arguments."""
    text = re.sub(r"(?m)^(target |!nvvm|@\"?llvm.used|@\"?_ZN08NumbaEnv).*$", "", text)
    name, arguments = re.search(r'define void @"([^"]+)"\(([^)]*)\)', text).groups()
    text = text.replace(name, "kernel")
    # NVVM's pointers have types, this LLVM's have not.
    pointer = r"(?:<\d+ x \w+>|\{[^{}]*\}|\[[^\[\]]*\]|\b(?:i\d+|float|double|ptr))"
    pointer = re.compile(pointer + r"(?: addrspace\(1\))?\*")
    while pointer.search(text):
        text = pointer.sub("ptr", text)
    registers = re.compile(r'(?m)^declare i32 @"llvm.nvvm.read.ptx.sreg.(\w+)\.(\w)"\(\)$')
    text = registers.sub(_register, text)
    text = re.sub(r"llvm.nvvm.read.ptx.sreg.(\w+)\.(\w)", r"read_\1_\2", text)
    return re.sub(r'(?m)^declare \w+ @"(__nv_\w+)".*$', _libdevice, text), [
        argument.split()[0] for argument in arguments.split(", ")
    ]


def _register(match):
    """A register that tells a thread who it is, by a number in memory."""
    register, axis = match.groups()
    return f"""
@{register}_{axis} = global i32 0
define i32 @read_{register}_{axis}() {{
  %1 = load i32, ptr @{register}_{axis}
  ret i32 %1
}}"""


def _libdevice(match):
    """A function of libdevice, which rounds once, by an operator of LLVM, which does as well."""
    prefix, operation = re.fullmatch(r"__nv_([fd])(\w+)_rn", match.group(1)).groups()
    real, bits = {"f": ("float", 32), "d": ("double", 64)}[prefix]
    if operation == "sqrt":
        root = f"@llvm.sqrt.f{bits}"
        body, arguments = f"call {real} {root}({real} %a)", f"{real} %a"
        head = f"declare {real} {root}({real})\n"
    else:
        body, arguments, head = f"f{operation} {real} %a, %b", f"{real} %a, {real} %b", ""
    return head + (
        f'define {real} @"{match.group(1)}"({arguments}) {{\n  %r = {body}\n  ret {real} %r\n}}'
    )
