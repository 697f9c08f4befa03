"""The layout of the memory that kernels read: places in units of 8 bytes, one for each entry."""

THREADS = 512  # per block of a kernel that updates or gathers

# A row of the table, one for each parameter: the number of elements, then addresses.
SIZE, PARAM, GRAD, STATE, AVERAGE, DECISION, HYPER, OLD = 0, 1, 2, 3, 6, 7, 8, 9
SET, COLUMNS = 10, 11  # SET: which of a launch's sets of scalars the parameter uses
ROW_BYTES = 8 * COLUMNS

# The decision about a parameter in this step: two integers, then its scalars in its dtype, in the
# order of `SCALARS`, without gaps; padded to a multiple of 16 bytes.
SKIPPED, BEGINS, FIRST_SCALAR = 0, 1, 2
SCALARS = (
    *("s", "limit", "wd", "k", "step", "mu", "a", "b1"),
    *("c1", "b2", "c2", "r", "eps_in", "eps", "e"),
)
N_SCALARS = len(SCALARS)
assert N_SCALARS % 3 == 0, "measure.decide copies three at a time"
DECISION_BYTES = 16 * -(-(FIRST_SCALAR + N_SCALARS) // 2)

# A group's numbers, in double (`decision.hyper_numbers`): the scalars of a step that is not the
# first, then what `decide` computes the others from. AFTER: k if weights decay after the update,
# else 1. COPIES: whether an average begins as a copy of its parameter.
S, STEP, A, R = (SCALARS.index(name) for name in ("s", "step", "a", "r"))
LR, LR_DECAY, BETA1, BETA2, AFTER = range(N_SCALARS, N_SCALARS + 5)
CLIP_NORM, CLIP_EPS, PER_ARRAY, SKIP, COPIES, CHANGES = range(AFTER + 1, AFTER + 7)
HYPER_NUMBERS = CHANGES + 1
# Values of CHANGES: which of the scalars change; `step` does from DECAYED on.
NOTHING, DAMPENED, DECAYED, CORRECTED, CORRECTED_HAT = 0, 1, 2, 3, 4

# What a step reports, in double; the last is an integer: whether to skip the current step.
GRAD_SQUARES, UPDATE_SQUARES, PARAM_SQUARES, WAS_SKIPPED, STEPS, MEASURED = range(6)
NONFINITE, REPORT_NUMBERS = 6, 7
# Values of MEASURED: which of the sums are of this step.
NO_NORM, GRAD_NORM, ALL_NORMS = 1, 2, 3

# Sums of squares, as in `cyopt.rules.square_sum`; each thread has one of the lanes of a chunk.
SUM_CHUNK, LANES = 4096, 16
SUM_THREADS = 128  # per block: small blocks spread few sums over many multiprocessors
FAN = 32  # values that a thread adds in pairs: a power of two, and the most that `pairs` can add
