"""What `state_dict` and pickles hold, and how it is loaded."""

from __future__ import annotations

import copy
import copyreg
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cyopt import _cpu
from cyopt._version import __version__
from cyopt.arrays import Array, as_array, as_own, assign, check_like, to_host
from cyopt.cuda.arrays import DeviceArray
from cyopt.cuda.arrays import commit as commit_on_gpu
from cyopt.cuda.libraries import is_on_gpu
from cyopt.given import Spec
from cyopt.hyper import FIXED, UNSAVED, is_count
from cyopt.measured import measurements
from cyopt.parameters import AVERAGE, ParameterList
from cyopt.rules import RULES

if TYPE_CHECKING:
    from cyopt.optimizer import Optimizer


_UNUSED = "_unused"  # among what a pickle holds, last


def state_dict(opt: Optimizer) -> dict[str, Any]:
    """Numbers, names and copies of the state arrays; see `Optimizer.state_dict`."""
    opt._fetch()
    state: dict[Any, dict[str, Any]] = copy.deepcopy(opt._waiting)
    for parameters in opt._lists.values():
        for name, arrays, count in zip(
            parameters.names, parameters.state, parameters.counts, strict=True
        ):
            state[name] = {"step": int(count), **{k: to_host(a) for k, a in arrays.items()}}
    groups = []
    for group in opt.groups:
        values = {name: _saved(value) for name, value in _kept(group.values()).items()}
        groups.append(values)
    return {
        "cyopt": __version__,
        "optimizer": type(opt).__name__,
        "steps": opt.steps,
        "groups": groups,
        "state": state,
    }


def _kept(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in UNSAVED}


def _saved(value: Any) -> Any:
    """A hyperparameter; "schedule" stands for a callable, which is not saved."""
    if isinstance(value, tuple):
        return tuple(map(_saved, value))
    return "schedule" if callable(value) else value


def load_state_dict(opt: Optimizer, saved: Mapping[str, Any]) -> None:
    """Check all of it and make all that it needs, then change everything at once."""
    check_whole(opt, saved)
    changes = [
        _changes(f"groups[{i}]", group.values(), values)
        for i, (group, values) in enumerate(zip(opt.groups, saved["groups"], strict=True))
    ]
    groups = [
        (group.version, group.__dict__, group.changed(values))
        for group, values in zip(opt.groups, changes, strict=True)
    ]
    state = {name: dict(entry) for name, entry in saved["state"].items()}
    lists = list(opt._lists.values())
    known = {name for parameters in lists for name in parameters.names}
    if opt._bound or None in opt._lists:
        same_names("state", state, known)
    elif missing := known - set(state):
        raise ValueError(f"state_dict has no state of {sorted(map(str, missing))}")
    for parameters in lists:
        parameters.check_free()
        _check_entries(parameters, state)
    for name in set(state) - known:
        _check_waiting(opt, state[name], repr(name))
    targets = [pair for parameters in lists for pair in _targets(parameters, state)]
    targets += [(opt._steps, saved["steps"]), (opt._measured, measurements())]
    # Copies: what is saved may be this optimizer's own arrays.
    pairs = [(array, _filled_like(array, value)) for array, value in targets]
    waiting = copy.deepcopy({name: state[name] for name in state if name not in known})
    on_cpu = [pair for pair in pairs if not isinstance(pair[0], DeviceArray)]
    on_gpu: list[Any] = [p for p in pairs if isinstance(p[0], DeviceArray) and p[0].size]
    for parameters in lists:
        if parameters.device is not None:
            parameters.drop_plan()  # which was made for the old counts
    if on_gpu:
        commit_on_gpu(on_gpu, on_cpu, groups, opt, waiting)
    else:
        _cpu.commit([], on_cpu, groups, opt, waiting)


def _filled_like(array: Array, value: Any) -> Array:
    filled = DeviceArray.like(array, 0) if isinstance(array, DeviceArray) else np.empty_like(array)
    assign(filled, value)
    return filled


