"""What lies where in the memory that kernels read: places in units of 8 bytes, which all fill."""

THREADS = 512  # of a block that updates or gathers

# A row of the table, one for each parameter: the number of elements, then addresses.
SIZE, PARAM, GRAD, STATE, AVERAGE, DECISION, HYPER, OLD = 0, 1, 2, 3, 6, 7, 8, 9
SET, COLUMNS = 10, 11  # SET: which of a launch's sets of scalars is the parameter's
ROW_BYTES = 8 * COLUMNS

# What was decided about a parameter in this step: two integers, then its scalars in its dtype, in
# the order of `SCALARS`, without gaps; room is left up to a multiple of 16 bytes.
SKIPPED, BEGINS, FIRST_SCALAR, DECISION_BYTES = 0, 1, 2, 144
SCALARS = (
    *("s", "limit", "wd", "k", "step", "mu", "a", "b1"),
    *("c1", "b2", "c2", "r", "eps_in", "eps", "e"),
)
N_SCALARS = len(SCALARS)
assert N_SCALARS % 3 == 0, "measure.decide copies three at a time"

# The numbers of a group, in double: the scalars of a step that is not the first, then what the
# scalars that change from step to step are made of.
S, STEP, A, R = (SCALARS.index(name) for name in ("s", "step", "a", "r"))
LR, LR_DECAY, BETA1, BETA2, AFTER = 15, 16, 17, 18, 19  # AFTER: `step` is multiplied with it
CLIP_NORM, CLIP_EPS, PER_ARRAY, SKIP, COPIES, CHANGES, HYPER_NUMBERS = 20, 21, 22, 23, 24, 25, 26
# Values of CHANGES: which of the scalars change; `step` does from DECAYED on.
NOTHING, DAMPENED, DECAYED, CORRECTED, CORRECTED_HAT = 0, 1, 2, 3, 4

# What a step reports, in double; at last an integer, whether to skip the step in hand.
GRAD_SQUARES, UPDATE_SQUARES, PARAM_SQUARES, WAS_SKIPPED, STEPS, MEASURED = range(6)
NONFINITE, REPORT_NUMBERS = 6, 7
# Values of MEASURED: which of the sums are of this step.
NO_NORM, GRAD_NORM, ALL_NORMS = 1, 2, 3

# Sums of squares, as `cyopt.rules.square_sum` has them; a thread has one of the lanes of a chunk.
SUM_CHUNK, LANES = 4096, 16
SUM_THREADS = 128  # of a block: many small ones share out evenly what few chunks there are
FAN = 32  # neighbours that a thread adds in pairs: 16, or 32, which is the most that `pairs` knows
