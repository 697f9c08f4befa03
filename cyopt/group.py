"""A group of hyperparameters: attributes that are checked when they are set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from cyopt import _cpu, conventions
from cyopt.given import GroupSpec
from cyopt.hints import unknown_name
from cyopt.hyper import (
    FIXED,
    INITIAL,
    PLAIN_NUMBERS,
    SWITCHES,
    Hyper,
    Number,
    Schedule,
    check_together,
    checked,
    scheduled_number,
)
from cyopt.rounding import LIMITS, check_rounded
from cyopt.rules import RULES

if TYPE_CHECKING:
    from cyopt.optimizer import Optimizer

_FIELD_INDEX = {field: i for i, field in enumerate(Hyper._fields)}


class Group:
    """The hyperparameters of a group of parameters: attributes that are checked when they are set.

    Numbers may be changed and may be schedules. What decides the formula or the state (flags,
    choices, starting values) is fixed when the optimizer is made.

    >>> import cyopt
    >>> group = cyopt.Adam(lr=1e-3).groups[0]
    >>> group.lr = 1e-4
    >>> group.lr
    0.0001
    >>> group.lr = -1
    Traceback (most recent call last):
    ValueError: lr is -1.0; expected a finite number at least 0
    """

    rule: str  # of cyopt.rules.RULES
    version: _cpu.Version  # counts the changes
    schedules: Mapping[str, tuple[str, Schedule]]  # field of Hyper -> its name here, and schedule
    _values: dict[str, Any]
    _constant: Hyper  # with 0 for what is scheduled
    _checked: set[np.dtype[Any]]  # the dtypes to which `_constant`, except lr, can be rounded
    _optimizer: type[Optimizer]
    _framework: str

    def __init__(
        self, values: Mapping[str, object], optimizer: type[Optimizer], framework: str
    ) -> None:
        self.__dict__.update(_optimizer=optimizer, _framework=framework)
        own = {name: checked(name, value) for name, value in values.items()}
        self._check_together(own)
        rule = optimizer.rule_of(own)
        self.__dict__.update(rule=rule, version=_cpu.Version(), schedules={})
        self.__dict__.update(_constant=_switches(rule, own))
        self.__dict__.update(self._attributes(own, own))

    def _attributes(self, values: dict[str, Any], changed: Iterable[str]) -> dict[str, Any]:
        """The attributes for these hyperparameters, of which only `changed` ones are new."""
        numbers = _numbers({name: values[name] for name in changed})
        schedules: dict[str, Any] = {f: x for f, x in self.schedules.items() if f not in numbers}
        schedules.update({f: number for f, number in numbers.items() if callable(number[1])})
        fields = {f: 0.0 if f in schedules else x for f, (_, x) in numbers.items()}
        return {
            "_values": values,
            "schedules": schedules,
            "_constant": _replaced(self._constant, fields),
            "_checked": self._checked if fields.keys() == {"lr"} else set(),
        }

    def follow(self, framework: str) -> None:
        """Refuse, now and later, what cyopt cannot express exactly of that framework's class."""
        conventions.refuse(framework, self._optimizer.__mro__, self._values)
        self.__dict__["_framework"] = framework

    def _check_together(self, values: Mapping[str, Any]) -> None:
        check_together(values)
        conventions.refuse(self._framework, self._optimizer.__mro__, values)

    def changed(self, changes: Mapping[str, object]) -> dict[str, Any]:
        """The attributes as `update` would leave them."""
        return self._attributes(self._merged(changes), changes)

    def values(self) -> Mapping[str, Any]:
        """All hyperparameters by name."""
        return MappingProxyType(self._values)

    def __getattr__(self, name: str) -> Any:
        values = self.__dict__.get("_values", {})
        if name.startswith("__") or name not in values:
            raise AttributeError(f"no hyperparameter {name!r}{unknown_name(name, values)}")
        return values[name]

    def __setattr__(self, name: str, value: object) -> None:
        self.update({name: value})

    def update(self, changes: Mapping[str, object]) -> None:
        """Set several at once: all of them, or none if one is refused."""
        done = False
        while not done:  # otherwise another thread has set others meanwhile
            known = self.version.value
            done = self.version.change(self.__dict__, self.changed(changes), known)

    def _merged(self, changes: Mapping[str, object]) -> dict[str, Any]:
        """All hyperparameters as `update` would leave them."""
        values = dict(self._values)
        for name, value in changes.items():
            if name not in self._values:
                raise AttributeError(
                    f"no hyperparameter {name!r}{unknown_name(name, self._values)}"
                )
            old = self._values[name]
            values[name] = checked(name, value)
            if (name in FIXED and values[name] != old) or (
                name == "ema" and (values[name] is None) != (old is None)
            ):
                raise ValueError(
                    f"{name} was {old!r} when the optimizer was made, and decides its formula or"
                    f" state; make a new optimizer with {name}={value!r}"
                )
        self._check_together(values)
        # Momentum turned off keeps a buffer; turned on, it would need one that is not there.
        if values.get("momentum") and self._optimizer.rule_of(values) != self.rule:
            raise ValueError(
                "momentum was 0 when the optimizer was made, so it keeps no momentum buffer;"
                f" make a new optimizer with momentum={values['momentum']!r}"
            )
        return values

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._values]

    def __repr__(self) -> str:
        return f"Group({format_values(self._values)})"

    def check_initial(self, dtypes: Iterable[np.dtype[Any]]) -> None:
        """Check that the state's starting values are within the range of its dtypes."""
        for name in INITIAL:
            for dtype in dtypes if name in self._values else ():
                limits, value = LIMITS[dtype], self._values[name]
                if value >= limits.infinite or 0 < value < limits.tiny:
                    raise ValueError(
                        f"{name} is {value!r}, beyond the range of {dtype.name}; use a number of"
                        " ordinary size, or float64 parameters"
                    )

    def at(self, steps: int, dtypes: Iterable[np.dtype[Any]] = ()) -> Hyper:
        """The numbers after `steps` completed steps, with all schedules evaluated and checked."""
        # All three before a schedule is called: it may set numbers of this group.
        hyper, schedules, done = self._constant, self.schedules, self._checked
        if schedules:
            numbers = {f: scheduled_number(*named, steps) for f, named in schedules.items()}
            hyper = _replaced(hyper, numbers)
        if not schedules.keys() <= {"lr"} or not _cpu.is_ordinary(hyper.lr, hyper.weight_decay):
            done = set()
        for dtype in dtypes:
            if dtype not in done:
                check_rounded(hyper, dtype)
                done.add(dtype)
        return hyper


