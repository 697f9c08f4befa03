"""A step over a list of parameters on a GPU: what is launched, in which order."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from cyopt import _cpu, trees
from cyopt.arrays import Written
from cyopt.cuda import driver, libraries
from cyopt.cuda.arrays import DeviceArray, lenders
from cyopt.cuda.batches import Batch, launches, most_chunks, options
from cyopt.cuda.decision import Decision, Unknown
from cyopt.cuda.driver import Call
from cyopt.cuda.gather import Gatherer, is_dense_like
from cyopt.cuda.layout import (
    AVERAGE,
    COLUMNS,
    GRAD,
    GRAD_SQUARES,
    PARAM,
    PARAM_SQUARES,
    SIZE,
    STATE,
    STEPS,
    UPDATE_SQUARES,
    WAS_SKIPPED,
)
from cyopt.cuda.moved import Moved
from cyopt.cuda.source import Variant
from cyopt.cuda.tables import Table
from cyopt.hyper import Hyper
from cyopt.measured import NOT_MEASURED, PENDING, Done

if TYPE_CHECKING:
    from cyopt.parameters import Layout

Counts = np.ndarray[Any, np.dtype[np.int64]]


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
        self._chunks = Table(self._device, (max(most_chunks(params), 1),))
        self._batches: list[Batch] = []
        self._given: list[int] = []  # the parameters with a gradient, and their groups
        self._groups_of_given: list[int] = []
        self._of_counts = np.zeros(0, np.intp)
        self._known_params = libraries.identities([param.owner for param in params])
        self._known_grads: list[libraries.Identity | None] = []
        self._moved = Moved(self._device.ordinal, params, written)
        self._lenders: list[DeviceArray] = []  # arrays whose streams a step is ordered with
        self._gatherers: dict[int, Gatherer] = {}
        self._gathered: set[int] = set()  # the parameters whose gradients are gathered now
        self._hypers: Sequence[Hyper] = ()
        self._decision: Decision | None = None
        self._current = False  # whether the GPU's counters are
        self._norms = False  # whether the batches are for a step that measures them
        self._capturable = any(layout.capturable for layout in layouts)
        self.captured = False  # whether a CUDA graph holds a step, and repeats it unseen
        self._unknown: Unknown | None = None
        self._versions: list[tuple[_cpu.Version, int]] | None = None

    def set_hypers(
        self, hypers: Sequence[Hyper], versions: list[tuple[_cpu.Version, int]] | None = None
    ) -> None:
        """What the groups use from the next step on; see `cyopt._cpu.Plan`."""
        if list(map(options, hypers)) != list(map(options, self._hypers)):
            self._known_grads = []  # other kernels
        self._hypers, self._versions = hypers, versions

    def again(
        self,
        gate: _cpu.Gate | None,
        params: Any,
        grads: Any,
        node: trees.Node | None,
        norms: bool,
        stream: Any = None,
    ) -> Done | None:
        """One step if all is as it was when it was checked; else None, and nothing is done."""
        if gate is None:
            return self._again(params, grads, node, norms, stream)
        if self._versions is None or any(v.value != known for v, known in self._versions):
            return None
        done: Done | None = gate.run(self._again, params, grads, node, norms, stream)
        return done

    def _again(
        self, params: Any, grads: Any, node: trees.Node | None, norms: bool, stream: Any
    ) -> Done | None:
        if not self._known_grads:
            return None
        try:
            values = trees.leaves(params, node, "params")
            given = trees.leaves(grads, node, "grads")
        except (TypeError, ValueError):  # which the full look tells
            return None
        if norms != self._norms or not self.same_params(values):
            return None
        found = libraries.identities(given)
        if found != self._known_grads:
            if self._gathered or not self._moved.can_be_read(given, found, self._known_grads):
                return None
            self._rows.set([0 if one is None else one[0] for one in found], np.s_[:, GRAD])
            self._known_grads = found
        with self._on(stream) as (handle, captured):
            return self._launch(norms, handle, captured)

    def same_params(self, values: Sequence[Any]) -> bool:
        """Whether the parameters lie where they did."""
        return libraries.identities(values) == self._known_params

    def run(self, grads: Sequence[DeviceArray | None], norms: bool, stream: Any = None) -> Done:
        """One step with gradients that have been checked; None skips a parameter."""
        self._known_grads = []  # unless all that follows comes to its end
        self._gathered = set()  # the memory of former gradients may be another's by now
        self._lenders = lenders([*self._params, *(g for g in grads if g is not None)])
        with self._on(stream) as (handle, captured):
            addresses = [0 if g is None else self._address(i, g) for i, g in enumerate(grads)]
            self._rows.set(np.array(addresses, np.int64), np.s_[:, GRAD])
            self._given = [i for i, grad in enumerate(grads) if grad is not None]
            self._of_counts = np.array(self._given, np.intp)
            self._groups_of_given = sorted({self._group_of[i] for i in self._given})
            self._batches = self._make_batches(self._decides(norms))
            done = self._launch(norms, handle, captured)
        owners = [None if grad is None else grad.owner for grad in grads]
        self._known_grads = libraries.identities(owners)
        self._norms = norms
        return done

    def _address(self, i: int, grad: DeviceArray) -> int:
        """Where the kernels read a gradient; one that they cannot read is gathered first."""
        param = self._params[i]
        if is_dense_like(grad, param) or not param.size:
            return grad.address
        if i not in self._gatherers:
            clears = self._layouts[self._group_of[i]].zero_grads
            self._gatherers[i] = Gatherer(self._device, param, clears)
        self._gathered.add(i)
        self._gatherers[i].take(grad)
        return self._gatherers[i].address

    def _of_given(self) -> list[Hyper]:
        """The hyperparameters of the parameters with a gradient."""
        return [self._hypers[g] for g in self._groups_of_given]

    def _measures(self, norms: bool) -> bool:
        """Whether the gradients are measured."""
        return norms or any(h.clip_norm != 0 or h.skip_nonfinite for h in self._of_given())

    def _decides(self, norms: bool) -> bool:
        """Whether the GPU computes the scalars."""
        return self._capturable or self._measures(norms)

    def _make_batches(self, decided: bool) -> list[Batch]:
        members: dict[Variant, dict[Hashable, list[int]]] = {}
        if not decided:
            self.fetch()
        for i in self._given:
            if self._params[i].size:
                numbers = () if decided else (self._group_of[i], int(self._counts[i]))
                classes = members.setdefault(self._variant(i, decided), {})
                classes.setdefault(numbers, []).append(i)
        return launches(members, self._params, self._rows, self._chunks, self._device)

    def _variant(self, i: int, decided: bool) -> Variant:
        rule, coupled, limited, *_ = options(self._hypers[self._group_of[i]])
        return Variant(
            rule=rule,
            dtype=self._params[i].dtype.name,
            coupled=coupled,
            limited=limited,
            averaged=self._averages[i] is not None,
            zeroed=self._layouts[self._group_of[i]].zero_grads,
            decided=decided,
        )

    @contextmanager
    def _on(self, given: Any) -> Iterator[tuple[int, bool]]:
        """The stream to step on, ordered with those of all arrays, and whether it is captured."""
        if given is None:
            stream = self._params[0].stream
            others = {array.stream for array in self._lenders} - {stream}
        else:
            stream, others = libraries.stream_handle(given), set()
        # The default stream cannot be captured; asking is a call of the driver.
        captured = stream != libraries.LEGACY_STREAM and self._device.is_capturing(stream)
        if captured:
            self._check_capture()
        with self._device:
            for other in others:
                self._device.order(stream, other)
            yield stream, captured
            for other in others:
                self._device.order(other, stream)

    def _check_capture(self) -> None:
        if not self._capturable:
            raise RuntimeError(
                "the stream is captured into a CUDA graph, whose replays would repeat this step's"
                " numbers, such as bias corrections, and count no step; make the optimizer with"
                " capturable=True, or step outside of the graph"
            )
        if not self._current:
            raise RuntimeError(
                "the stream is captured into a CUDA graph, but this optimizer has made no step yet"
                " since it was made or loaded; make one first, which prepares what the graph holds"
            )

    def _launch(self, norms: bool, stream: int, captured: bool) -> Done:
        """Upload what changed, launch, and count; nothing is waited for."""
        decides = self._decides(norms)
        return self._decided(norms, stream, captured) if decides else self._plain(stream)

    def _plain(self, stream: int) -> bool:
        """A step whose scalars the host knows."""
        self.fetch()
        self._upload(stream)
        self._current = False
        calls = self._gather(stream)
        calls += [call for batch in self._batches for call in self._calls(batch, stream)]
        _cpu.perform(calls, [*self._counted(), (self._measured, np.array(NOT_MEASURED))])
        return True

    def _decided(self, norms: bool, stream: int, captured: bool) -> Done:
        """A step whose scalars the GPU computes, from its gradients and its own counters."""
        if self._decision is None:
            arrays = (self._rows, self._params, self._group_of)
            self._decision = Decision(self._device, *arrays)
        unseen = self._capturable or any(h.skip_nonfinite for h in self._of_given())
        if not unseen:
            self.fetch()  # which waits if the host does not know the counts
        decision, measures = self._decision, self._measures(norms)
        copies = [not layout.average_from_zeros for layout in self._layouts]
        decision.set_hypers(self._hypers, copies, self._given, None if unseen else self._counts)
        decision.prepare(self._given, self.captured)
        if not self._current:
            decision.set_counters(self._counts, int(self._steps[0]))
        calls = self._gather(stream) + decision.decide(stream, measures)
        if norms:
            calls += decision.keep_old(stream)
        calls += [self._update(batch, stream) for batch in self._batches]
        if norms:
            calls += decision.measure_change(stream)
        self._upload(stream, captured)
        decision.upload(stream, captured)
        _cpu.perform(calls, [] if unseen else self._counted())
        self._current, self.captured = True, self.captured or captured
        self._unknown = Unknown(unseen, measures, norms)
        return PENDING if unseen else True

    def _upload(self, stream: int, captured: bool = False) -> None:
        self._rows.upload(stream, captured)
        self._chunks.upload(stream, captured)
        for i in self._gathered:
            self._gatherers[i].upload(stream, captured)

    def _gather(self, stream: int) -> list[Call]:
        return [call for i in sorted(self._gathered) for call in self._gatherers[i].calls(stream)]

    def _counted(self) -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
        """The counters, with what they are after a step that is not skipped."""
        counts = self._counts.copy()
        counts[self._of_counts] += 1
        now = int(self._counts[0] if self._keyed else self._steps[0]) + 1
        return [(self._counts, counts), (self._steps, np.maximum(self._steps, now))]

    def fetch(self) -> None:
        """Wait for the GPU, and take up what the last steps measured and whether they counted."""
        if self._unknown is None or self._decision is None:
            return
        counts, report = self._decision.counters()
        skipped = report[WAS_SKIPPED] != 0
        norm = [math.sqrt(report[i]) for i in (GRAD_SQUARES, UPDATE_SQUARES, PARAM_SQUARES)]
        moved = norm[1:] if self._unknown.norms and not skipped else [-1, -1]
        measured = [norm[0] if self._unknown.grad_norm else -1, *moved, skipped]
        pairs = [(self._measured, np.array(measured, np.float64))]
        if self._unknown.counts:
            now = counts[0] if self._keyed else int(report[STEPS])
            pairs += [(self._counts, counts), (self._steps, np.maximum(self._steps, now))]
        _cpu.perform([], pairs)
        if not self.captured:
            self._unknown = None

    def _calls(self, batch: Batch, stream: int) -> list[Call]:
        """What a batch takes whose scalars the host knows."""
        real, numbers = self._params[batch.members[0]].dtype.type, []
        for i in batch.sets:
            scalars = _cpu.prepare(self._hypers[self._group_of[i]], int(self._counts[i]) + 1)
            with np.errstate(over="ignore"):  # a limit beyond the dtype is none
                numbers += [real(scalars[name]) for name in batch.source.scalars]
        # All members of a set have made as many steps.
        begins = batch.members if any(map(self._begins, batch.sets)) else ()
        begin = [self._begin_average(i, stream) for i in begins if self._begins(i)]
        return [*begin, self._update(batch, stream, *numbers)]

    def _update(self, batch: Batch, stream: int, *numbers: Any) -> Call:
        """The launch of a batch, with the scalars that its kernel takes as arguments."""
        tables = self._rows.address, self._chunks.address + 8 * batch.first_chunk
        args = (*map(np.int64, tables), *numbers)
        return self._device.launch(batch.kernel, batch.n_chunks, stream, *args)

    def _begins(self, i: int) -> bool:
        """Whether the average begins in this step, as a copy of the parameter."""
        from_zeros = self._layouts[self._group_of[i]].average_from_zeros
        return self._averages[i] is not None and self._counts[i] == 0 and not from_zeros

    def _begin_average(self, i: int, stream: int) -> Call:
        param, average = self._params[i], self._averages[i]
        assert average is not None
        return self._device.copy(average.address, param.address, param.nbytes, stream)
