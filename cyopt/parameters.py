"""A list of parameters with their state and counters, and the plan that steps them."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from types import MappingProxyType, NoneType
from typing import Any

import numpy as np

from cyopt import _cpu, trees
from cyopt.arrays import (
    Array,
    Counts,
    Written,
    as_own,
    check_written,
    device_name,
    device_of,
    full_like,
)
from cyopt.cuda.arrays import DeviceArray
from cyopt.cuda.libraries import notify_of
from cyopt.given import GroupSpec, Spec, as_grads, as_params, as_same_params
from cyopt.hyper import Hyper
from cyopt.measured import Done

Versions = list[tuple[_cpu.Version, int]]  # of the groups, when their hypers were taken
AVERAGE = "average"  # the state that holds the parameter's average


class ParameterList:
    """Parameters in a fixed order, each with a name, a group, its state and its own step count.

    `group_specs` has one for each group. `steps` is the optimizer's counter, which a step counts up
    with its own: no signal handler can run between the change of the arrays and of the counters.
    With `keyed` it is the largest count of any list. `measured` takes what a step measures.
    """

    def __init__(
        self,
        names: Sequence[str],
        values: Sequence[Any],
        group_of: Sequence[int],
        group_specs: Sequence[GroupSpec],
        steps: Counts,
        measured: Array,
        plan_type: type[Any] = _cpu.Plan,
        keyed: bool = False,
    ) -> None:
        _check_distinct(names)
        arrays = as_params(values, names)
        check_written(arrays, [f"parameter {name!r}" for name in names])
        self.names = list(names)
        self.group_of = list(group_of)
        self.specs = [Spec.of(array) for array in arrays]
        self.dtypes_of = [
            {spec.dtype for spec, of in zip(self.specs, group_of, strict=True) if of == g}
            for g in range(len(group_specs))
        ]
        self.device = device_of(arrays[0]) if arrays else None
        _check_capturable(group_specs, self.device, bool(arrays))
        self.group_specs = list(group_specs)
        self.group_spec_of = [group_specs[g] for g in group_of]
        self.state = list(map(_new_state, arrays, self.group_spec_of))
        self.counts = np.zeros(len(names), np.int64)
        self.steps, self.measured, self.keyed = steps, measured, keyed
        self.plan_type = plan_type
        self.plan: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "plan": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.counts = as_own(self.counts)
        self.state = [{s: as_own(a) for s, a in arrays.items()} for arrays in self.state]

    @property
    def size(self) -> int:
        """The number of elements of all parameters together."""
        return sum(math.prod(spec.shape) for spec in self.specs)

    @property
    def is_pending(self) -> bool:
        """Whether only a GPU knows the outcome of the last step."""
        return self.device is not None and self.plan is not None and self.plan.is_pending

    @property
    def is_captured(self) -> bool:
        """Whether a CUDA graph holds a step."""
        return self.device is not None and self.plan is not None and self.plan.captured

    def fetch(self) -> None:
        """Fetch counters and norms that only a GPU knows."""
        if self.device is not None and self.plan is not None:
            self.plan.fetch()

    def use_plan(self, plan_type: type[Any]) -> None:
        """Run steps on another backend."""
        self.drop_plan()
        self.plan_type = plan_type

    def drop_plan(self) -> None:
        """Let the next step check everything again."""
        self.check_free()
        self.fetch()
        self.plan = None

    def check_free(self) -> None:
        """No CUDA graph may hold the parameters, state and counters as they are now."""
        if self.is_captured:
            raise RuntimeError(
                "a step was captured into a CUDA graph, which keeps using the parameters, state and"
                " counters of its capture; load, add or move before the capture, or make a new"
                " optimizer and capture again"
            )

    def take_state(self, other: ParameterList) -> None:
        """Continue with the state and counts of `other`, whose parameters are this list's first."""
        other.check_free()
        other.fetch()
        n = len(other.names)
        self.state[:n], self.counts[:n] = other.state, other.counts

    def state_of(self, i: int) -> Mapping[str, Array]:
        """The state arrays of one parameter by name: views, so that reshaping one is harmless."""
        return MappingProxyType({name: array.view() for name, array in self.state[i].items()})

    def step(
        self,
        params: Any,
        grads: Any,
        structure: trees.Node | None,
        hypers: Sequence[Hyper],
        versions: Versions | None,
        norms: bool,
        stream: Any = None,
    ) -> Done:
        """One step in place, with one `Hyper` for each group; False if it was skipped.

        The plan takes the fast path if nothing has changed; what has changed is checked in full.
        """
        if stream is not None and self.device is None:
            raise TypeError("stream is given, but the parameters are on the CPU: leave it out")
        if self.device is not None and versions is None:
            _check_schedules(self.group_specs, hypers)
        where = () if self.device is None else (stream,)
        plan = self.plan
        if plan is not None:
            plan.set_hypers(hypers, versions)
            done: Done | None = plan.again(None, params, grads, structure, norms, *where)
            if done is not None:
                return done
        values = trees.leaves(params, structure, "params")
        given = trees.leaves(grads, structure, "grads")
        if plan is None or not plan.same_params(values):
            self.drop_plan()
            plan = self.plan = self._make_plan(values)
            plan.set_hypers(hypers, versions)
        checked = as_grads(given, self.names, self.specs, self.group_spec_of, plan.written)
        if self.device is None:
            if not all(isinstance(value, np.ndarray) for value in values):
                self.plan = None  # DLPack's addresses are good for one step
            notify_of(written_by_step([values], given, self.group_spec_of))
        done = plan.run(checked, norms, *where)
        return done  # nothing may fail after the step

    def params(self, values: Sequence[Any]) -> list[Array]:
        """The parameters as arrays, if they are what they were when their state was made."""
        return as_same_params(values, self.names, self.specs)

    def _make_plan(self, values: Sequence[Any]) -> Any:
        """Check parameters and state in full, and make a plan for where they lie."""
        params = self.params(values)
        written = written_ranges(self.names, params, self.state)
        arrays = (params, *by_slot(self.state, self.group_spec_of))
        groups = (self.group_specs, self.group_of)
        counters = (self.counts, self.steps, self.measured)
        made = _plan_class(self.device, self.plan_type)
        return made(*arrays, *groups, *counters, written, self.keyed)