def fill(parameters: ParameterList, waiting: Mapping[str, Any]) -> None:
    """Copy waiting state into that of these parameters, by index, whatever its strides."""
    _check_entries(parameters, waiting)
    for array, value in _targets(parameters, waiting):
        assign(array, value)


def _targets(parameters: ParameterList, saved: Mapping[str, Any]) -> Iterator[tuple[Array, Any]]:
    """Each array of these parameters that saved state overwrites, with the new values."""
    for i, name in enumerate(parameters.names):
        if name in saved:
            yield parameters.counts[i : i + 1], saved[name]["step"]
            for state, array in parameters.state[i].items():
                yield array, as_array(saved[name][state], state)


def beside(parameters: ParameterList, waiting: Mapping[str, Any]) -> dict[str, Any]:
    """The state that waits for other parameters than these."""
    names = set(parameters.names)
    return {name: entry for name, entry in waiting.items() if name not in names}


class _Unused:
    """The last thing that is copied; it refuses if the optimizer was used since the first."""

    def __init__(self, gate: _cpu.Gate) -> None:
        self._gate, self._entries = gate, gate.entries

    def __reduce__(self) -> tuple[Any, ...]:
        if self._gate.entries != self._entries:
            raise RuntimeError(
                "another thread used this optimizer while it was copied, and the copy would mix"
                " steps; let that wait, or use state_dict()"
            )
        return bool, ()


def attributes(opt: Optimizer) -> dict[str, Any]:
    """What a pickle holds, including what a subclass has added."""
    opt._fetch()
    slots = copyreg._slotnames(type(opt))  # type: ignore[attr-defined]  # typeshed lacks it
    own = [name for name in slots if hasattr(opt, name)]
    names = dict.fromkeys((*opt._SAVED, *own))
    found = {**getattr(opt, "__dict__", {}), **{name: getattr(opt, name) for name in names}}
    return {**found, _UNUSED: _Unused(opt._gate)}


def set_attributes(opt: Optimizer, pickled: Mapping[str, Any]) -> None:
    """Restore what was pickled into `opt`."""
    for name, value in pickled.items():
        if name != _UNUSED:
            setattr(opt, name, value)
    opt._steps, opt._measured = as_own(opt._steps), as_own(opt._measured)
    for parameters in opt._lists.values():
        parameters.steps, parameters.measured = opt._steps, opt._measured


def check_whole(opt: Optimizer, saved: Mapping[str, Any]) -> None:
    """It must be a state_dict of an optimizer of this class with as many groups."""
    if (
        not isinstance(saved, Mapping)
        or not isinstance(saved.get("optimizer"), str)
        or not {"optimizer", "steps", "groups", "state"} <= set(saved)
        or not isinstance(saved["groups"], list | tuple)
        or not all(isinstance(values, Mapping) for values in saved["groups"])
        or not isinstance(saved["state"], Mapping)
        or not all(isinstance(entry, Mapping) for entry in saved["state"].values())
    ):
        raise ValueError(
            "state_dict is not what cyopt's state_dict() gives: a mapping with 'optimizer',"
            " 'steps', 'groups' (a list of mappings) and 'state' (a mapping of mappings)"
        )
    if saved["optimizer"] != type(opt).__name__:
        raise ValueError(
            f"state_dict is of {saved['optimizer']}; this optimizer is {type(opt).__name__}:"
            " load it into one of its own class"
        )
    if len(saved["groups"]) != len(opt.groups):
        raise ValueError(
            f"state_dict has {len(saved['groups'])} groups; this optimizer has {len(opt.groups)}:"
            " make it with as many"
        )
    if not is_count(saved["steps"]):
        raise ValueError(f"state_dict['steps'] is {saved['steps']!r}; expected an integer from 0")


