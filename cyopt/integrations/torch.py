"""torch's optimizers on cyopt's step: SGD, RMSprop, Adagrad, Adam and AdamW.

Each is torch's own class with another `step`: arguments, defaults, checks, groups, hooks,
schedulers, closures and `state_dict` are torch's, and state can be loaded into torch's optimizers
and from them. Nothing is copied; addresses are read at each step, so that `.data = ...` and
`.to(...)` are followed. As in torch, `backward` through a graph that a step has made stale raises.

Parameters of a group that have made the same number of steps share one native call, in one pass
over memory; on a GPU, one launch. Gradients may have any strides. Results are those of torch's
single-tensor implementation except for the order of operations, which changes the last bits; for
subnormal numbers, which become zero (`cyopt.set_subnormals`); for hyperparameters that are float32
tensors, which are converted to Python numbers, where torch computes with them in float32; and for
the fraction of a step count, which is ignored. `torch.compile` does not trace a step.

Unlike in torch, `foreach`, `fused`, `capturable` and `differentiable` are refused if True (loading
sets the first two to None: they say how another optimizer stepped). Also refused are tensors that
are not on a CPU or NVIDIA GPU, sparse gradients, dtypes other than float32 and float64, subclasses
that are more than their memory (DTensor), parameters that are negated views, have gaps or overlap,
unaligned tensors, gradients in the memory of a parameter or of state, a step count that two
parameters share or to which 1 cannot be added, and numbers that cyopt's classes refuse: an `lr`
below 0 or infinite, decay rates that are or round to 1 or more, an `eps` that rounds to 0,
dampening below 0, of more than 1 or combined with Nesterov momentum. An `lr` that a scheduler's
rounding left just below 0 counts as 0. State whose memory order differs from its parameter's is
copied into that order. Centered RMSprop takes the root of 0 where rounding gives torch a NaN.

When a call is refused, its parameters are unchanged; earlier calls of the step, for other groups or
for parameters with another number of steps, have been made. Errors number the parameters within
their call. Besides the arithmetic, each tensor costs about 2 us, as in torch's fused step, and
three times that before torch 2.10; with `cyopt.Adam(tensors).step(grads)` on a GPU, 0.4 us.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import chain, compress, count
from operator import ne, not_
from typing import Any, ClassVar

import cyopt
from cyopt.integrations import require, whole

# The first whose AdamW has Adam's groups.
require("torch", "2.7", "torch")

import torch  # noqa: E402
from torch.autograd.graph import increment_version  # noqa: E402

from cyopt.integrations._tensors import (  # noqa: E402
    ZERO,
    add_one,
    arrays_of,
    in_memory_order,
    integers,
    is_alike,
    is_contiguous,
    number,
    read_group,
)

_device, _strides = torch.Tensor.get_device, torch.Tensor.stride
_REFUSED = ("foreach", "fused", "capturable", "differentiable")
_FLAGS = ("maximize", "nesterov", "decoupled_weight_decay")


class _Steps:
    """The `step` of a torch optimizer, made by a cyopt function."""

    # The function, and the hyperparameters that have the same name in torch.
    _function: ClassVar[Callable[..., bool]]
    _same: ClassVar[tuple[str, ...]]
    _late: ClassVar[tuple[str, ...]] = ()  # state that may begin after the first step
    _counted: ClassVar[bool] = True  # whether torch counts a parameter's steps
    defaults: dict[str, Any]
    param_groups: list[dict[str, Any]]
    state: Any

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # it would trace into NumPy
    def step(self, closure: Any = None) -> Any:
        """Update all parameters that have a gradient; returns what `closure` returns, if any.

        Raises TypeError or ValueError for tensors that cyopt does not update; this module's
        docstring lists them, and says what has changed by then.
        """
        if getattr(self, "grad_scale", None) is not None or getattr(self, "found_inf", None):
            raise TypeError(
                "a GradScaler leaves it to this step to unscale gradients and to be skipped, and it"
                " does neither; make the optimizer without fused=True"
            )
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._step_group(group)
        return loss

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Called by torch for loading and unpickling."""
        super().__setstate__(state)  # type: ignore[misc]  # of torch's class
        for group in self.param_groups:
            group.update({name: None for name in ("foreach", "fused") if group.get(name)})
        # Of fused=True: it makes a GradScaler leave unscaling and skipping to the step.
        self.__dict__.pop("_step_supports_amp_scaling", None)

    def _slots(self, group: dict[str, Any]) -> tuple[str, ...]:
        """The names of the group's state arrays, torch's and cyopt's."""
        raise NotImplementedError

    def _numbers(self, group: dict[str, Any]) -> dict[str, Any]:
        """The hyperparameters of cyopt's function, as Python numbers."""
        numbers = {name: number(group[name]) for name in self._same if name in group}
        numbers.update({name: bool(group[name]) for name in _FLAGS if name in group})
        numbers.update({name: number(group[name]) for name in ("lr", "weight_decay")})
        lr = numbers["lr"]
        if isinstance(lr, float) and -1e-9 * float(group.get("initial_lr", 0.0)) < lr < 0:
            numbers["lr"] = 0.0
        return numbers

    def _step_group(self, group: dict[str, Any]) -> None:
        for name in _REFUSED:
            if group.get(name):
                raise TypeError(
                    f"{name} is {group[name]}, which cyopt's step does not support: leave it out"
                )
        params, slots = list(group["params"]), self._slots(group)
        numbers = self._numbers(group)
        read = read_group(params, self.state, slots, self._counted)
        if read is None:
            return self._step_unusual(params, slots, numbers)
        columns, arrays, counters, done = read
        arguments = dict(zip(("param", "grad", *slots), arrays, strict=True))
        written = [columns[0], *columns[2:]] if arrays is not columns else []
        self._call({**arguments, "step": done + 1, **numbers}, {}, counters, written)

    def _step_unusual(self, params: list[Any], slots: tuple[str, ...], numbers: Any) -> None:
        """As many calls as it takes, on state that may be new, incomplete or in another order."""
        grads = [p.grad for p in params]
        given = [grad is not None for grad in grads]
        params = list(compress(params, given))
        devices = list(map(_device, params))
        for p in dict(zip(devices, params, strict=True)).values():  # one of each
            if not (p.is_cuda or p.is_cpu):
                raise TypeError(f"a parameter is on {p.device}; expected a CPU or NVIDIA GPU")
        columns = {"param": params, "grad": list(compress(grads, given))}
        are_contiguous = all(map(is_contiguous, params))
        states, new, changed = self._add_states(columns, slots, are_contiguous)
        if not are_contiguous:
            columns = in_memory_order(columns)
        counters = self._counters(states, changed)
        calls: dict[tuple[int, int], list[int]] = defaultdict(list)  # by step and device
        for i, place in enumerate(zip(self._done(counters, new), devices, strict=True)):
            calls[place].append(i)
        for (done, device), members in calls.items():
            own = {name: [column[i] for i in members] for name, column in columns.items()}
            arguments = {**arrays_of(own), "step": done + 1, **numbers}
            entries = {params[i]: states[i] for i in changed.intersection(members)}
            written = [own[name] for name in own if name != "grad"] if device < 0 else []
            counts = [counters[i] for i in members] if counters else []
            self._call(arguments, entries, counts, written)

    def _call(
        self,
        arguments: dict[str, Any],
        entries: dict[Any, dict[str, Any]],
        counters: list[Any],
        written: list[list[Any]],
    ) -> None:
        """Step, count and add entries to the state, all or nothing, and mark what is written.

        `written` are columns on the CPU: a step on a GPU marks its tensors itself. The marks of a
        step that is refused stay, as nothing shows a graph that it may run after all.
        """
        marked = [*counters, *chain(*written)]
        changes = [
            (self.state[p], state) if p in self.state else (self.state, {p: state})
            for p, state in entries.items()
        ]

        def step() -> None:
            if counters:
                add_one(counters)
            increment_version(marked)
            type(self)._function(**arguments)

        def uncount() -> None:
            ahead = [c for c in counters if int(c) == arguments["step"]]
            with torch.inference_mode():  # also those that were made in it
                for counter in ahead:
                    counter.sub_(1)

        whole(step, changes, uncount)

    def _add_states(
        self, columns: dict[str, list[Any]], slots: tuple[str, ...], are_contiguous: bool
    ) -> tuple[list[dict[str, Any]], list[bool], set[int]]:
        """Add the columns of state arrays.

        Returns the states, which of them start here, and which replace the optimizer's once they
        have made a step.
        """
        params = columns["param"]
        states = list(map(self.state.get, params))
        new, changed = list(map(not_, states)), set()
        for i in compress(count(), new):
            states[i] = {}
        for slot in slots:
            column = columns[slot] = [state.get(slot) for state in states]
            for i in compress(count(), [array is None for array in column]):
                if states[i] and not new[i] and slot not in self._late:
                    raise ValueError(
                        f"the state of a parameter that has made steps has no {slot}; load one that"
                        " has it, or start from scratch: opt.state.pop(parameter)"
                    )
                new[i], column[i] = True, self._first(params[i])
                states[i] = {**states[i], slot: column[i]}
                changed.add(i)
            if are_contiguous and all(map(is_contiguous, column)):
                continue
            for i in compress(count(), map(ne, map(_strides, column), map(_strides, params))):
                if is_alike(column[i], params[i]):
                    like = torch.empty_like(params[i], memory_format=torch.preserve_format)
                    column[i] = like.copy_(column[i].detach())
                    states[i] = {**states[i], slot: column[i]}
                    changed.add(i)
        return states, new, changed

    def _first(self, param: Any) -> Any:
        """A new state array of this parameter."""
        value = self.defaults.get("initial_accumulator_value", 0.0)
        return torch.full_like(param, value, memory_format=torch.preserve_format)

    def _counters(self, states: list[dict[str, Any]], changed: set[int]) -> list[Any]:
        """The step counters; new ones are put into copies of states, noted in `changed`."""
        if not self._counted:
            return []
        for i in compress(count(), ["step" not in state for state in states]):
            states[i] = {"step": ZERO.clone(), **states[i]}
            changed.add(i)
        return [state["step"] for state in states]

    def _done(self, counters: list[Any], new: Sequence[bool]) -> list[int]:
        """How many steps each parameter has made."""
        return integers(counters)


