"""Kernels for GPUs against cyopt/rules.py, bit for bit, without a GPU; see gpu_of_host.py."""

import itertools
import os
import random
import subprocess
import sys
from pathlib import Path

import kernels_on_host
import numpy as np
import pytest
from gpu_of_host import HostArray
from same_bits import same_bits, same_optimizers
from test_bits import content, shifted
from test_one_pass import CONTENTS, OPTIONS, Run
from variants import FORMULAS, VARIANTS, name

import cyopt

# Tails of vectors, of blocks and of chunks; few numbers where Python itself runs the kernels.
COMPILED = kernels_on_host.has_compiler()
SIZES = (0, 1, 3, 4, 5, 31, 2047, 2049, 8191, 8192, 8193, 20_001)[: None if COMPILED else 6]
ONE_PASS_SIZES = (1, 15, 17, 0, 4097, *((9001, 70_003) if COMPILED else ()))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("variant", VARIANTS, ids=name)
def test_kernels_have_the_bits_of_the_rules(gpu, variant, dtype):
    cls, kwargs = variant
    rng = np.random.default_rng([len(dtype), *map(ord, name(variant))])
    params = [shifted(content("normal", n, dtype, rng), i % 3) for i, n in enumerate(SIZES)]
    expected = [param.copy() for param in params]
    opt = cls([HostArray(param) for param in params], **kwargs)
    ref = cyopt.reference.attach(cls(expected, **kwargs))
    for kind in ("normal", "subnormal", "nan"):
        grads = [shifted(content(kind, n, dtype, rng), i % 2) for i, n in enumerate(SIZES)]
        assert opt.step([HostArray(grad) for grad in grads])
        ref.step(grads)
    assert opt.steps == 3
    for a, b in zip(params, expected, strict=True):
        assert same_bits(a, b), f"parameter of size {a.size} differs"
    same_optimizers(opt, ref)


class OnGpu(Run):
    """The same steps as `Run`, of arrays on a GPU."""

    def make(self, cls, params, **kwargs):
        return cls([HostArray(param) for param in params], **kwargs)

    def step(self, grads, norms):
        done = self.opt.step([None if g is None else HostArray(g) for g in grads], norms=norms)
        assert (done is None) == self.opt.groups[0].skip_nonfinite
        return not self.opt.skipped


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("option", OPTIONS)
def test_one_pass(gpu, option, dtype, full):
    chosen, whole = random.Random(option + dtype), full and COMPILED
    # With skip_nonfinite the GPU alone knows t, whose powers the host would make for libm_pow.
    skips = "skip_nonfinite" in OPTIONS[option]
    formulas = [row for row in FORMULAS if not (skips and "libm_pow" in row[1])]
    formulas = formulas if whole else chosen.sample(formulas, 2)
    for (cls, formula), norms in itertools.product(formulas, (False, True)):
        variant = cls, {**formula, **OPTIONS[option]}
        for kind in CONTENTS if whole else chosen.sample(CONTENTS, 1):
            run = OnGpu(variant, dtype, kind, norms, sizes=ONE_PASS_SIZES)
            run.same(Run(variant, dtype, kind, norms, reference=True, sizes=ONE_PASS_SIZES))


def test_in_numbas_simulator():
    pytest.importorskip("numba", reason="make test-cuda installs Numba")
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    script = Path(__file__).with_name("on_simulator.py")
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert done.stdout == "same\n", done.stderr
