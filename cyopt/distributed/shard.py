"""A rank's share of an optimizer with `shard`: steps of its pieces, and whole state again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from mpi4py import MPI

from cyopt import _cpu, checkpoint, rules, trees
from cyopt.arrays import Array
from cyopt.distributed.layout import FlatBuffer, Piece, flat
from cyopt.distributed.norms import Sums
from cyopt.hyper import Hyper
from cyopt.measured import measurements
from cyopt.optimizer import Optimizer

_BLOCK = 1 << 14  # numbers, so few that they stay in the cache


def _name_of(name: str, piece: Piece) -> str:
    """The name of a piece in the optimizer's state."""
    return f"{name}[{piece.start}:{piece.stop}]"


class Shard:
    """Makes this rank's pieces the parameters of an optimizer.

    Its groups and their hyperparameters stay the same objects; the state of the rest is freed.
    """

    def __init__(
        self, opt: Optimizer, comm: Any, buffers: Sequence[FlatBuffer], params: Sequence[Array]
    ) -> None:
        (whole,) = opt._lists.values()
        self._opt, self._comm, self._params = opt, comm, params
        self._names, self._group_of, self._specs = whole.names, whole.group_of, whole.specs
        self._slots = [list(state) for state in whole.state]
        self._sums = Sums(comm, buffers, params)
        self.pieces = [piece for buffer in buffers for piece in buffer.pieces(comm.rank)]
        self.arrays: list[Array] = []
        self.follow()
        self.counts = whole.counts.copy()  # also of parameters of which this rank has no piece
        names = [_name_of(whole.names[p.param], p) for p in self.pieces]
        groups = [whole.group_of[p.param] for p in self.pieces]
        made = opt._new_list(names, self.arrays, groups)
        for i, piece in enumerate(self.pieces):
            made.counts[i] = whole.counts[piece.param]
            for slot, array in whole.state[piece.param].items():
                made.state[i][slot][...] = flat(array)[piece.start : piece.stop]
        opt._grouped, opt._given = False, self.arrays
        opt._structure = trees.structure(self.arrays)
        opt._lists = {None: made}

    def follow(self) -> None:
        """Take the pieces from the current arrays of the parameters."""
        self.arrays[:] = [flat(self._params[p.param])[p.start : p.stop] for p in self.pieces]

    def step(self, grads: Sequence[Array], has_grad: Sequence[bool], hypers: list[Hyper]) -> bool:
        """A step of the pieces, whose gradients may be overwritten; False if all ranks skip it."""
        given = [g if has_grad[p.param] else None for p, g in zip(self.pieces, grads, strict=True)]
        used = [h for g, h in enumerate(hypers) if self._is_used(g, has_grad)]
        norm = -1.0
        if any(h.needs_norm for h in used):
            scalars = [_cpu.prepare(hyper, 1) for hyper in hypers]
            scales = [scalars[g]["s"] for g in self._group_of]
            sums, nonfinite = self._sums.measure(self.pieces, given, scales)
            sizes = [param.size for param in self._params]
            rows = zip(sums, has_grad, sizes, strict=True)
            norm = rules.norm(x for x, has, size in rows if has and size)
            pairs = zip(self._group_of, nonfinite, strict=True)
            if any(bad and hypers[g].skip_nonfinite for g, bad in pairs):
                self._opt._measured[:] = measurements(norm, skipped=True)
                return False
            self._scale(given, [scalars[g] for g in self._group_of], sums, norm)
            done: dict[str, Any] = {"grad_scale": 1.0, "maximize": False, "clip_norm": 0.0}
            hypers = [hyper._replace(**done, skip_nonfinite=False) for hyper in hypers]
        (parameters,) = self._opt._lists.values()
        self._opt._gate.run(
            parameters.step, self.arrays, given, self._opt._structure, hypers, None, False
        )
        self._opt._measured[:] = measurements(norm)
        self.counts += np.array(has_grad, np.int64)
        return True

    def _is_used(self, group: int, has_grad: Sequence[bool]) -> bool:
        return any(g == group and has for g, has in zip(self._group_of, has_grad, strict=True))

    def _scale(
        self,
        grads: Sequence[Array | None],
        scalars: Sequence[Mapping[str, Any]],
        sums: Sequence[float],
        norm: float,
    ) -> None:
        """Scale and clip as a kernel does first, with norms over the gradients of all ranks."""
        for piece, grad in zip(self.pieces, grads, strict=True):
            x = scalars[piece.param]
            with np.errstate(all="ignore"):
                own = np.sqrt(sums[piece.param]) if x["clip_per_array"] else norm
                s = x["s"] * rules.clip_coefficient(x, own)
                if grad is not None:
                    _multiply(grad, grad.dtype.type(s))

    def state_dict(self) -> dict[str, Any] | None:
        """On rank 0 the `state_dict` of the whole optimizer; the others contribute their parts.

        One array is sent at a time: each rank has zeros for what it does not hold, and the bits are
        combined by "or".
        """
        saved = self._opt.state_dict()
        own = saved.pop("state")
        saved["state"] = {}
        for i, name in enumerate(self._names):
            entry: dict[str, Any] = {"step": int(self.counts[i])}
            for slot in self._slots[i]:
                whole = np.zeros_like(self._params[i])
                for piece in self._of(i):
                    part = own[_name_of(name, piece)][slot]
                    flat(whole)[piece.start : piece.stop] = part
                self._join(whole)
                entry[slot] = whole
            saved["state"][name] = entry
        return saved if self._comm.rank == 0 else None

    def _join(self, array: Array) -> None:
        bits = flat(array).view(np.uint32)
        if self._comm.rank == 0:
            self._comm.Reduce(MPI.IN_PLACE, bits, MPI.BOR, root=0)
        else:
            self._comm.Reduce(bits, None, MPI.BOR, root=0)

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Take this rank's part of the `state_dict` of a whole optimizer."""
        checkpoint.check_whole(self._opt, saved)
        checkpoint.same_names("state", saved["state"], self._names)
        state = {}
        for i, name in enumerate(self._names):
            entry = saved["state"][name]
            arrays = checkpoint.checked_entry(entry, self._slots[i], self._specs[i], repr(name))
            for piece in self._of(i):
                part = {slot: self._part(array, piece) for slot, array in arrays.items()}
                state[_name_of(name, piece)] = {"step": entry["step"], **part}
        self._opt.load_state_dict({**saved, "state": state})
        self.counts[:] = [saved["state"][name]["step"] for name in self._names]

    def _part(self, array: Array, piece: Piece) -> Array:
        whole = np.empty_like(self._params[piece.param])
        whole[...] = array  # whatever the order of its elements is
        return flat(whole)[piece.start : piece.stop]

    def _of(self, i: int) -> Iterator[Piece]:
        return (piece for piece in self.pieces if piece.param == i)


def _multiply(array: Array, s: Any) -> None:
    """`s*array` in place, as in a kernel: subnormal numbers are zero if kernels flush them."""
    tiny = np.finfo(array.dtype).tiny if _cpu.get_config()["flush_subnormals"] else 0
    for first in range(0, array.size, _BLOCK):
        part = array[first : first + _BLOCK]
        part[np.abs(part) < tiny] = 0
        part *= 0 if abs(s) < tiny else s  # NaN stays
        part[np.abs(part) < tiny] = 0
