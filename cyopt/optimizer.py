"""What all optimizers share: binding, steps, groups, state, saving."""

from __future__ import annotations

import copy
import threading
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np

from cyopt import _cpu, checkpoint, conventions, trees
from cyopt.arrays import Array
from cyopt.group import Group, format_values
from cyopt.hyper import Hyper, unknown_name
from cyopt.parameters import ParameterList
from cyopt.rules import RULES

Self = TypeVar("Self", bound="Optimizer")


class OneGroup:
    """A hyperparameter of an optimizer that has one group; with several, ask the group."""

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


class State(Mapping[str, Mapping[str, Array]]):
    """The state arrays: `opt.state[name]["exp_avg"]`. A read-only mapping of read-only mappings."""

    def __init__(self, lists: Mapping[Any, ParameterList]) -> None:
        self._where = {name: (p, i) for p in lists.values() for i, name in enumerate(p.names)}

    def __getitem__(self, name: str) -> Mapping[str, Array]:
        try:
            parameters, i = self._where[name]
        except KeyError:
            known = [str(key) for key in self._where]
            raise KeyError(f"no parameter {name!r}{unknown_name(str(name), known)}") from None
        return parameters.state_of(i)

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    def __repr__(self) -> str:
        return f"State({ {name: list(self[name]) for name in self} })"


