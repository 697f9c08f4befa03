"""Synchronous data parallelism over MPI: ranks share the mini-batch, and all take the same step.

    layout       where gradients and parameters lie in the buckets that are communicated
    agree        what must be the same on all ranks
    norms        norms of gradients of which each rank holds a part
    exchange     fills buckets and reduces them, while other gradients are still computed
    parallel     DataParallel: a step of all ranks
    shard        what a rank keeps of an optimizer's state with `shard`
    failure      an error on one rank ends the job
    sampling     which samples of each mini-batch belong to a rank

Needs mpi4py and an MPI: `pip install 'cyopt[mpi]'` installs both. The cost model is in
docs/scaling.md.
"""

from cyopt.integrations import require

require("mpi4py", "4.0", "mpi")

from cyopt.distributed.parallel import DataParallel  # noqa: E402
from cyopt.distributed.sampling import own_batches  # noqa: E402

__all__ = ["DataParallel", "own_batches"]
