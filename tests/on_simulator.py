"""Run by test_cuda_bits.py with NUMBA_ENABLE_CUDASIM=1: a few kernels in Numba's simulator.

It makes a thread of Python for each of the GPU, so there are few of those.
"""

import gpu_of_host
import kernels_on_host
import numpy as np
import pytest
from gpu_of_host import HostArray
from same_bits import same_optimizers

import cyopt


def main():
    assert kernels_on_host.simulates()
    assert kernels_on_host.simulates()
    with pytest.MonkeyPatch.context() as patch:
        gpu_of_host.stand_in(patch)
        rng = np.random.default_rng(0)
        for options in ({}, {"clip_norm": 0.1, "skip_nonfinite": True, "ema": 0.5}):
            params = [rng.normal(size=n).astype(np.float32) for n in (1, 4099)]
            grads = [rng.normal(size=p.size).astype(np.float32) for p in params]
            cpu = cyopt.Adam([p.copy() for p in params], **options)
            opt = cyopt.Adam(list(map(HostArray, params)), **options)
            for _ in range(2):
                opt.step(list(map(HostArray, grads)))
                cpu.step(grads)
            same_optimizers(opt, cpu)
    print("same")


if __name__ == "__main__":
    main()