class Optimizer:
    """Base of the optimizers: everything but the formula and its hyperparameters.

    `params` is one array, or any nesting of dict, list and tuple of arrays; or a list of groups,
    mappings with the key "params" and hyperparameters of their own; or None: then each `step` is
    given the parameters, or each `update` one of them. See `cyopt.Adam` for the rest.
    """

    __slots__ = (
        "__weakref__",
        "_bound",
        "_defaults",
        "_given",
        "_grouped",
        "_hypers",
        "_lists",
        "_lock",
        "_plan_type",
        "_structure",
        "_waiting",
        "groups",
        "steps",
    )
    _SAVED = tuple(name for name in __slots__ if name not in ("__weakref__", "_lock"))

    # Where a subclass keeps the starting value of a state: state name -> hyperparameter.
    initial_values: ClassVar[Mapping[str, str]] = {}

    lr = OneGroup()
    weight_decay = OneGroup()
    decoupled_weight_decay = OneGroup()
    weight_decay_order = OneGroup()
    maximize = OneGroup()
    grad_scale = OneGroup()

    @staticmethod
    def rule_of(values: Mapping[str, Any]) -> str:
        """The name in `cyopt.rules.RULES` of the rule that these hyperparameters choose."""
        raise NotImplementedError

    def __init__(self, params: Any, hyperparameters: Mapping[str, Any]) -> None:
        self.steps = 0
        self._defaults = dict(hyperparameters)
        self._plan_type: type[Any] = _cpu.Plan
        self._lists: dict[Hashable, ParameterList] = {}  # None: of `step`; else a key of `update`
        self._waiting: dict[str, Any] = {}  # loaded state whose parameters are not there yet
        self._hypers: list[Hyper] = []
        self._lock = threading.Lock()
        self._bound = params is not None
        self._grouped = _is_groups(params)
        self._given = list(params) if self._grouped else params
        self.groups = [self._group(group) for group in params] if self._grouped else [self._group()]
        self._structure = trees.structure(self._tree())
        if self._bound:
            self._lists[None] = self._make_list(self._structure, self._tree())

    @classmethod
    def like(cls: type[Self], framework: str, params: Any = None, **hyperparameters: Any) -> Self:
        """Make it with another framework's formula and defaults, and cyopt's argument names.

        `framework` is "torch", "keras", "tf1", "optax", "sklearn", "thinc", "autograd" or "ema".
        README's table says what each means. What cyopt's rules cannot express exactly is refused.

        >>> import cyopt
        >>> cyopt.Adam.like("keras").eps
        1e-07
        """
        known = conventions.defaults(framework, cls.__name__, hyperparameters)
        return cls(params, **{**known, **hyperparameters})

    def _tree(self) -> Any:
        """The parameters as they are in their containers now."""
        return [group["params"] for group in self._given] if self._grouped else self._given

    def _group(self, own: Mapping[str, Any] | None = None) -> Group:
        """A group with its `own` hyperparameters; the optimizer's where it has none."""
        own = own or {}
        for name in own:
            if name != "params" and name not in self._defaults:
                raise TypeError(
                    f"{type(self).__name__} has no hyperparameter {name!r}"
                    + unknown_name(str(name), self._defaults)
                )
        values = {name: own.get(name, value) for name, value in self._defaults.items()}
        return Group(values, type(self).rule_of)

    def _make_list(self, structure: trees.Node | None, tree: Any) -> ParameterList:
        """The parameters of `tree` with new state, or with loaded state that waits for them."""
        names = trees.names(structure)
        if self._waiting:
            checkpoint.same_names("state", self._waiting, names)
        if self._grouped and structure:
            sizes = [len(trees.names(child)) for child in structure.children]
            group_of = [g for g, size in enumerate(sizes) for _ in range(size)]
        else:
            group_of = [0] * len(names)
        return self._new_list(names, trees.leaves(tree, structure, "params"), group_of)

    def _new_list(
        self, names: Sequence[Any], values: Sequence[Any], group_of: Sequence[int]
    ) -> ParameterList:
        state_names = [RULES[group.rule].state for group in self.groups]
        initial = [
            {state: getattr(group, name) for state, name in self.initial_values.items()}
            for group in self.groups
        ]
        with np.errstate(over="ignore"):
            made = ParameterList(names, values, group_of, state_names, initial, self._plan_type)
        for group in self.groups:
            group.at(self.steps, made.dtypes)
            group.check_initial(made.dtypes)
        checkpoint.fill(made, self._waiting)
        return made

    def add_group(self, group: Mapping[str, Any]) -> None:
        """Add parameters with hyperparameters of their own to a bound optimizer.

        `group` is a mapping with the key "params". From now on `grads` is a list with one tree for
        each group, and names begin with the number of the group.

        >>> import numpy as np, cyopt
        >>> opt = cyopt.SGD({"w": np.zeros(2)}, lr=0.1)
        >>> opt.add_group({"params": {"head": np.zeros(3)}, "lr": 0.01})
        >>> list(opt.state)
        ['0.w', '1.head']
        """
        if not self._bound:
            raise TypeError("this optimizer has no parameters of its own: make it with params")
        if not _is_groups([group]):
            raise TypeError(f"group is {group!r}; expected a mapping with the key 'params'")
        self._enter()
        try:
            wider = copy.copy(self)
            wider._given = [*(self._given if self._grouped else [{"params": self._given}]), group]
            wider.groups, wider._grouped = [*self.groups, self._group(group)], True
            wider._structure = trees.structure(wider._tree())
            made = wider._make_list(wider._structure, wider._tree())
            made.take_state(self._lists[None])
            wider._lists = {None: made}
            for name, value in wider.__getstate__().items():
                setattr(self, name, value)
        finally:
            self._lock.release()

    def step(self, grads: Any, params: Any = None) -> bool:
        """Update all parameters in place from their gradients. Returns True.

        `grads` has the structure of the parameters; a None in it skips a parameter. A gradient may
        have any strides and may be read-only. `params` is for an optimizer made without.

        Everything is checked before a byte is written; an exception leaves parameters, state and
        counters as they were. Raises TypeError or ValueError that names the argument.
        """
        if (params is None) != self._bound:
            raise TypeError(
                "this optimizer is bound to its parameters: call step(grads)"
                if self._bound
                else "this optimizer is made without parameters: call step(grads, params)"
            )
        tree = self._tree() if self._bound else params
        self._enter()
        try:
            parameters, structure = self._lists.get(None), self._structure
            if parameters is None:
                if self._lists:
                    raise TypeError("this optimizer is used by update(): do not mix in step()")
                structure = trees.structure(tree)
                parameters = self._make_list(structure, tree)
            values = trees.leaves(tree, structure, "params")
            self._run(parameters, values, trees.leaves(grads, structure, "grads"), self.steps)
            self._lists[None], self._structure = parameters, structure
            self.steps += 1
        finally:
            self._lock.release()
        return True

    def update(self, key: Hashable, param: Any, grad: Any) -> Any:
        """Update one array in place and return it; its state is made when `key` is first seen.

        Each key has its own step count, which also feeds the schedules; `steps` is the largest.

        >>> import numpy as np, cyopt
        >>> opt, w = cyopt.SGD(lr=0.5), np.array([1.0, 2.0])
        >>> opt.update("w", w, np.array([1.0, 1.0])) is w
        True
        >>> w
        array([0.5, 1.5])
        """
        if self._bound or None in self._lists:
            raise TypeError("this optimizer takes all parameters in step(): do not mix in update()")
        if key is None or grad is None:
            raise TypeError("key and grad are needed: to skip a parameter, do not call update")
        self._enter()
        try:
            parameters = self._lists.get(key) or self._new_list([key], [param], [0])
            self._run(parameters, [param], [grad], int(parameters.counts[0]))
            self._lists[key] = parameters
            self.steps = max(self.steps, int(parameters.counts[0]))
        finally:
            self._lock.release()
        return param

    def _enter(self) -> None:
        """Begin a step; `self._lock` is to be released at its end."""
        if not self._lock.acquire(blocking=False):
            raise RuntimeError(
                "this optimizer is in a step already, of another thread or of its own schedule;"
                " use one optimizer for each thread"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._SAVED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
        self._lock = threading.Lock()

    def _run(
        self, parameters: ParameterList, values: Sequence[Any], grads: Sequence[Any], steps: int
    ) -> None:
        """One step with the hyperparameters after `steps` completed steps."""
        if not self._hypers or self._outdated():
            dtypes = parameters.dtypes.union(*(other.dtypes for other in self._lists.values()))
            self._hypers = [group.at(steps, dtypes) for group in self.groups]
            for group in self.groups:
                group.settle()
        parameters.step(values, grads, self._hypers)
        if self._waiting:
            for name in parameters.names:
                self._waiting.pop(name, None)

    def _outdated(self) -> bool:
        """Whether a hyperparameter was changed, or is a schedule."""
        return any(group.changed or group.scheduled for group in self.groups)

    def use_plan(self, plan_type: type[Any]) -> None:
        """Run steps by another backend; see `cyopt.reference`."""
        self._plan_type = plan_type
        for parameters in self._lists.values():
            parameters.use_plan(plan_type)

    @property
    def state(self) -> State:
        """The state arrays by parameter name."""
        return State(self._lists)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later run needs to go on with the same bits.

        Plain NumPy arrays (copies, in their own dtypes), numbers and names. Schedules are not
        saved, but that there was one is.
        """
        return checkpoint.state_dict(self)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` gave, bit for bit.

        Raises ValueError, before anything is changed, if it is of another class, formula,
        structure, shape or dtype, or has a schedule where this optimizer has none.
        """
        self._enter()
        try:
            checkpoint.load_state_dict(self, state_dict)
        finally:
            self._lock.release()

    def __repr__(self) -> str:
        name = type(self).__name__
        count = sum(len(parameters.names) for parameters in self._lists.values())
        size = sum(p.size for p in self._lists.values())
        lines = [f"steps={self.steps}, {count} arrays of {size:,} numbers"]
        lines += [format_values(group.values()) for group in self.groups]
        return f"{name}(\n    " + "\n    ".join(lines) + "\n)"


def _is_groups(params: Any) -> bool:
    return (
        isinstance(params, list | tuple)
        and len(params) > 0
        and all(isinstance(group, Mapping) and "params" in group for group in params)
    )