def _check_distinct(names: Iterable[str]) -> None:
    """Names identify state: two parameters may not have the same one."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(
                f"two parameters have the name {name!r}; rename a key so that paths are distinct"
            )
        seen.add(name)


def _check_capturable(group_specs: Sequence[GroupSpec], device: int | None, known: bool) -> None:
    if known and device is None and any(group_spec.capturable for group_spec in group_specs):
        raise ValueError(
            "capturable is True, but the parameters are on the CPU, which has no CUDA graphs; leave"
            " it out"
        )


def _check_schedules(group_specs: Sequence[GroupSpec], hypers: Sequence[Hyper]) -> None:
    if any(x.capturable for x in group_specs) or any(x.skip_nonfinite for x in hypers):
        raise ValueError(
            "a hyperparameter is a schedule of the number of steps, which with skip_nonfinite or"
            " capturable only the GPU knows; set the number before each step instead"
        )


def _plan_class(device: int | None, plan_type: type[Any]) -> type[Any]:
    """The backend for arrays on this device, as of `device_of`."""
    if device is None:
        return plan_type
    if plan_type is not _cpu.Plan:
        raise TypeError(
            f"the parameters are on {device_name(device)}, but {plan_type.__module__} runs on the"
            " CPU; give it NumPy arrays"
        )
    from cyopt.cuda.plan import Plan

    return Plan


def check_lasting(values: Sequence[Any], again: Sequence[Any], names: Sequence[str]) -> None:
    """Containers must give the same memory each time, or an update in place would be lost."""
    for first, second, name in zip(values, again, names, strict=True):
        both = isinstance(first, np.ndarray) and isinstance(second, np.ndarray)
        if first is not second and not (both and np.shares_memory(first, second)):
            raise TypeError(
                f"parameter {name!r} is another object each time it is read: its container makes"
                " copies, and a step in place would be lost; pass dict(params), and keep that"
            )


def _new_state(param: Array, group_spec: GroupSpec) -> dict[str, Array]:
    """The state of a parameter before its first step."""
    slots = enumerate(group_spec.slots)
    state = {s: full_like(param, group_spec.initial.get(s, 0.0), j) for j, s in slots if s}
    if group_spec.averages:
        state[AVERAGE] = full_like(param, 0.0, len(group_spec.slots))
        if not group_spec.average_from_zeros:
            if isinstance(param, DeviceArray):
                state[AVERAGE].copy_from(param)
            else:
                state[AVERAGE][...] = param
    return state


def written_by_step(
    columns: Sequence[Sequence[Any]], grads: Sequence[Any], group_specs: Sequence[GroupSpec]
) -> list[Any]:
    """What a step writes of a caller's arrays that are not NumPy's.

    `columns` are parameters, and what else a caller has of each; the others are gradients.
    """
    rows = zip(*columns, strict=True)
    written = [
        array
        for row, grad, group_spec in zip(rows, grads, group_specs, strict=True)
        if grad is not None
        for array in (*row, grad if group_spec.zero_grads else None)
    ]
    return [array for array in written if not isinstance(array, np.ndarray | NoneType)]


def by_slot(
    states: Sequence[Mapping[str, Array]], group_specs: Sequence[GroupSpec]
) -> tuple[list[list[Array | None]], list[Array | None]]:
    """The state arrays of each parameter in the order of its rule's arguments; the averages."""
    columns = [
        [state[s] if s else None for s in group_spec.slots]
        for state, group_spec in zip(states, group_specs, strict=True)
    ]
    return columns, [state.get(AVERAGE) for state in states]


def written_ranges(
    names: Sequence[str], params: Sequence[Array], states: Sequence[Mapping[str, Array]]
) -> Written:
    """Where a step writes; no two of the arrays that it writes may overlap."""
    arrays, places = list(params), [f"parameter {name!r}" for name in names]
    for name, state in zip(names, states, strict=True):
        arrays += state.values()
        places += [f"{slot} of {name!r}" for slot in state]
    return check_written(arrays, places)


def check_last_is_known(lists: Mapping[Hashable, ParameterList]) -> None:
    """RuntimeError if a CUDA graph holds the step of one list of several."""
    captured = [key for key, parameters in list(lists.items()) if parameters.is_captured]
    if captured and len(lists) > 1:
        raise RuntimeError(
            f"a CUDA graph holds the step of key {captured[0]!r}, whose replays are not seen, so"
            " that it is not known which step was the last; capture a step of all at once: opt.step"
        )
