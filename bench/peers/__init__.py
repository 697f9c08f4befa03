"""What else takes an optimizer's step, as implementations for `cyopt.bench`: a file per library.

All of them work on the case's own arrays where the library can. A peer is left out for a rule that
it has in a form which other scalars cannot make equal to torch's.
"""

from __future__ import annotations

import importlib
import os

from cyopt.bench.implementations import Implementation

# After a parallel region the threads of GNU's OpenMP, which torch, DeepSpeed and Numba share, spin
# 300,000 times: 9 ms on an AMD EPYC, in which they take a core from whatever is measured next.
# 10,000 times is 0.3 ms, which still outlasts the pauses between the regions of one step and from
# step to step. OMP_WAIT_POLICY=passive would be unfair: torch's list of 1,000 arrays takes nine
# times as long with it. The number is read when the first of them loads the runtime.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# Module in this folder, named like the library -> how to have it. Torch comes first, since the
# others then find its OpenMP runtime loaded, and one thread pool serves them all.
HOW = {
    "torch": "pip install torch",
    "deepspeed": "pip install deepspeed ninja, and have a C++ compiler",
    "numba": "pip install numba",
    "numexpr": "pip install numexpr",
    "optax": "pip install optax",
    "thinc": "pip install thinc",
}

PEERS: list[Implementation] = []
CLIPPING: list[Implementation] = []  # those that clip the gradients first
MISSING: dict[str, str] = {}  # library -> the cure, and the reason if it is there but fails

for _name, _how in HOW.items():
    try:
        _module = importlib.import_module(f"peers.{_name}")
        PEERS += _module.PEERS
        CLIPPING += getattr(_module, "CLIPPING", [])
    except ModuleNotFoundError:
        MISSING[_name] = _how
    except Exception as error:  # such as a binary for another NumPy, or a compiler that failed
        MISSING[_name] = f"{_how}; now: {(str(error) or repr(error)).splitlines()[0]}"