class SGD(_Steps, torch.optim.SGD):  # type: ignore[misc]  # torch has no types here
    """`torch.optim.SGD` on cyopt's step; see `cyopt.SGD` for the formula.

    >>> import torch
    >>> from cyopt.integrations.torch import SGD
    >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> opt = SGD([w], lr=0.25)
    >>> (w * w).sum().backward()
    >>> opt.step()
    >>> w
    tensor([0.5000, 1.0000], requires_grad=True)
    """

    _function = staticmethod(cyopt.sgd_)
    _same = ("momentum", "dampening")
    _late = ("momentum_buffer",)
    _counted = False

    def _slots(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("momentum_buffer",) if group["momentum"] else ()

    def _numbers(self, group: dict[str, Any]) -> dict[str, Any]:
        numbers = super()._numbers(group)
        if not group["momentum"]:  # dampening and nesterov act only on momentum
            numbers.update(momentum=0.0, dampening=0.0, nesterov=False)
        return numbers

    def _done(self, counters: list[Any], new: Sequence[bool]) -> list[int]:
        """SGD keeps no count in torch; only a buffer's first step, which is undampened, differs."""
        return [0 if is_new else 1 for is_new in new]


class RMSprop(_Steps, torch.optim.RMSprop):  # type: ignore[misc]
    """`torch.optim.RMSprop` on cyopt's step; see `cyopt.RMSProp` for the formula.

    >>> import torch
    >>> from cyopt.integrations.torch import RMSprop
    >>> w = torch.ones(1, requires_grad=True)
    >>> opt = RMSprop([w], lr=0.25, alpha=0.75, eps=0.0)
    >>> w.backward()
    >>> opt.step()
    >>> w
    tensor([0.5000], requires_grad=True)
    """

    _function = staticmethod(cyopt.rmsprop_)
    _same = ("alpha", "eps", "momentum")

    def _slots(self, group: dict[str, Any]) -> tuple[str, ...]:
        used = {"square_avg": True, "grad_avg": group["centered"]}
        used["momentum_buffer"] = group["momentum"] > 0
        return tuple(name for name, is_used in used.items() if is_used)


class Adagrad(_Steps, torch.optim.Adagrad):  # type: ignore[misc]
    """`torch.optim.Adagrad` on cyopt's step; see `cyopt.AdaGrad` for the formula.

    >>> import torch
    >>> from cyopt.integrations.torch import Adagrad
    >>> w = torch.ones(1, requires_grad=True)
    >>> opt = Adagrad([w], lr=0.25)
    >>> w.backward()
    >>> opt.step()
    >>> w
    tensor([0.7500], requires_grad=True)
    """

    _function = staticmethod(cyopt.adagrad_)
    _same = ("lr_decay", "eps")

    def _slots(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("sum",)


class _AdamSteps(_Steps):
    _function = staticmethod(cyopt.adam_)
    _same = ("betas", "eps")

    def _slots(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")[: 3 if group["amsgrad"] else 2]


class Adam(_AdamSteps, torch.optim.Adam):  # type: ignore[misc]
    """`torch.optim.Adam` on cyopt's step; see `cyopt.Adam` for the formula.

    >>> import torch
    >>> from cyopt.integrations.torch import Adam
    >>> w = torch.ones(1, requires_grad=True)
    >>> opt = Adam([w], lr=0.25)
    >>> w.backward()
    >>> opt.step()
    >>> w
    tensor([0.7500], requires_grad=True)
    """


class AdamW(_AdamSteps, torch.optim.AdamW):  # type: ignore[misc]
    """`torch.optim.AdamW` on cyopt's step: Adam with decoupled decay, 0.01 unless given.

    >>> import torch
    >>> from cyopt.integrations.torch import AdamW
    >>> AdamW([torch.ones(1)]).param_groups[0]["weight_decay"]
    0.01
    """
