"""Tensors of torch as what a step takes: arrays over their memory, counters, numbers."""

from __future__ import annotations

import math
from itertools import chain, compress, count
from operator import not_
from typing import Any

import numpy as np
import torch

from cyopt import _cpu

# Those that are their memory and no more; subclasses may be.
_PLAIN = {torch.Tensor, torch.nn.Parameter}
_CAPSULE = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)  # since torch 2.10
_TABLE = None if _CAPSULE is None else _cpu.DLPackTable.of(_CAPSULE)
_is_neg, is_contiguous = torch.Tensor.is_neg, torch.Tensor.is_contiguous
ZERO = torch.tensor(0.0, dtype=torch.float32, device="cpu")


def in_memory_order(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Parameters, gradients and state with the parameters' dimensions as they lie in memory.

    Parameters may be dense in another order of them, as channels_last is.
    """
    columns = {name: list(column) for name, column in columns.items()}
    for i in compress(count(), map(not_, map(is_contiguous, columns["param"]))):
        strides = columns["param"][i].stride()
        axes = np.argsort([-stride for stride in strides], kind="stable").tolist()
        for column in columns.values():
            column[i] = column[i].detach().permute(axes)
    return columns


def arrays_of(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Parameters, their gradients and state: as NumPy has the same memory, or on a GPU."""
    if columns["param"][0].is_cuda:
        return _resolved(columns) if any(map(_is_neg, columns["grad"])) else columns
    tensors = list(chain(*columns.values()))
    arrays = _TABLE.arrays(tensors) if _TABLE and _are_plain(tensors) else None
    if arrays is None:
        arrays = [_numpy(tensor) for tensor in chain(*_resolved(columns).values())]
    n = len(columns["param"])
    return {name: arrays[n * k : n * (k + 1)] for k, name in enumerate(columns)}


def _resolved(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """With gradients whose numbers are those in memory, which are negated in a negated view's."""
    return {**columns, "grad": [grad.resolve_neg() for grad in columns["grad"]]}


def _are_plain(tensors: list[Any]) -> bool:
    """Whether they are what lies in their memory."""
    return _are_exact(tensors) and not any(map(_is_neg, tensors))


def _are_exact(tensors: list[Any]) -> bool:
    return set(map(type, tensors)) <= _PLAIN


def integers(counters: list[Any]) -> list[int]:
    """The numbers of counters, which torch takes a microsecond to tell of each."""
    done = _TABLE.integers(counters) if _TABLE and _are_plain(counters) else None
    return list(map(_integer, counters)) if done is None else done


def add_one(counters: list[Any]) -> None:
    """Add one to each counter that `integers` has told, in place."""
    if not (_TABLE and _are_exact(counters) and _TABLE.count(counters)):
        torch._foreach_add_(counters, 1)


def _integer(counter: Any) -> int:
    """The steps that a counter tells, to which one can be added."""
    is_dense = isinstance(counter, torch.Tensor) and counter.layout is torch.strided
    is_real = is_dense and counter.dtype is not torch.bool and not counter.is_complex()
    if is_real and counter.numel() == 1 and not counter.is_neg() and not _is_fixed(counter):
        value = counter.item()
        if 0 <= value < math.inf:
            return int(value)
    raise TypeError(
        f"the state's step is {counter!r}; expected a tensor of one number from 0, such as"
        " torch.tensor(0.0), as load_state_dict makes it"
    )


def is_alike(state: Any, param: Any) -> bool:
    """Whether it is like its parameter in all but its strides."""
    kinds = [(tensor.shape, tensor.dtype, tensor.device) for tensor in (state, param)]
    return bool(kinds[0] == kinds[1])


def _is_fixed(tensor: Any) -> bool:
    """Whether torch refuses to change it in place."""
    made_for_inference = tensor.is_inference() and not torch.is_inference_mode_enabled()
    return bool(made_for_inference or (tensor.requires_grad and tensor.is_leaf))


def number(value: Any) -> Any:
    """A hyperparameter without tensors."""
    if isinstance(value, tuple | list):
        return tuple(map(number, value))
    return value.item() if isinstance(value, torch.Tensor) else value


def _numpy(tensor: Any) -> np.ndarray[Any, Any]:
    """By torch's own way, which takes longer and tells what is wrong."""
    plain = tensor.detach() if tensor.requires_grad else tensor
    try:
        array: np.ndarray[Any, Any] = plain.numpy()
    except (TypeError, RuntimeError) as error:
        raise TypeError(
            f"a tensor of the step is a {type(tensor).__name__} of {tensor.dtype}, {tensor.layout}"
            f" and shape {tuple(tensor.shape)} on {tensor.device}, whose memory torch does not show"
            f" ({error}); expected a dense torch.Tensor of float32 or float64 on a CPU or NVIDIA"
            " GPU: convert it by .float(), .to_dense(), .resolve_neg() or .cpu()"
        ) from error
    if array.size and not tensor.data_ptr():
        raise ValueError("a tensor has no memory: its storage was resized to 0; give it some first")
    return array
