"""Run by test_peers.py with NUMBA_ENABLE_CUDASIM=1: Numba's plain kernel in Numba's simulator."""

import gpu_of_host
import peers.gpu.numba
import pytest

from cyopt.bench.cases import RULES, Case
from cyopt.bench.run import run_case
from cyopt.bench.timing import Effort
from cyopt.bench.workloads import Workload

if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch:
        gpu_of_host.stand_in(patch)
        for dtype in ("float32", "float64"):
            case = Case(RULES["adam"], dtype, Workload("two", [(3, 5), (300,)]))
            effort = Effort(rounds=1, least=1, sample=1e-5, budget=1e-3)
            records, wrong = run_case(case, peers.gpu.numba.PEERS, (1,), effort, lambda: None)
            for record in records:
                print(record.implementation, "right", sep=": ")
            assert not wrong, wrong
