"""DeepSpeed: the kernel of its DeepSpeedCPUAdam, which takes float32 and one array at a time."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import torch

from cyopt.bench.cases import LR, Case
from cyopt.bench.implementations import Implementation, Subject

from .common import BETA1, BETA2, EPS, arrays, counted

# Otherwise it looks for GPUs and warns that there are none.
os.environ.setdefault("DS_ACCELERATOR", "cpu")
# It compiles the kernel on first use with ninja, which pip puts next to the interpreter.
os.environ["PATH"] += os.pathsep + str(Path(sys.executable).parent)

from deepspeed.ops.op_builder import CPUAdamBuilder

KERNEL = CPUAdamBuilder().load(verbose=False)
OPTIMIZER = 0
KERNEL.create_adam(OPTIMIZER, LR, BETA1, BETA2, EPS, 0.0, False, False)


def kernel(case: Case, threads: Sequence[int]) -> Iterable[Subject]:
    """`adam_update` for each array, as `DeepSpeedCPUAdam.step` calls it, without the rest of that.

    `h` is lr, betas, eps, weight decay, and whether to correct the bias.
    """
    if case.rule.name != "adam" or case.dtype.name != "float32":
        return
    lists = [list(map(torch.from_numpy, row)) for row in arrays(case)]
    names = {
        "update": partial(KERNEL.adam_update, OPTIMIZER),
        "lists": list(zip(*lists, strict=True)),
        "h": (LR, BETA1, BETA2, EPS, 0.0, True),
    }
    statement = "i = next(t)\nfor arrays in lists: update(i, *h, *arrays)"
    for n in threads:
        prepare = partial(torch.set_num_threads, n)  # their OpenMP runtime is one
        yield counted(case, "DeepSpeed cpu_adam", statement, names, n, prepare)


PEERS: list[Implementation] = [kernel]
