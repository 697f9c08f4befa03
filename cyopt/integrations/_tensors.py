"""torch's tensors converted to what a step takes: arrays over their memory, counts, numbers."""

from __future__ import annotations

from itertools import chain, compress, count
from operator import not_
from typing import Any

import numpy as np
import torch

from cyopt import _cpu

# Tensors that are nothing but their memory; those of subclasses may be more.
_PLAIN = (torch.Tensor, torch.nn.Parameter)
_CAPSULE = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)  # since torch 2.10
_TABLE = None if _CAPSULE is None else _cpu.DLPackTable.of(_CAPSULE)
_is_neg, is_contiguous = torch.Tensor.is_neg, torch.Tensor.is_contiguous
_GROUPS = None if _TABLE is None else _cpu.TorchGroups(_TABLE, *_PLAIN, _is_neg)
ZERO = torch.tensor(0.0, dtype=torch.float32, device="cpu")


def read_group(
    params: list[Any], state: Any, slots: tuple[str, ...], counted: bool
) -> tuple[list[list[Any]], list[list[Any]], list[Any], int] | None:
    """A usual group in one pass, as `_cpu.TorchGroups` describes; None if it takes a full look."""
    first = next((p for p in params if p.grad is not None), None)
    if _GROUPS is None or first is None:
        return None
    return _GROUPS.read(params, state, slots, not first.is_cuda, counted)


def in_memory_order(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Parameters, gradients and state, with dimensions permuted to the parameters' memory order.

    Parameters may be dense in another order of dimensions, such as channels_last.
    """
    columns = {name: list(column) for name, column in columns.items()}
    for i in compress(count(), map(not_, map(is_contiguous, columns["param"]))):
        strides = columns["param"][i].stride()
        axes = np.argsort([-stride for stride in strides], kind="stable").tolist()
        for column in columns.values():
            column[i] = column[i].detach().permute(axes)
    return columns


def arrays_of(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Parameters, gradients and state as NumPy arrays over the same memory; on a GPU, tensors."""
    if columns["param"][0].is_cuda:
        return _resolved(columns) if any(map(_is_neg, columns["grad"])) else columns
    tensors = list(chain(*columns.values()))
    arrays = _TABLE.arrays(tensors) if _TABLE and _are_plain(tensors) else None
    if arrays is None:
        arrays = [_numpy(tensor) for tensor in chain(*_resolved(columns).values())]
    n = len(columns["param"])
    return {name: arrays[n * k : n * (k + 1)] for k, name in enumerate(columns)}


def _resolved(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """The columns, with gradients that are negated views replaced by their actual values."""
    return {**columns, "grad": [grad.resolve_neg() for grad in columns["grad"]]}


def _are_plain(tensors: list[Any]) -> bool:
    """Whether the values of all tensors are exactly what is in their memory."""
    return _are_exact(tensors) and not any(map(_is_neg, tensors))


def _are_exact(tensors: list[Any]) -> bool:
    return set(map(type, tensors)).issubset(_PLAIN)


def integers(counters: list[Any]) -> list[int]:
    """The values of counters; reading one through torch takes a microsecond."""
    done = _TABLE.integers(counters) if _TABLE and _are_plain(counters) else None
    done = list(map(_integer, counters)) if done is None else done
    if len({counter.data_ptr() for counter in counters}) < len(counters):
        raise TypeError(
            "a parameter is there twice, or the states of two share a tensor that counts steps;"
            " expected one each: make it with .clone()"
        )
    return done


def add_one(counters: list[Any]) -> None:
    """Add one in place to each counter that `integers` has read."""
    if not (_TABLE and _are_exact(counters) and _TABLE.count(counters)):
        torch._foreach_add_(counters, 1)


def _integer(counter: Any) -> int:
    """The steps of a counter, which is checked to be one that can be incremented."""
    is_dense = isinstance(counter, torch.Tensor) and counter.layout is torch.strided
    is_real = is_dense and counter.dtype is not torch.bool and not counter.is_complex()
    if is_real and counter.numel() == 1 and not counter.is_neg() and not _is_fixed(counter):
        value = counter.item()
        if 0 <= value < _most(counter.dtype):
            return int(value)
    raise TypeError(
        f"the state's step is {counter!r}; expected a tensor of one number, at least 0, to which 1"
        " can be added, such as torch.tensor(0.0), as load_state_dict makes it"
    )


def _most(dtype: Any) -> float:
    """The number from which a counter cannot count on, such as 2**24 in float32."""
    if dtype.is_floating_point:
        return 2 / float(torch.finfo(dtype).eps)
    return float(torch.iinfo(dtype).max)


def is_alike(state: Any, param: Any) -> bool:
    """Whether it is like its parameter in everything except strides."""
    kinds = [(tensor.shape, tensor.dtype, tensor.device) for tensor in (state, param)]
    return bool(kinds[0] == kinds[1])


def _is_fixed(tensor: Any) -> bool:
    """Whether torch refuses to change it in place."""
    made_for_inference = tensor.is_inference() and not torch.is_inference_mode_enabled()
    return bool(made_for_inference or (tensor.requires_grad and tensor.is_leaf))


def number(value: Any) -> Any:
    """A hyperparameter, with tensors replaced by Python numbers."""
    if isinstance(value, tuple | list):
        return tuple(map(number, value))
    return value.item() if isinstance(value, torch.Tensor | np.generic | np.ndarray) else value


def _numpy(tensor: Any) -> np.ndarray[Any, Any]:
    """By torch's own method, which is slower but says what is wrong."""
    plain = tensor.detach() if tensor.requires_grad else tensor
    try:
        array: np.ndarray[Any, Any] = plain.numpy()
    except (TypeError, RuntimeError) as error:
        raise TypeError(
            f"a tensor of the step is a {type(tensor).__name__} of {tensor.dtype}, {tensor.layout}"
            f" and shape {tuple(tensor.shape)} on {tensor.device}, whose memory torch does not"
            f" expose ({error}); expected a dense torch.Tensor of float32 or float64 on a CPU or"
            " NVIDIA GPU: convert it by .float(), .to_dense(), .resolve_neg() or .cpu()"
        ) from error
    if array.size and not tensor.data_ptr():
        raise ValueError("a tensor has no memory: its storage was resized to 0; allocate it")
    return array