def _numbers(values: Mapping[str, Any]) -> dict[str, tuple[str, Number]]:
    """Field of Hyper -> the name of the hyperparameter, and its number or schedule."""
    numbers = {}
    for name, value in values.items():
        if name in PLAIN_NUMBERS:
            numbers[name] = name, 0.0 if value is None else value
        elif name == "alpha":
            numbers["beta2"] = name, value
        elif name == "betas":
            numbers["beta1"], numbers["beta2"] = zip(("betas[0]", "betas[1]"), value, strict=True)
    return numbers


def _replaced(hyper: Hyper, fields: Mapping[str, Any]) -> Hyper:
    """`hyper._replace(**fields)`, in half the time."""
    values: list[Any] = list(hyper)
    for field, value in fields.items():
        values[_FIELD_INDEX[field]] = value
    return Hyper._make(values)


def _switches(rule: str, values: Mapping[str, Any]) -> Hyper:
    """What is fixed when the optimizer is made; the numbers are 0."""
    own = {name: values[name] for name in SWITCHES if name in values}
    decay = values["weight_decay_order"] if values["decoupled_weight_decay"] else "coupled"
    per_array = values["clip_scope"] == "array"
    return Hyper(rule, decay, 0.0, 0.0, 0.0, clip_per_array=per_array, **own)


def format_values(values: Mapping[str, object]) -> str:
    """`name=value` of each, for a repr."""
    return ", ".join(f"{name}={value!r}" for name, value in values.items())


def group_spec(group: Group, initial_values: Mapping[str, str]) -> GroupSpec:
    """The group options that fix what is stored per parameter and how gradients are treated."""
    return GroupSpec(
        slots=RULES[group.rule].state,
        initial={state: getattr(group, name) for state, name in initial_values.items()},
        averages=group.ema is not None,
        average_from_zeros=group.ema_init == "zeros",
        zero_grads=group.zero_grads,
        cast_grads=group.cast_grads,
        capturable=group.capturable,
    )


def is_groups(params: Any) -> bool:
    """Whether the parameters come in groups with their own hyperparameters."""
    return (
        isinstance(params, list | tuple)
        and len(params) > 0
        and all(isinstance(group, Mapping) and "params" in group for group in params)
    )


def current_params(given: Any, grouped: bool) -> Any:
    """The parameters as they are in their containers now."""
    return [group["params"] for group in given] if grouped else given


def hypers_at(
    groups: Iterable[Group], steps: int, dtypes_of: Iterable[Iterable[np.dtype[Any]]]
) -> list[Hyper]:
    """The numbers of each group after `steps` completed steps, checked for its own dtypes."""
    return [group.at(steps, dtypes) for group, dtypes in zip(groups, dtypes_of, strict=True)]


class Hyperparameter:
    """Descriptor: reads and sets a hyperparameter of an optimizer with one group.

    With several groups it raises AttributeError and points to `groups[i]`.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, optimizer: Optimizer | None, owner: type) -> Any:
        return self if optimizer is None else getattr(self._group(optimizer), self._name)

    def __set__(self, optimizer: Optimizer, value: object) -> None:
        setattr(self._group(optimizer), self._name, value)

    def _group(self, optimizer: Optimizer) -> Group:
        if len(optimizer.groups) != 1:
            raise AttributeError(
                f"this optimizer has {len(optimizer.groups)} groups, each with its own"
                f" {self._name}: use optimizer.groups[i].{self._name}"
            )
        return optimizer.groups[0]


@cache
def hyperparameters(cls: type) -> frozenset[str]:
    """The names of the hyperparameters of an optimizer class."""
    members = [item for base in cls.__mro__ for item in vars(base).items()]
    return frozenset(name for name, member in members if isinstance(member, Hyperparameter))


class CommonAttributes:
    """The hyperparameters that every optimizer has."""

    __slots__ = ()

    lr = Hyperparameter()
    weight_decay = Hyperparameter()
    decoupled_weight_decay = Hyperparameter()
    weight_decay_order = Hyperparameter()
    maximize = Hyperparameter()
    grad_scale = Hyperparameter()
    clip_norm = Hyperparameter()
    clip_scope = Hyperparameter()
    clip_eps = Hyperparameter()
    clip_value = Hyperparameter()
    skip_nonfinite = Hyperparameter()
    zero_grads = Hyperparameter()
    cast_grads = Hyperparameter()
    capturable = Hyperparameter()
    ema = Hyperparameter()
    ema_init = Hyperparameter()
