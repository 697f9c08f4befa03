"""Kernels, as Python functions, that decide a step on the GPU: norms, clipping, skipping, counters.

    squares   gradients -> 16 sums for each chunk, and whether all is finite
    keep      a copy of the parameters, before the step
    distances squares of the parameters, or of how far they moved
    pairs     neighbours are added in pairs, as often as it takes: one sum for each array
    rank      those sums in ascending order; `pairs` again: the sum over all arrays
    decide    the norm -> each parameter's scalars, its step count, and whether the step is skipped

No kernel waits for other threads: what needs the results of all of them is the next kernel. What
they compute is defined in `cyopt.rules`. They are never called: `cyopt.cuda.source` takes their
text, and their words are those of `cyopt.cuda.names`.
"""

from __future__ import annotations

from cyopt.cuda.layout import (
    AFTER,
    BEGINS,
    BETA1,
    BETA2,
    CHANGES,
    CLIP_EPS,
    CLIP_NORM,
    COPIES,
    CORRECTED,
    DAMPENED,
    DECAYED,
    DECISION,
    FIRST_SCALAR,
    GRAD,
    GRAD_SQUARES,
    HYPER,
    LANES,
    LR,
    LR_DECAY,
    MEASURED,
    N_SCALARS,
    NONFINITE,
    OLD,
    PARAM,
    PER_ARRAY,
    ROW_BYTES,
    SIZE,
    SKIP,
    SKIPPED,
    STEP,
    STEPS,
    SUM_CHUNK,
    SUM_THREADS,
    WAS_SKIPPED,
    A,
    R,
    S,
)
from cyopt.cuda.names import (
    ITEMSIZE,
    add,
    add_double,
    clip_ratio,
    corrected,
    corrected_both,
    corrected_root,
    cuda,
    decayed,
    double,
    load,
    load_double,
    load_int,
    mul,
    mul_double,
    power_by_squaring,
    real,
    sqrt_double,
    store,
    store_double,
    store_int,
)


