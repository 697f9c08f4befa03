"""Memory and arguments of the kernels of `cyopt.cuda.measure`, and their launch order."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from cyopt import _cpu
from cyopt.cuda import cache, measure
from cyopt.cuda.arrays import DeviceArray
from cyopt.cuda.driver import Call, Device, Memory
from cyopt.cuda.layout import (
    ALL_NORMS,
    CORRECTED,
    CORRECTED_HAT,
    DAMPENED,
    DECAYED,
    DECISION,
    DECISION_BYTES,
    FAN,
    GRAD_NORM,
    GRAD_SQUARES,
    HYPER,
    HYPER_NUMBERS,
    LANES,
    MEASURED,
    NO_NORM,
    NONFINITE,
    NOTHING,
    OLD,
    PARAM_SQUARES,
    REPORT_NUMBERS,
    SCALARS,
    SIZE,
    STEPS,
    SUM_CHUNK,
    SUM_THREADS,
    UPDATE_SQUARES,
    WAS_SKIPPED,
)
from cyopt.cuda.source import function_source
from cyopt.cuda.tables import Table, chunks_of
from cyopt.hyper import Hyper

Numbers = np.ndarray[Any, Any]
DTYPES = ("float32", "float64")
_MOST_GIVEN = 8  # how many sets of parameters with a gradient keep their tables


def hyper_numbers(hyper: Hyper, copies: bool, count: int | None) -> list[float]:
    """The numbers of a group that `decide` reads, in the order of `cyopt.cuda.layout`.

    The scalars are those of the step after `count` completed ones; without a `count`, those of a
    step that is not the first, and `decide` computes those that change.
    """
    later = _cpu.prepare(hyper, 2 if count is None else count + 1)
    return [
        *(later[name] for name in SCALARS),
        *(hyper.lr, hyper.lr_decay, hyper.beta1, hyper.beta2),
        later["k"] if hyper.decay == "after" else 1.0,
        *(hyper.clip_norm, hyper.clip_eps, hyper.clip_per_array, hyper.skip_nonfinite),
        copies,
        _changes(hyper) if count is None else NOTHING,
    ]


def _changes(hyper: Hyper) -> int:
    """Which of the scalars change from step to step."""
    if hyper.rule in ("momentum", "nesterov") and hyper.momentum_form == "lr_outside":
        return DAMPENED
    if not math.isnan(hyper.step_size):
        return NOTHING
    if hyper.rule == "adagrad":
        return DECAYED
    if hyper.rule in ("adam", "amsgrad") and hyper.bias_correction:
        return CORRECTED_HAT if hyper.eps_hat else CORRECTED
    return NOTHING


class Decision:
    """The group numbers, counters and sums of a list of parameters on a GPU."""

    def __init__(
        self, device: Device, rows: Table, params: Sequence[DeviceArray], group_of: Sequence[int]
    ) -> None:
        self._device, self._rows, self._params = device, rows, params
        self._group_of = group_of
        n = len(params)
        self._hypers = Table(device, (n, HYPER_NUMBERS))
        # The counts of the parameters, then the report.
        self._counters = Table(device, (n + REPORT_NUMBERS,))
        self._report = self._counters.address + 8 * n
        self._decisions = device.allocate(n * DECISION_BYTES)
        rows.set(self._decisions.address + DECISION_BYTES * np.arange(n), np.s_[:, DECISION])
        self._old: list[Memory] = []
        self._numbers_of: tuple[Sequence[Hyper], list[int]] | None = None
        self._known: dict[tuple[int, ...], _Given] = {}  # the most recent, the newest last
        self._in_graphs: list[_Given] = []
        self._given_of: list[int] | None = None  # the list from which `_given` was made

    def set_hypers(
        self,
        hypers: Sequence[Hyper],
        copies: Sequence[bool],
        given: list[int],
        counts: Numbers | None,
    ) -> None:
        """Set the hyperparameters of the parameters that have a gradient.

        With `libm_pow`, powers are libm's, which a GPU does not have: the host computes the scalars
        for each count of steps, so it must know the counts.
        """
        known = self._numbers_of
        if known is not None and known[0] is hypers and known[1] is given:
            return
        needs_counts = any(hypers[self._group_of[i]].libm_pow for i in given)
        if needs_counts and counts is None:
            raise ValueError(
                "libm_pow is True, so the host computes beta**t, but with skip_nonfinite or"
                " capturable only the GPU knows t; pass libm_pow=False"
            )
        classes: dict[tuple[int, int | None], int] = {}
        places = []
        for i in given:
            group = self._group_of[i]
            count = int(counts[i]) if counts is not None and hypers[group].libm_pow else None
            places.append(classes.setdefault((group, count), len(classes)))
        addresses = self._hypers.address + 8 * HYPER_NUMBERS * np.array(places, np.int64)
        self._rows.set(addresses, np.s_[given, HYPER])
        numbers = [hyper_numbers(hypers[g], copies[g], count) for g, count in classes]
        if numbers:
            self._hypers.set(np.array(numbers, np.float64).view(np.int64), np.s_[: len(numbers)])
        self._numbers_of = None if needs_counts else (hypers, given)

    def set_counters(self, counts: Numbers, steps: int) -> None:
        """Continue from these counts."""
        report = np.zeros(REPORT_NUMBERS)
        report[STEPS] = steps
        self._counters.host[: len(counts)] = counts
        self._counters.host[len(counts) :] = report.view(np.int64)
        self._counters.changed = True

    def read(self) -> tuple[Numbers, int, Numbers]:
        """The counts, the steps, and what was measured, in the order of `cyopt.measured`.

        They are read from the GPU, after waiting for it.
        """
        host = np.empty_like(self._counters.host)
        self._device.download(host, self._counters.address)
        n = len(self._params)
        report = host[n:].view(np.float64)
        skipped, level = report[WAS_SKIPPED], report[MEASURED]
        norm = [math.sqrt(report[i]) for i in (GRAD_SQUARES, UPDATE_SQUARES, PARAM_SQUARES)]
        moved = norm[1:] if level == ALL_NORMS and not skipped else [-1, -1]
        measured = [norm[0] if level >= GRAD_NORM else -1, *moved, skipped]
        return host[:n], int(report[STEPS]), np.array(measured, np.float64)

    def prepare(self, given: list[int], captured: bool) -> None:
        """Make the tables for a step in which these parameters have gradients.

        Those that a graph was captured with are kept. Freeing any waits for the GPU, so some others
        are kept too.
        """
        if given is self._given_of and not captured:
            return
        key = tuple(given)
        made = self._known.pop(key, None) or _Given(self._device, self._params, given)
        self._known[key] = self._given = made
        if len(self._known) > _MOST_GIVEN:
            del self._known[next(iter(self._known))]
        if captured and made not in self._in_graphs:
            self._in_graphs.append(made)
        self._given_of = given

    def upload(self, stream: int, captured: bool) -> None:
        """Upload all that changed; a graph continues from the counters as they are on the GPU."""
        self._hypers.upload(stream, captured)
        self._given.tables.upload(stream, captured)
        if not captured:
            self._counters.upload(stream)

    def clear_nonfinite(self, stream: int) -> list[Call]:
        """A call that clears NONFINITE, which `squares` sets and `decide` reads."""
        return [self._device.clear_call(self._report + 8 * NONFINITE, 8, stream)]

    def decide(self, stream: int, measures: bool, norms: bool) -> list[Call]:
        """Launches that measure the gradients, if `measures`, and decide.

        With `norms` the report says that the other norms are measured too.
        """
        calls = []
        if measures:
            calls = self._measure(stream, GRAD_SQUARES, measure.squares, self._report)
        level = ALL_NORMS if norms else GRAD_NORM if measures else NO_NORM
        given, rows, counts = self._given, self._rows.address, self._counters.address
        sums = given.memory.address + 8 * given.sums.per_array
        ranges = [(dtype, own) for dtype, own in given.ranges.items() if own[0] < own[1]]
        for dtype, (first, last) in ranges or [("float64", (0, 0))]:  # at least for the report
            told = level if last == len(given.members) else 0
            args = rows, given.entries, first, last, sums, counts, self._report, told
            calls.append(self._launch(stream, measure.decide, dtype, max(last - first, 1), *args))
        return calls

    def keep_old(self, stream: int) -> list[Call]:
        """Launches that copy the parameters, for `measure_change` to compare them with."""
        if not self._old:  # set last, so an interrupt before that leaves it empty
            made = [self._device.allocate(p.nbytes) for p in self._params]
            self._rows.set(np.array([memory.address for memory in made]), np.s_[:, OLD])
            self._old = made
        rows, tables = self._rows.address, self._given.tables.address
        return [
            self._launch(stream, measure.keep, dtype, LANES * n, rows, tables + 8 * first, n)
            for dtype, (first, n) in self._given.sums.chunks.items()
            if n
        ]

    def measure_change(self, stream: int) -> list[Call]:
        """Launches that measure how far the parameters moved, and their norm."""
        moved = self._measure(stream, UPDATE_SQUARES, measure.distances, OLD)
        return moved + self._measure(stream, PARAM_SQUARES, measure.distances, SIZE)

    def _measure(
        self, stream: int, place: int, kernel: Callable[..., None], argument: int
    ) -> list[Call]:
        """Launches that put a sum of squares into the report; `kernel` makes the chunk sums."""
        given = self._given
        sums, memory, tables = given.sums, given.memory.address, given.tables.address
        launch = partial(self._launch, stream)
        calls = []
        for dtype, (first, n) in sums.chunks.items():
            if n:
                places = (tables + 8 * first, n, memory + 8 * LANES * first)
                calls.append(
                    launch(kernel, dtype, LANES * n, self._rows.address, *places, argument)
                )
        for level in sums.levels:
            if level.sorts:
                values, results = memory + 8 * level.values, memory + 8 * level.results
                calls.append(launch(measure.rank, "float64", level.n, values, level.n, results))
            else:
                results = memory + 8 * level.results
                if level is sums.levels[-1]:
                    results = self._report + 8 * place
                own = (memory + 8 * level.values, tables + 8 * level.entries, level.n, results)
                calls.append(launch(measure.pairs, "float64", level.n, *own))
        return calls

    def _launch(
        self, stream: int, kernel: Callable[..., None], dtype: str, n: int, *args: int
    ) -> Call:
        compiled = cache.kernel(function_source(kernel, dtype), self._device.ordinal)
        return self._device.launch(compiled, -(-n // SUM_THREADS), SUM_THREADS, stream, args), ()


class _Given:
    """What depends on which parameters have a gradient."""

    def __init__(self, device: Device, params: Sequence[DeviceArray], given: list[int]) -> None:
        dtypes = [params[i].dtype.name for i in given]
        self.members = [i for d in DTYPES for i, own in zip(given, dtypes, strict=True) if own == d]
        self.ranges = {"float32": (0, dtypes.count("float32"))}
        self.ranges["float64"] = (self.ranges["float32"][1], len(given))
        self.sums = _Sums([(i, params[i]) for i in self.members if params[i].size])
        place = {i: j for j, i in enumerate(self.sums.rows)}
        entries = [(i << 32) | place.get(i, 0) for i in self.members]
        numbers = np.concatenate([*self.sums.parts, np.array(entries, np.int64)])
        self.tables = Table(device, (len(numbers) or 1,))
        self.tables.set(numbers, np.s_[: len(numbers)])
        self.entries = self.tables.address + 8 * (len(numbers) - len(entries))
        self.memory = device.allocate(8 * self.sums.n_values)


class _Level(NamedTuple):
    """One launch in the reduction of many sums to one: places in the memory and the tables."""

    values: int
    results: int
    n: int  # results
    entries: int  # of `pairs`
    sorts: bool  # by `rank`, which has no entries


class _Sums:
    """The tables for sums of squares of some arrays, in the order of their dtypes.

    `parts` are the tables one after another; `n_values` is how many doubles are written.
    """

    def __init__(self, arrays: Sequence[tuple[int, DeviceArray]]) -> None:
        self.rows = [i for i, _ in arrays]
        chunks = [chunks_of(i, array.size, SUM_CHUNK) for i, array in arrays]
        counts = [len(own) for own in chunks]
        n_float32 = sum(n for n, (_, a) in zip(counts, arrays, strict=True) if a.itemsize == 4)
        n = sum(counts)
        self.chunks = {"float32": (0, n_float32), "float64": (n_float32, n - n_float32)}
        self.parts: list[Numbers] = [*chunks, np.zeros(0, np.int64)]
        self.levels: list[_Level] = []
        self.n_values = LANES * n
        self._add(0, _cut([LANES] * n, LANES))  # a chunk's lanes -> its sum
        while max(counts, default=1) > 1:  # sums of chunks -> one for each array
            self._add(self.levels[-1].results, _cut(counts, FAN))
            counts = [-(-count // FAN) for count in counts]
        self.per_array = self.levels[-1].results
        k = len(arrays)  # those in ascending order, as in `rules.norm` -> one
        self.levels.append(_Level(self.per_array, self.n_values, k, 0, sorts=True))
        self.n_values += k
        while True:
            self._add(self.levels[-1].results, _cut([k], FAN) or [0])  # 0: the sum of nothing
            k = -(-k // FAN)
            if k <= 1:
                break
        self.levels = [level for level in self.levels if level.n]

    def _add(self, values: int, entries: list[int]) -> None:
        place = sum(map(len, self.parts))
        self.levels.append(_Level(values, self.n_values, len(entries), place, sorts=False))
        self.parts.append(np.array(entries, np.int64))
        self.n_values += len(entries)


def _cut(counts: Sequence[int], fan: int) -> list[int]:
    """Entries for runs of values, cut into pieces of `fan`: the first value, and how many.

    >>> [(entry >> 8, entry & 0xFF) for entry in _cut([5, 1, 0], 4)]
    [(0, 4), (4, 1), (5, 1)]
    """
    entries, first = [], 0
    for count in counts:
        entries += [((first + i) << 8) | min(fan, count - i) for i in range(0, count, fan)]
        first += count
    return entries
