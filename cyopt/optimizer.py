"""What all optimizers share: binding, steps, groups, state, saving."""

from __future__ import annotations

import copyreg
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, NoReturn, TypeVar

import numpy as np

from cyopt import _cpu, checkpoint, conventions, trees
from cyopt.group import (
    CommonAttributes,
    Group,
    current_params,
    format_values,
    group_spec,
    hyperparameters,
    hypers_at,
    is_groups,
)
from cyopt.hints import unknown_name
from cyopt.hyper import Hyper, without_meaning
from cyopt.measured import Done, Measured, measurements
from cyopt.parameters import ParameterList, Versions, check_last_is_known, check_lasting
from cyopt.state import Averages, State

Self = TypeVar("Self", bound="Optimizer")


def _equals_itself(key: object) -> bool:
    """Tuples count the same object as equal, so NaN in one must be looked for."""
    return bool(key == key) and (type(key) is not tuple or all(map(_equals_itself, key)))


class Optimizer(_cpu.Stepper, Measured, CommonAttributes):
    """Base class of the optimizers: everything except the formula and its hyperparameters.

    `params` is one array or any nesting of dicts, lists and tuples of arrays; or a list of groups,
    which are mappings with the key "params" and their own hyperparameters; or None: then each
    `step` is given the parameters, or each `update` one of them. See `cyopt.SGD` for the rest.
    """

    __slots__ = (
        "__weakref__",
        "_defaults",
        "_framework",
        "_groups",
        "_measured",
        "_plan_type",
        "_steps",
        "_waiting",
    )
    # What a pickle holds: also the attributes of the compiled base, except its gate.
    _SAVED = (*__slots__[1:], "_bound", "_given", "_grouped", "_lists", "_structure")

    # For subclasses: state name -> the hyperparameter that is its starting value.
    initial_values: ClassVar[Mapping[str, str]] = {}

    @staticmethod
    def rule_of(values: Mapping[str, Any]) -> str:
        """The name in `cyopt.rules.RULES` of the rule that these hyperparameters choose."""
        raise NotImplementedError

    def __init__(self, params: Any, hyperparameters: Mapping[str, Any]) -> None:
        if type(self).rule_of is Optimizer.rule_of:
            raise TypeError(f"{type(self).__name__} has no rule; use a class such as cyopt.Adam")
        self._steps = np.zeros(1, np.int64)
        self._measured = np.array(measurements())
        self.check_names(hyperparameters)
        self._framework = "torch"
        self._defaults = dict(hyperparameters)
        self._plan_type: type[Any] = _cpu.Plan
        self._lists = {}
        self._waiting: dict[str, Any] = {}  # loaded state whose parameters are not there yet
        self._gate = _cpu.Gate()
        self._bound = params is not None
        self._grouped = is_groups(params)
        self._given = list(params) if self._grouped else params
        own = params if self._grouped else [self._defaults]
        self._groups = tuple(map(self._group, own))
        self._structure = trees.structure(self._tree())
        if self._bound:
            self._lists[None] = self._make_list(self._tree())

    @property
    def steps(self) -> int:
        """Completed steps, the argument of schedules. Waits for a GPU if only it knows them."""
        self._fetch()
        return int(self._steps[0])

    def _fetch(self) -> None:
        """Fetch the counters and norms that only a GPU knows."""
        for parameters in list(self._lists.values()):
            parameters.fetch()

    def _fetch_last(self) -> None:
        check_last_is_known(self._lists)
        self._fetch()

    @property
    def averages(self) -> Averages:
        """The averages of the parameters by name: read-only views of arrays that steps update.

        Other libraries can read those on a GPU, but would not refuse to write them.
        """
        if all(group.ema is None for group in self.groups):
            raise AttributeError("this optimizer keeps no averages; make it with ema=0.999")
        return Averages(self.state)

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups of hyperparameters."""
        return self._groups

    @classmethod
    def like(cls: type[Self], framework: str, params: Any = None, **hyperparameters: Any) -> Self:
        """Make an optimizer with another framework's formula and defaults, by cyopt's names.

        `framework` is "torch", "keras", "tf1", "optax", "sklearn", "thinc", "autograd" or "ema";
        the README's table says what each means. What cyopt cannot express exactly is refused.

        >>> import cyopt
        >>> cyopt.Adam.like("keras").eps
        1e-07
        """
        known = conventions.defaults(framework, cls.__mro__, hyperparameters)
        cls.check_names(hyperparameters)
        made = cls(params, **{**known, **hyperparameters})
        made._framework = framework
        for group in made.groups:
            group.follow(framework)
        return made

    @classmethod
    def check_names(cls, names: Iterable[str]) -> None:
        """Raise TypeError for a name that is not a hyperparameter of this class."""
        own = hyperparameters(cls)  # type: ignore[arg-type]  # mypy #11470: a class is hashable
        for name in names:
            if name != "params" and name not in own:
                raise TypeError(
                    f"{cls.__name__} has no hyperparameter {name!r}"
                    + unknown_name(str(name), sorted(own))
                )

    def _tree(self) -> Any:
        """The parameters as they are in their containers now."""
        return current_params(self._given, self._grouped)

    def _group(self, own: Mapping[str, Any]) -> Group:
        """A group with its `own` hyperparameters, and otherwise the optimizer's."""
        self.check_names(own)
        values = {name: own.get(name, value) for name, value in self._defaults.items()}
        off = without_meaning({"ema": values["ema"], **own})  # maybe only some groups average
        values.update({name: value for name, value in off.items() if name not in own})
        return Group(values, type(self), self._framework)

    def _make_list(self, tree: Any) -> ParameterList:
        """The parameters of `tree` with new state, or with loaded state that waits for them."""
        structure = self._structure
        names, values = trees.names(structure), trees.leaves(tree, structure, "params")
        check_lasting(values, trees.leaves(tree, structure, "params"), names)
        if self._waiting:
            checkpoint.same_names("state", self._waiting, names)
        group_of = [0] * len(names)
        if self._grouped and structure:
            sizes = [len(trees.names(child)) for child in structure.children]
            group_of = [g for g, size in enumerate(sizes) for _ in range(size)]
        return self._new_list(names, values, group_of)

    def _new_list(
        self,
        names: Sequence[Any],
        values: Sequence[Any],
        group_of: Sequence[int],
        keyed: bool = False,
    ) -> ParameterList:
        group_specs = [group_spec(group, self.initial_values) for group in self.groups]
        shared = (self._steps, self._measured, self._plan_type, keyed)
        with np.errstate(over="ignore"):  # `check_initial` refuses what overflows
            made = ParameterList(names, values, group_of, group_specs, *shared)
        for group, dtypes in zip(self.groups, made.dtypes_of, strict=True):
            if not keyed:  # a key has a count of its own, and is checked when it steps
                group.at(self.steps, dtypes)
            group.check_initial(dtypes)
        checkpoint.fill(made, self._waiting)
        return made

    def add_group(self, group: Mapping[str, Any]) -> None:
        """Add parameters with their own hyperparameters to a bound optimizer.

        `group` is a mapping with the key "params". From then on `grads` is a list with one tree for
        each group, and names begin with the number of the group.

        >>> import numpy as np, cyopt
        >>> opt = cyopt.SGD({"w": np.zeros(2)}, lr=0.1)
        >>> opt.add_group({"params": {"head": np.zeros(3)}, "lr": 0.01})
        >>> list(opt.state)
        ['0.w', '1.head']
        """
        if not self._bound:
            raise TypeError("this optimizer has no parameters of its own: make it with params")
        if not is_groups([group]):
            raise TypeError(f"group is {group!r}; expected a mapping with the key 'params'")
        self._gate.run(self._add_group, group)

    def _add_group(self, group: Mapping[str, Any]) -> None:
        """All of it, or nothing."""
        old, former = self._lists[None], self._structure
        old.params(trees.leaves(self._tree(), former, "params"))
        parts = former.children if self._grouped and former else (former,)
        parts = (*parts, trees.structure(group["params"]))
        before = {name: getattr(self, name) for name in self._SAVED}
        try:
            given = self._given if self._grouped else [{"params": self._given}]
            self._given, self._grouped = [*given, group], True
            self._groups = (*self._groups, self._group(group))
            is_flat = all(part is None for part in parts)
            self._structure = trees.Node(tuple(range(len(parts))), parts, False, is_flat)
            made = self._make_list(self._tree())
            made.take_state(old)
            self._lists = {None: made}
        except BaseException:
            for name, value in before.items():
                setattr(self, name, value)
            raise

    def _step(self, params: Any, grads: Any, norms: bool, stream: Any) -> Done:
        """The slow path of `step`: everything is checked. Called inside the gate."""
        before = int(self._steps[0])
        new = None not in self._lists
        try:
            if new:
                self._begin(params)
            parameters = self._lists[None]
            hypers, versions = self._hypers_at(before, parameters)
            tree = self._tree() if self._bound else params
            waiting = checkpoint.beside(parameters, self._waiting) if new else self._waiting
            done = parameters.step(tree, grads, self._structure, hypers, versions, norms, stream)
        except BaseException:
            if new and not self._is_pending(None) and self._steps[0] == before:
                self._lists.pop(None, None)
            raise
        self._waiting = waiting
        return done

    def _is_pending(self, key: Hashable) -> bool:
        """Whether this list has made a step that only a GPU has counted.

        Call it before reading the list's count, which another thread may fetch meanwhile.
        """
        return key in self._lists and self._lists[key].is_pending

    def _begin(self, params: Any) -> None:
        """Adopt the parameters that the first step is given."""
        if self._lists:
            raise TypeError("this optimizer is used by update(): do not mix step() and update()")
        self._structure = trees.structure(params)
        self._lists[None] = self._make_list(params)

    def _update(self, key: Hashable, param: Any, grad: Any, stream: Any) -> None:
        """The slow path of `update`: everything is checked. Called inside the gate."""
        new = key not in self._lists
        if new and not _equals_itself(key):
            raise TypeError(
                f"key is {key!r}, which does not equal itself: each update would make new state;"
                " expected a key such as a name"
            )
        parameters = self._lists.get(key) or self._new_list([key], [param], [0], keyed=True)
        before = int(parameters.counts[0])
        try:
            self._lists[key] = parameters
            hypers, versions = self._hypers_at(before, parameters)
            waiting = checkpoint.beside(parameters, self._waiting) if new else self._waiting
            parameters.step(param, grad, None, hypers, versions, False, stream)
        except BaseException:
            if new and not self._is_pending(key) and parameters.counts[0] == before:
                self._lists.pop(key, None)
            raise
        self._waiting = waiting

    def __reduce__(self) -> tuple[Any, ...]:
        # Protocols 0 and 1 know no other way to make an object with a compiled base.
        new = copyreg.__newobj__  # type: ignore[attr-defined]  # typeshed does not have it
        return new, (type(self),), self.__getstate__()

    def __getstate__(self) -> dict[str, Any]:
        return self._gate.look(checkpoint.attributes, self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._gate = _cpu.Gate()
        checkpoint.set_attributes(self, state)

    def __copy__(self) -> NoReturn:
        raise TypeError("a shallow copy would share the state of this one; use copy.deepcopy")

    def _hypers_at(
        self, steps: int, parameters: ParameterList
    ) -> tuple[list[Hyper], Versions | None]:
        """The numbers of the step after `steps` completed ones; with a schedule, of no other."""
        versions: Versions | None = None
        if not any(group.schedules for group in self._groups):
            versions = [(group.version, group.version.value) for group in self._groups]
        return hypers_at(self._groups, steps, parameters.dtypes_of), versions

    def use_plan(self, plan_type: type[Any]) -> None:
        """Run steps on another backend; see `cyopt.reference`."""
        self._gate.run(self._use_plan, plan_type)

    def _use_plan(self, plan_type: type[Any]) -> None:
        self._plan_type = plan_type
        for parameters in self._lists.values():
            parameters.use_plan(plan_type)

    @property
    def state(self) -> State:
        """The state arrays by parameter name."""
        return State(self._lists)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later run needs to continue with the same bits.

        Plain NumPy arrays (copies, in their own dtypes), numbers and names. Schedules are not
        saved, only that there was one.
        """
        return self._gate.look(checkpoint.state_dict, self)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned, bit for bit.

        State is copied by index. Where a parameter has another memory order than it had, norms add
        its squares in another order, and `clip_norm` may round otherwise.

        Raises ValueError or TypeError, before anything is changed, if it is of another class,
        formula or structure, has state arrays of another shape or dtype than their parameters, or
        has a schedule where this optimizer has none.
        """
        self._gate.run(checkpoint.load_state_dict, self, state_dict)

    def __repr__(self) -> str:
        name = type(self).__name__
        lists = list(self._lists.values())  # a copy: another thread may add to it
        count = sum(len(parameters.names) for parameters in lists)
        size = sum(parameters.size for parameters in lists)
        lines = [f"steps={self.steps}, {count} arrays of {size:,} numbers"]
        lines += [format_values(group.values()) for group in self.groups]
        return f"{name}(\n    " + "\n    ".join(lines) + "\n)"