def squares(table, chunks, n_chunks, sums, report):  # type: ignore[no-untyped-def]
    """The squares of `s*g`, and whether a gradient of a group that skips is not finite."""
    thread = SUM_THREADS * cuda.blockIdx.x + cuda.threadIdx.x
    if thread < LANES * n_chunks:
        chunk = load_int(chunks + 8 * (thread // LANES))
        row = table + ROW_BYTES * (chunk >> 32)
        first = SUM_CHUNK * (chunk & 0xFFFFFFFF)
        last = min(load_int(row + 8 * SIZE), first + SUM_CHUNK)
        grad = load_int(row + 8 * GRAD)
        hyper = load_int(row + 8 * HYPER)
        s = real(load_double(hyper + 8 * S))
        total = 0.0
        is_finite = True
        i = first + thread % LANES
        while i < last:
            x = mul(s, load(grad + ITEMSIZE * i))
            is_finite = is_finite & (add(x, -x) == real(0.0))
            total = add_double(total, mul_double(double(x), double(x)))
            i += LANES
        store_double(sums + 8 * thread, total)
        if not is_finite and load_double(hyper + 8 * SKIP) != 0.0:
            store_int(report + 8 * NONFINITE, 1)


def keep(table, chunks, n_chunks):  # type: ignore[no-untyped-def]
    """The parameters as they are, into the column OLD; four loads at a time are under way."""
    thread = SUM_THREADS * cuda.blockIdx.x + cuda.threadIdx.x
    if thread < LANES * n_chunks:
        chunk = load_int(chunks + 8 * (thread // LANES))
        row = table + ROW_BYTES * (chunk >> 32)
        first = SUM_CHUNK * (chunk & 0xFFFFFFFF)
        last = min(load_int(row + 8 * SIZE), first + SUM_CHUNK)
        param = load_int(row + 8 * PARAM)
        old = load_int(row + 8 * OLD)
        apart = ITEMSIZE * LANES
        i = first + thread % LANES
        while i + 3 * LANES < last:
            at = param + ITEMSIZE * i
            a, b = load(at), load(at + apart)
            c, d = load(at + 2 * apart), load(at + 3 * apart)
            to = old + ITEMSIZE * i
            store(to, a)
            store(to + apart, b)
            store(to + 2 * apart, c)
            store(to + 3 * apart, d)
            i += 4 * LANES
        while i < last:
            store(old + ITEMSIZE * i, load(param + ITEMSIZE * i))
            i += LANES


def distances(table, chunks, n_chunks, sums, origin):  # type: ignore[no-untyped-def]
    """The squares of how far the parameters are from the column `origin`; from 0 if it is SIZE."""
    thread = SUM_THREADS * cuda.blockIdx.x + cuda.threadIdx.x
    if thread < LANES * n_chunks:
        chunk = load_int(chunks + 8 * (thread // LANES))
        row = table + ROW_BYTES * (chunk >> 32)
        first = SUM_CHUNK * (chunk & 0xFFFFFFFF)
        last = min(load_int(row + 8 * SIZE), first + SUM_CHUNK)
        param = load_int(row + 8 * PARAM)
        other = load_int(row + 8 * origin)
        total = 0.0
        i = first + thread % LANES
        while i < last:
            x = load(param + ITEMSIZE * i)
            if origin != SIZE:
                x = add(x, -load(other + ITEMSIZE * i))
            total = add_double(total, mul_double(double(x), double(x)))
            i += LANES
        store_double(sums + 8 * thread, total)


def pairs(values, entries, n, results):  # type: ignore[no-untyped-def]
    """Each entry, `first << 8 | count`, names values: their sum, added in pairs."""

    # Sums of so many: neighbours are added in pairs, and so are the sums. All is read at once.
    def sum2(at: int) -> float:
        return add_double(load_double(at), load_double(at + 8))

    def sum4(at: int) -> float:
        return add_double(sum2(at), sum2(at + 16))

    def sum8(at: int) -> float:
        return add_double(sum4(at), sum4(at + 32))

    def sum16(at: int) -> float:
        return add_double(sum8(at), sum8(at + 64))

    thread = SUM_THREADS * cuda.blockIdx.x + cuda.threadIdx.x
    if thread < n:
        entry = load_int(entries + 8 * thread)
        at = values + 8 * (entry >> 8)
        count = entry & 0xFF
        total = 0.0  # which changes no sum of squares
        # The powers of two in a count, smallest first: what is over is added last (`pairwise_sum`).
        if count & 1 != 0:
            total = load_double(at + 8 * (count - 1))
        if count & 2 != 0:
            total = add_double(sum2(at + 8 * (count & -4)), total)
        if count & 4 != 0:
            total = add_double(sum4(at + 8 * (count & -8)), total)
        if count & 8 != 0:
            total = add_double(sum8(at + 8 * (count & -16)), total)
        if count & 16 != 0:
            total = add_double(sum16(at + 8 * (count & -32)), total)
        if count & 32 != 0:
            total = add_double(sum16(at), sum16(at + 128))
        store_double(results + 8 * thread, total)


def rank(values, n, results):  # type: ignore[no-untyped-def]
    """The values, of which none is negative, in ascending order; NaN anywhere.

    Their bits are in the same order as integers, which are compared without branches.
    """
    thread = SUM_THREADS * cuda.blockIdx.x + cuda.threadIdx.x
    if thread < n:
        value = load_double(values + 8 * thread)
        bits = load_int(values + 8 * thread)
        place = 0
        i = 0
        while i < n:
            other = load_int(values + 8 * i)
            place += 1 if (other < bits) | ((other == bits) & (i < thread)) else 0
            i += 1
        store_double(results + 8 * place, value)


def decide(table, entries, first, last, sums, counts, report, measured):  # type: ignore[no-untyped-def]
    """What the parameters of the entries from `first` to `last` do in this step.

    An entry has a parameter's row in its upper half, the place of its sum in the lower one.
    `measured` is 0 but in the one launch that writes the report: there a value of MEASURED.
    """
    thread = SUM_THREADS * cuda.blockIdx.x + cuda.threadIdx.x
    skipped = load_int(report + 8 * NONFINITE)
    norm = sqrt_double(load_double(report + 8 * GRAD_SQUARES))
    if thread == 0 and measured != 0:
        store_double(report + 8 * WAS_SKIPPED, float(skipped))
        store_double(report + 8 * MEASURED, float(measured))
        steps = load_double(report + 8 * STEPS)
        store_double(report + 8 * STEPS, add_double(steps, float(1 - skipped)))
    if first + thread < last:
        entry = load_int(entries + 8 * (first + thread))
        number = entry >> 32
        row = table + ROW_BYTES * number
        decision = load_int(row + 8 * DECISION)
        hyper = load_int(row + 8 * HYPER)
        t = load_int(counts + 8 * number) + 1
        # What is not copied is loaded before anything is stored, and the rest by threes: behind a
        # store of the one before it each load would wait by itself.
        copies = load_double(hyper + 8 * COPIES) != 0.0
        clip_norm = load_double(hyper + 8 * CLIP_NORM)
        clip_eps = load_double(hyper + 8 * CLIP_EPS)
        per_array = load_double(hyper + 8 * PER_ARRAY) != 0.0
        changes = load_double(hyper + 8 * CHANGES)
        lr = load_double(hyper + 8 * LR)
        lr_decay = load_double(hyper + 8 * LR_DECAY)
        step = load_double(hyper + 8 * STEP)
        after = load_double(hyper + 8 * AFTER)
        beta1 = load_double(hyper + 8 * BETA1)
        beta2 = load_double(hyper + 8 * BETA2)
        s = load_double(hyper + 8 * S)

        store_int(decision + 8 * SKIPPED, skipped)
        store_int(decision + 8 * BEGINS, 1 if copies and t == 1 else 0)
        if skipped == 0:
            store_int(counts + 8 * number, t)
        scalars = decision + 8 * FIRST_SCALAR
        i = 0
        while i < N_SCALARS:
            at = hyper + 8 * i
            x, y, z = load_double(at), load_double(at + 8), load_double(at + 16)
            to = scalars + ITEMSIZE * i
            store(to, real(x))
            store(to + ITEMSIZE, real(y))
            store(to + 2 * ITEMSIZE, real(z))
            i += 3

        if clip_norm != 0.0:
            own = norm
            if per_array:
                own = sqrt_double(load_double(sums + 8 * (entry & 0xFFFFFFFF)))
            store(scalars + ITEMSIZE * S, real(mul_double(s, clip_ratio(clip_norm, clip_eps, own))))
        if changes == DAMPENED and t == 1:
            store(scalars + ITEMSIZE * A, real(1.0))
        if changes == DECAYED:
            step = decayed(lr, lr_decay, float(t))
        if changes >= CORRECTED:
            power1 = power_by_squaring(beta1, t)
            power2 = power_by_squaring(beta2, t)
            if changes == CORRECTED:
                step = corrected(lr, power1)
                store(scalars + ITEMSIZE * R, real(corrected_root(power2)))
            else:
                step = corrected_both(lr, power1, power2)
        if changes >= DECAYED:
            step = mul_double(step, after)
            store(scalars + ITEMSIZE * STEP, real(step))


KERNELS = (squares, keep, distances, pairs, rank, decide)  # for tests
