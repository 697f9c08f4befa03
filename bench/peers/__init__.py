"""What else takes an optimizer's step, as implementations for `cyopt.bench`: a file per library.

All of them work on the case's own arrays where the library can; those of `peers.gpu` on copies of
them in the GPU's memory. A peer is left out for a rule if no choice of scalars makes its form equal
to torch's.
"""

from __future__ import annotations

import importlib
import os
from typing import NamedTuple

from cyopt.bench.implementations import Implementation

# After a parallel region the threads of GNU's OpenMP, which torch, DeepSpeed and Numba share, spin
# 300,000 times: 9 ms on an AMD EPYC, in which they take a core from whatever is measured next.
# 10,000 times is 0.3 ms, which still outlasts the pauses between the regions of one step and from
# step to step. OMP_WAIT_POLICY=passive would be unfair: torch's list of 1,000 arrays takes nine
# times as long with it. The number is read when the first of them loads the runtime.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
# DeepSpeed sets this to 1 where it is not set, and then each step of torch's optimizers asks NVML
# for a GPU: 120 us instead of 33 for a fused step of 100 elements.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "0")
# Numba warns about each small grid; small arrays are what is measured.
os.environ.setdefault("NUMBA_CUDA_LOW_OCCUPANCY_WARNINGS", "0")

# Module in this folder, named like the library -> how to install it. Torch comes first, since the
# others then find its OpenMP runtime loaded, and one thread pool serves them all.
HOW = {
    "torch": "pip install torch",
    "deepspeed": "pip install deepspeed ninja, and have a C++ compiler",
    "numba": "pip install numba",
    "numexpr": "pip install numexpr",
    "optax": "pip install optax",
    "thinc": "pip install thinc",
}
# The same for `peers.gpu`.
HOW_ON_GPU = {
    "torch": "pip install torch, of a build for CUDA",
    "cupy": "pip install cupy-cuda13x",
    "numba": "pip install 'cyopt[cuda]'",
}


class Peers(NamedTuple):
    """The peers that could be imported, and the others."""

    implementations: list[Implementation]
    clipping: list[Implementation]  # those that clip the gradients first
    missing: dict[str, str]  # library -> the cure, and the reason if it is there but fails


def load(device: str) -> Peers:
    """Import all peers on "cpu" or "cuda"; what cannot be imported is missing."""
    how, package = (HOW_ON_GPU, "peers.gpu") if device == "cuda" else (HOW, "peers")
    peers = Peers([], [], {})
    for name, cure in how.items():
        try:
            module = importlib.import_module(f"{package}.{name}")
            peers.implementations.extend(module.PEERS)
            peers.clipping.extend(getattr(module, "CLIPPING", []))
        except ModuleNotFoundError:
            peers.missing[name] = cure
        except Exception as error:  # such as a binary for another NumPy, or a compiler that failed
            reason = (str(error) or repr(error)).splitlines()[0]
            peers.missing[name] = f"{cure}; now: {reason}"
    return peers
