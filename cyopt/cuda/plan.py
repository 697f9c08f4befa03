"""A step over a list of parameters on a GPU: what is launched, in which order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cyopt import _cpu, trees
from cyopt.arrays import Written
from cyopt.cuda import cache, driver, libraries
from cyopt.cuda.arrays import DeviceArray
from cyopt.cuda.source import (
    AVERAGE,
    COLUMNS,
    GRAD,
    PARAM,
    SIZE,
    STATE,
    Source,
    Variant,
    kernel,
)
from cyopt.cuda.tables import Table, chunks_of
from cyopt.hyper import Hyper

if TYPE_CHECKING:
    from cyopt.parameters import Layout

Counts = np.ndarray[Any, np.dtype[np.int64]]


class Batch(NamedTuple):
    """Arrays that one launch updates: all of one variant, group and step count."""

    source: Source
    kernel: Any
    members: list[int]
    first_chunk: int
    n_chunks: int


class Plan:
    """The plan of `cyopt._cpu` for arrays on a GPU."""

    team = 1

    def __init__(
        self,
        params: Sequence[DeviceArray],
        states: Sequence[Sequence[DeviceArray | None]],
        averages: Sequence[DeviceArray | None],
        layouts: Sequence[Layout],
        group_of: Sequence[int],
        counts: Counts,
        steps: Counts,
        measured: np.ndarray[Any, Any],
        written: Written,
        keyed: bool = False,
    ) -> None:
        self._params, self._averages = params, averages
        self._layouts, self._group_of = layouts, group_of
        self._counts, self._steps, self._measured, self._keyed = counts, steps, measured, keyed
        self._states = states  # keeps their memory
        self.written = written
        self._device = driver.device(params[0].device)
        self._rows = Table(self._device, (len(params), COLUMNS))
        for row, param, state, average in zip(
            self._rows.host, params, states, averages, strict=True
        ):
            row[SIZE], row[PARAM] = param.size, param.address
            for j, array in enumerate(state):
                row[STATE + j] = array.address if array else 0
            row[AVERAGE] = average.address if average else 0
        # Of the smallest chunks there are.
        most = sum(-(-p.size // Variant("sgd", p.dtype.name).chunk) for p in params)
        self._chunks = Table(self._device, (max(most, 1),))
        self._batches: list[Batch] = []
        self._given: list[int] = []  # the parameters with a gradient
        self._known_params = [param.identity for param in params]
        self._known_grads: list[Any] = []
        self._lenders: list[DeviceArray] = []  # arrays whose streams a step is ordered with
        self._hypers: Sequence[Hyper] = ()
        self._versions: list[tuple[_cpu.Version, int]] | None = None

    def set_hypers(
        self, hypers: Sequence[Hyper], versions: list[tuple[_cpu.Version, int]] | None = None
    ) -> None:
        """What the groups use from the next step on; see `cyopt._cpu.Plan`."""
        if [self._options(h) for h in hypers] != [self._options(h) for h in self._hypers]:
            self._known_grads = []  # other kernels
        self._hypers, self._versions = hypers, versions

    @staticmethod
    def _options(hyper: Hyper) -> tuple[str, bool, bool]:
        """What of the hyperparameters decides the kernel."""
        coupled = hyper.decay == "coupled" and hyper.weight_decay != 0
        return hyper.rule, coupled, hyper.clip_value != 0

    def again(
        self,
        gate: _cpu.Gate | None,
        params: Any,
        grads: Any,
        node: trees.Node | None,
        norms: bool,
        stream: Any = None,
    ) -> bool | None:
        """One step if all is as it was when it was checked; else None, and nothing is done."""
        if gate is None:
            return self._again(params, grads, node, norms, stream)
        if self._versions is None or any(v.value != known for v, known in self._versions):
            return None
        done: bool | None = gate.run(self._again, params, grads, node, norms, stream)
        return done

    def _again(
        self, params: Any, grads: Any, node: trees.Node | None, norms: bool, stream: Any
    ) -> bool | None:
        if not self._known_grads:
            return None
        try:
            values = trees.leaves(params, node, "params")
            given = trees.leaves(grads, node, "grads")
        except (TypeError, ValueError):  # which the full look tells
            return None
        if not self.same_params(values) or not _are(given, self._known_grads):
            return None
        return self._launch(norms, stream)

    def same_params(self, values: Sequence[Any]) -> bool:
        """Whether the parameters lie where they did."""
        return _are(values, self._known_params)

    def run(
        self, grads: Sequence[DeviceArray | None], norms: bool, stream: Any = None
    ) -> bool:
        """One step with gradients that have been checked; None skips a parameter."""
        column = [grad.address if grad is not None else 0 for grad in grads]
        if column != self._rows.host[:, GRAD].tolist():
            self._rows.host[:, GRAD], self._rows.changed = column, True
        self._given = [i for i, grad in enumerate(grads) if grad is not None]
        self._batches = self._make_batches()
        self._lenders = _lenders([*self._params, *(g for g in grads if g is not None)])
        done = self._launch(norms, stream)
        self._known_grads = [None if grad is None else grad.identity for grad in grads]
        return done

    def _make_batches(self) -> list[Batch]:
        members: dict[tuple[Variant, int, int], list[int]] = {}
        for i in self._given:
            if self._params[i].size:
                key = (self._variant(i), self._group_of[i], int(self._counts[i]))
                members.setdefault(key, []).append(i)
        batches, first = [], 0
        for (variant, _, _), indices in members.items():
            chunks = np.concatenate([chunks_of(i, self._params[i].size, variant) for i in indices])
            last = first + len(chunks)
            if not np.array_equal(self._chunks.host[first:last], chunks):
                self._chunks.host[first:last], self._chunks.changed = chunks, True
            source = kernel(variant)
            compiled = cache.kernel(source, self._device.ordinal)
            batches.append(Batch(source, compiled, indices, first, len(chunks)))
            first = last
        return batches

    def _variant(self, i: int) -> Variant:
        rule, coupled, limited = self._options(self._hypers[self._group_of[i]])
        return Variant(
            rule=rule,
            dtype=self._params[i].dtype.name,
            coupled=coupled,
            limited=limited,
            averaged=self._averages[i] is not None,
            zeroed=self._layouts[self._group_of[i]].zero_grads,
        )

    def _launch(self, norms: bool, given: Any) -> bool:
        if given is None:
            stream = self._params[0].stream
            others = {array.stream for array in self._lenders} - {stream}
        else:
            stream, others = libraries.stream_handle(given), set()
        counts = self._counts.copy()
        counts[self._given] += 1
        now = int(self._counts[0] if self._keyed else self._steps[0]) + 1
        steps = np.maximum(self._steps, now)
        with self._device:
            for other in others:
                self._device.order(stream, other)
            self._rows.upload(stream)
            self._chunks.upload(stream)
            calls = [call for batch in self._batches for call in self._calls(batch, stream)]
            _cpu.perform(calls, [(self._counts, counts), (self._steps, steps)])
            for other in others:
                self._device.order(other, stream)
        return True

    def _calls(self, batch: Batch, stream: int) -> list[tuple[Any, ...]]:
        """What a batch takes: functions with their arguments."""
        i = batch.members[0]
        hyper, count = self._hypers[self._group_of[i]], int(self._counts[i])
        scalars = _cpu.prepare(hyper, count + 1)
        real = self._params[i].dtype.type
        with np.errstate(over="ignore"):  # a limit beyond the dtype is none
            numbers = [real(scalars[name]) for name in batch.source.scalars]
        tables = np.int64(self._rows.address), np.int64(self._chunks.address + 8 * batch.first_chunk)
        launch = self._device.launch(batch.kernel, batch.n_chunks, stream, *tables, *numbers)
        return [*(self._begin_average(i, stream) for i in batch.members if self._begins(i)), launch]

    def _begins(self, i: int) -> bool:
        """Whether the average begins in this step, as a copy of the parameter."""
        from_zeros = self._layouts[self._group_of[i]].average_from_zeros
        return self._averages[i] is not None and self._counts[i] == 0 and not from_zeros

    def _begin_average(self, i: int, stream: int) -> tuple[Any, ...]:
        param, average = self._params[i], self._averages[i]
        assert average is not None
        return self._device.copy(average.address, param.address, param.nbytes, stream)


def _are(values: Sequence[Any], known: Sequence[Any]) -> bool:
    """Whether these values are the arrays of these identities; None: no array."""
    if len(values) != len(known):
        return False
    for value, identity in zip(values, known, strict=True):
        if value is None or identity is None:
            if value is not identity:
                return False
        elif not libraries.is_on_gpu(value) or libraries.of(value).identity(value) != identity:
            return False
    return True


def _lenders(arrays: Sequence[DeviceArray]) -> list[DeviceArray]:
    """Arrays that stand for all whose streams a step is ordered with: one for each stream now."""
    return list({(libraries.of(array.owner), array.stream): array for array in arrays}.values())
