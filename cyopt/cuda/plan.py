"""A step over a list of parameters on a GPU: what is launched, in which order."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from cyopt import _cpu, trees
from cyopt.arrays import Counts, Written
from cyopt.cuda import driver, libraries
from cyopt.cuda.arrays import DeviceArray
from cyopt.cuda.batches import Batch, count_chunks, make_batches, options
from cyopt.cuda.decision import Decision
from cyopt.cuda.driver import Call
from cyopt.cuda.gather import Gatherer, is_dense_like
from cyopt.cuda.layout import AVERAGE, COLUMNS, GRAD, PARAM, SIZE, STATE, THREADS
from cyopt.cuda.moved import Moved
from cyopt.cuda.source import Variant
from cyopt.cuda.streams import Streams
from cyopt.cuda.tables import Table
from cyopt.hyper import Hyper
from cyopt.measured import PENDING, Done, measurements

if TYPE_CHECKING:
    from cyopt.given import GroupSpec
    from cyopt.parameters import Versions

_NOTHING = np.array(measurements())
_NOT_PENDING = np.zeros(2)
_STEPS = count(1)  # that GPUs decide, of all optimizers: a mark of `measured` is one step's alone


class Plan:
    """The plan of `cyopt._cpu` for arrays on a GPU."""

    def __init__(
        self,
        params: Sequence[DeviceArray],
        states: Sequence[Sequence[DeviceArray | None]],
        averages: Sequence[DeviceArray | None],
        group_specs: Sequence[GroupSpec],
        group_of: Sequence[int],
        counts: Counts,
        steps: Counts,
        measured: np.ndarray[Any, Any],
        written: Written,
        keyed: bool = False,
    ) -> None:
        self._params, self._averages = params, averages
        self._group_specs, self._group_of = group_specs, group_of
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
        # Parameters whose averages begin as a copy of them.
        self._copied = [
            i
            for i, average in enumerate(averages)
            if average and average.size and not group_specs[group_of[i]].average_from_zeros
        ]
        self._clears = [group_specs[g].zero_grads for g in group_of]  # each one's gradient
        self._lent: list[Any] = []  # by the caller of a `KeptPlan`, for one step
        self._chunks = Table(self._device, (max(count_chunks(params), 1),))
        self._batches: list[Batch] = []
        self._given: list[int] = []  # the parameters with a gradient, and their groups
        self._groups_of_given: list[int] = []
        self._is_given = np.zeros(0, np.int64)
        self._known_params = libraries.places([param.owner for param in params])
        self._known_grads: _cpu.Places | None = None
        self._moved = Moved(self._device.ordinal, params, written)
        self._streams = Streams(self._device)
        # Who is notified that a step writes parameters, and that it writes gradients.
        self._writers: tuple[libraries.Writers, ...] = ()
        self._gatherers: dict[int, Gatherer] = {}
        self._gathered: set[int] = set()  # the parameters whose gradients are gathered now
        self._hypers: Sequence[Hyper] = ()
        self._decision: Decision | None = None
        self._calls: dict[int, list[Call]] = {}  # of a step that it decides, by stream
        self._current = False  # whether the GPU's counters are up to date
        # Of the step that the batches are for: whether it measures all norms, measures the
        # gradients, and takes its scalars from the GPU.
        self._norms = self._measures = self._decides = False
        self._capturable = any(group_spec.capturable for group_spec in group_specs)
        self.captured = False  # whether a CUDA graph holds a step, and repeats it unseen
        # What the GPU alone knows, 0 for nothing: the mark of the last step whose results are not
        # fetched, which `measured` holds in their place; and the number, of `_STEPS`, of the first
        # step that the host has not counted.
        self._pending = _NOT_PENDING.copy()
        self._versions: Versions | None = None

    def set_hypers(self, hypers: Sequence[Hyper], versions: Versions | None = None) -> None:
        """What the groups use from the next step on; see `cyopt._cpu.Plan`."""
        if list(map(options, hypers)) != list(map(options, self._hypers)):
            self._known_grads = None  # other kernels
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
        if self._versions is None or not _cpu.unchanged(self._versions):
            return None
        done: Done | None = gate.run(self._again, params, grads, node, norms, stream)
        return done

    def _again(
        self, params: Any, grads: Any, node: trees.Node | None, norms: bool, stream: Any
    ) -> Done | None:
        known = self._known_grads
        if known is None:
            return None
        try:
            values = trees.leaves(params, node, "params")
            given = trees.leaves(grads, node, "grads")
        except (TypeError, ValueError):  # which the full look tells
            return None
        as_before = norms == self._norms and self.same_params(values)
        addresses = known.find(given) if as_before else None
        if addresses is None:
            return None
        if addresses is not known.addresses:
            if self._gathered or not self._moved.can_be_read(given, addresses):
                return None
            self._known_grads = None  # an interrupt leaves it so until both have the addresses
            self._rows.set(addresses, np.s_[:, GRAD])
            known.addresses = addresses
            self._known_grads = known
        libraries.notify(self._writers, self._lent or values, given)
        return self._streams.run(stream, self._capturable, self._current, self._launch)

    def same_params(self, values: list[Any]) -> bool:
        """Whether the parameters lie where they did."""
        return self._known_params.find(values) is self._known_params.addresses

    def run(self, grads: Sequence[DeviceArray | None], norms: bool, stream: Any = None) -> Done:
        """One step with gradients that have been checked; None skips a parameter."""
        self._known_grads = None  # unless all that follows comes to its end
        self._gathered = set()  # the memory of former gradients may be another's by now
        arrays, owners = self._owners(), [None if grad is None else grad.owner for grad in grads]
        self._streams.lend([*arrays, *owners])
        self._given = [i for i, grad in enumerate(grads) if grad is not None]
        cleared = [i for i in self._given if self._clears[i]]
        written = [i + j for j in range(0, len(arrays), len(grads)) for i in self._given]
        self._writers = libraries.writers(arrays, written), libraries.writers(owners, cleared)
        libraries.notify(self._writers, arrays, owners)
        done = self._streams.run(stream, self._capturable, self._current, self._anew, grads, norms)
        self._known_grads = libraries.places(owners)
        return done

    def _owners(self) -> list[Any]:
        """The caller's arrays except gradients: columns of the parameters, then of their state."""
        return [param.owner for param in self._params]

    def _anew(
        self, grads: Sequence[DeviceArray | None], norms: bool, stream: int, captured: bool
    ) -> Done:
        """A step whose gradients are not the last one's: batches are made anew."""
        addresses = [0 if g is None else self._take_grad(i, g) for i, g in enumerate(grads)]
        self._rows.set(np.array(addresses, np.int64), np.s_[:, GRAD])
        self._is_given = np.array([grad is not None for grad in grads], np.int64)
        self._groups_of_given = sorted({self._group_of[i] for i in self._given})
        self._norms = norms
        self._measures = norms or any(h.needs_norm for h in self._of_given())
        self._decides = self._capturable or self._measures
        self._batches = self._make_batches()
        self._calls = {}
        return self._launch(stream, captured)

    def _take_grad(self, i: int, grad: DeviceArray) -> int:
        """Take a gradient; returns where kernels read it: there, or dense memory of our own."""
        param = self._params[i]
        if is_dense_like(grad, param) or not param.size:
            return grad.address
        if i not in self._gatherers:
            self._gatherers[i] = Gatherer(self._device, param, self._clears[i])
        self._gathered.add(i)
        self._gatherers[i].take(grad)
        return self._gatherers[i].address

    def _of_given(self) -> list[Hyper]:
        """The hyperparameters of the parameters with a gradient."""
        return [self._hypers[g] for g in self._groups_of_given]

    def _make_batches(self) -> list[Batch]:
        members: dict[Variant, dict[Hashable, list[int]]] = {}
        if not self._decides:
            self._fetch_counts()
        for i in self._given:
            if self._params[i].size:
                numbers = () if self._decides else (self._group_of[i], int(self._counts[i]))
                classes = members.setdefault(self._variant(i), {})
                classes.setdefault(numbers, []).append(i)
        return make_batches(members, self._params, self._rows, self._chunks, self._device)

    def _variant(self, i: int) -> Variant:
        rule, coupled, limited, *_ = options(self._hypers[self._group_of[i]])
        return Variant(
            rule=rule,
            dtype=self._params[i].dtype.name,
            coupled=coupled,
            limited=limited,
            averaged=self._averages[i] is not None,
            zeroed=self._clears[i],
            decided=self._decides,
        )

    def _launch(self, stream: int, captured: bool) -> Done:
        """Upload what changed, launch, and count; nothing is waited for.

        First come the calls that are functions of Python, in which a signal handler may raise:
        what they do changes no step. Launches are compiled.
        """
        return self._decided(stream, captured) if self._decides else self._plain(stream)

    def _plain(self, stream: int) -> bool:
        """A step whose scalars the host knows."""
        self._fetch_counts()
        self._upload(stream)
        self._current = False
        calls = self._begin_averages(stream) if self._copied else []
        calls += self._gather(stream) if self._gathered else []
        calls += [self._update(batch, stream) for batch in self._batches]
        told = [(self._measured, _NOTHING), (self._pending, _NOT_PENDING)]
        _cpu.perform([*calls, self._count()], told)
        return True

    def _decided(self, stream: int, captured: bool) -> Done:
        """A step whose scalars the GPU computes, from its gradients and its own counters."""
        if self._decision is None:
            self._decision = Decision(self._device, self._rows, self._params, self._group_of)
        gpu_counts = self._capturable or any(h.skip_nonfinite for h in self._of_given())
        if not gpu_counts:
            self._fetch_counts()
        decision = self._decision
        copies = [not group_spec.average_from_zeros for group_spec in self._group_specs]
        decision.set_hypers(self._hypers, copies, self._given, None if gpu_counts else self._counts)
        decision.prepare(self._given, captured)
        if not self._current:
            decision.set_counters(self._counts, int(self._steps[0]))
        calls = self._calls.get(stream) or self._decided_calls(decision, stream)
        self._calls[stream] = calls
        self._upload(stream, captured)
        decision.upload(stream, captured)
        number = float(next(_STEPS))
        mark = -1.0 - number  # below -1, which says that a norm was not measured
        since = float(self._pending[1] or number) if gpu_counts else 0.0
        self.captured = self.captured or captured
        # Where the host counts, its counts stay the right ones if what follows is interrupted.
        self._current = gpu_counts
        told = [
            (self._measured, np.array(measurements(mark))),
            (self._pending, np.array([mark, since])),
        ]
        _cpu.perform(calls if gpu_counts else [*calls, self._count()], told)
        self._current = True
        return PENDING if gpu_counts else True

    def _decided_calls(self, decision: Decision, stream: int) -> list[Call]:
        """All that such a step launches: the same at each one, as the GPU has the scalars."""
        calls = decision.clear_nonfinite(stream)
        calls += decision.keep_old(stream) if self._norms else []
        calls += self._gather(stream) + decision.decide(stream, self._measures, self._norms)
        calls += [self._update(batch, stream) for batch in self._batches]
        return calls + (decision.measure_change(stream) if self._norms else [])

    def _upload(self, stream: int, captured: bool = False) -> None:
        self._rows.upload(stream, captured)
        self._chunks.upload(stream, captured)
        for i in self._gathered:
            self._gatherers[i].upload(stream, captured)

    def _gather(self, stream: int) -> list[Call]:
        return [call for i in sorted(self._gathered) for call in self._gatherers[i].calls(stream)]

    def _count(self) -> Call:
        """What counts a step that is not skipped."""
        return _cpu.count, (self._counts, self._is_given, self._steps, self._keyed)

    def _fetch_counts(self) -> None:
        """Wait for the GPU if it alone knows the counts."""
        if self._pending[1]:
            self.fetch()

    @property
    def is_pending(self) -> bool:
        """Whether the GPU alone knows something of the last step."""
        return bool(self._pending[0])

    def fetch(self) -> None:
        """Wait for the GPU, and take up what the last steps measured and whether they counted.

        Another thread may step, fetch or load at any time meanwhile: each part is taken up only
        where the GPU still knows it, and no count becomes less, as another may have read later.
        """
        pending = self._pending.copy()
        mark, since = pending[:1], pending[1:]
        if not mark[0] or self._decision is None:
            return
        counts, steps, measured = self._decision.read()
        if since[0]:
            total = counts[:1] if self._keyed else np.array([steps])
            pairs = [(self._counts, counts), (self._steps, total)]
            _cpu.perform([(_cpu.at_least, pair) for pair in pairs], [], self._pending[1:], since)
        # A later step of another list may have measured since. When a replay was, nobody knows.
        unless = () if self.captured else (self._measured[:1], mark)
        _cpu.perform([], [(self._measured, measured)], *unless)
        if not self.captured:
            _cpu.perform([], [(self._pending, _NOT_PENDING)], self._pending, pending)

    def _update(self, batch: Batch, stream: int) -> Call:
        """The launch of a batch, whose kernel takes scalars where the host knows the step."""
        if stream not in batch.launches:
            tables = self._rows.address, self._chunks.address + 8 * batch.first_chunk
            where = batch.kernel, batch.n_chunks, THREADS, stream
            sets = [(self._group_of[i], i) for i in batch.sets]
            scalars = batch.source.dtype, batch.source.scalars, sets
            batch.launches[stream] = self._device.launch(*where, tables, *scalars)
        launch = batch.launches[stream]
        return launch, (launch.scalars(self._hypers, self._counts),)

    def _begin_averages(self, stream: int) -> list[Call]:
        """Copies of the parameters into averages that begin so in this step."""
        if self._counts.all():
            return []
        begun = [i for i in self._copied if self._is_given[i] and not self._counts[i]]
        copy, rows = self._device.copy_call, self._rows.host
        return [
            copy(int(row[AVERAGE]), int(row[PARAM]), self._params[i].nbytes, stream)
            for i, row in zip(begun, rows[begun], strict=True)
        ]