def _changes(where: str, own: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers to set. What decides the formula must be equal; schedules must match."""
    same_names(where, saved, _kept(own))
    changes = {}
    for name, value in saved.items():
        if isinstance(value, np.ndarray):
            raise TypeError(f"state_dict {where} has {name}={value!r}; expected a number or name")
        value = tuple(value) if isinstance(value, list) else value  # betas that were JSON
        mine = _saved(own[name])
        if (name in FIXED and value != mine) or _schedules(value) != _schedules(mine):
            raise ValueError(
                f"state_dict {where} has {name}={value!r} but this optimizer has {mine!r};"
                f" make it with the saved value (schedules are not saved: pass the same one)"
            )
        if name not in FIXED and "schedule" not in _schedules(value):
            changes[name] = value
        elif isinstance(value, tuple):  # betas, one of them a schedule
            changes[name] = tuple(
                m if v == "schedule" else v for v, m in zip(value, own[name], strict=True)
            )
    return changes


def _schedules(value: Any) -> list[Any]:
    parts = value if isinstance(value, tuple) else (value,)
    return ["schedule" if part == "schedule" or callable(part) else "" for part in parts]


def same_names(where: str, saved: Mapping[Any, Any], own: Any) -> None:
    """What was saved must have the names that this optimizer has."""
    known = set(own)
    missing = [name for name in own if name not in saved]
    extra = [name for name in saved if name not in known]
    if missing or extra:
        raise ValueError(
            f"state_dict {where} does not fit: it lacks {missing!r} and has {extra!r},"
            " which this optimizer does not know"
        )


def _check_entries(parameters: ParameterList, waiting: Mapping[str, Any]) -> None:
    """The saved state of these parameters must have their states, shapes and dtypes."""
    for name, state, spec in zip(parameters.names, parameters.state, parameters.specs, strict=True):
        if name not in waiting:
            continue
        checked_entry(waiting[name], state, spec, repr(name))


def _check_waiting(opt: Optimizer, entry: Mapping[str, Any], name: str) -> None:
    """Check what can be checked of saved state whose parameter is not there yet."""
    (group,) = opt.groups
    slots = [slot for slot in RULES[group.rule].state if slot]
    slots += [AVERAGE] if group.ema is not None else []
    same_names(f"state[{name}]", entry, ["step", *slots])
    arrays = []
    for slot in slots:
        what = f"state_dict state[{name}][{slot!r}]"
        arrays.append(array := _saved_array(entry[slot], what))
        check_like(array, array.shape, array.dtype, what)
    kinds = [f"{slot} of {a.dtype} {a.shape}" for slot, a in zip(slots, arrays, strict=True)]
    if len({(array.dtype, array.shape) for array in arrays}) > 1:
        raise ValueError(
            f"state_dict state[{name}] has {', '.join(kinds)}; expected one dtype and shape, those"
            " of its parameter: load the state that was saved"
        )
    checked_entry(entry, slots, Spec.of(arrays[0] if arrays else np.zeros(())), name)


def checked_entry(
    entry: Mapping[str, Any], slots: Iterable[str], spec: Spec, name: str
) -> dict[str, Array]:
    """The state arrays of one parameter, which must have its shape and dtype, and a step count."""
    same_names(f"state[{name}]", entry, ["step", *slots])
    if not is_count(entry["step"]):
        raise ValueError(f"state_dict step of {name} is {entry['step']!r}, not a count")
    arrays = {}
    for slot in slots:
        what = f"state_dict state[{name}][{slot!r}]"
        arrays[slot] = _saved_array(entry[slot], what)
        check_like(arrays[slot], spec.shape, spec.dtype, what)
    return arrays


def _saved_array(value: Any, what: str) -> Array:
    if is_on_gpu(value):
        raise TypeError(
            f"{what} is on a GPU; expected a NumPy array, as in what state_dict returns: copy it by"
            " its library's .get(), .cpu() or copy_to_host()"
        )
    return as_array(value, what)
