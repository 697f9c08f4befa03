"""A step of all ranks together."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from operator import is_
from typing import Any

import numpy as np
from mpi4py import MPI

from cyopt import files, trees
from cyopt.arrays import Array, check_written
from cyopt.distributed.agree import (
    check_bits,
    check_same,
    description,
    description_of_step,
    number_of,
)
from cyopt.distributed.exchange import Exchange
from cyopt.distributed.failure import Watch, end_job_on_errors
from cyopt.distributed.layout import flat, flat_buffers
from cyopt.distributed.shard import Shard
from cyopt.given import as_grads, as_same_params
from cyopt.group import current_params, hypers_at
from cyopt.hyper import Hyper
from cyopt.optimizer import Optimizer
from cyopt.parameters import AVERAGE


class DataParallel:
    """An optimizer whose steps are those of all ranks of a communicator, from their mean gradient.

    `opt` is a cyopt optimizer bound to parameters on the CPU, made in the same way on all ranks;
    from then on, make steps through this object. `comm` is an mpi4py communicator. At the start all
    ranks get the parameters and averages of rank 0 and, if it has made steps, its state. With
    `shard` each rank keeps and updates only its share of the state, as in ZeRO's first stage. After
    each step parameters have the same bits on all ranks, and the same with `shard` as without, if
    the reduced gradients are the same. `bucket_bytes` is how much is reduced at once;
    docs/scaling.md says when more is better. Every `check_every` steps the bits are compared.

    Groups, schedules, `clip_norm`, `skip_nonfinite` and `ema` act on the mean gradient. An uncaught
    error on one rank ends the job, and so does a rank that ends before the others.

    Raises ValueError on all ranks, with the difference, if the optimizers differ.

    >>> import numpy as np, cyopt
    >>> from mpi4py import MPI
    >>> from cyopt.distributed import DataParallel
    >>> w = np.ones(2)
    >>> dp = DataParallel(cyopt.SGD({"w": w}, lr=0.5), MPI.COMM_WORLD)
    >>> dp.step({"w": np.array([1.0, 2.0])})  # on each rank its own gradient
    True
    >>> w
    array([0.5, 0. ])

    Source: Li et al. 2020 (PyTorch's DistributedDataParallel: buckets, overlap), Rajbhandari et al.
    2020 (ZeRO). Unlike there, gradients are passed to `step`, or each to `ready` once computed.
    """

    def __init__(
        self,
        opt: Optimizer,
        comm: Any,
        *,
        shard: bool = False,
        bucket_bytes: int = 4 << 20,
        check_every: int = 0,
    ) -> None:
        end_job_on_errors(comm)
        if not isinstance(opt, Optimizer) or not opt._bound:
            raise TypeError(
                f"opt is {opt!r}; expected a cyopt optimizer that is made with its parameters"
            )
        options = {"shard": shard, "bucket_bytes": bucket_bytes, "check_every": check_every}
        check_same(comm, description(opt, options))
        if bucket_bytes < 1 or check_every < 0:
            raise ValueError(
                f"bucket_bytes is {bucket_bytes} and check_every is {check_every}; expected at"
                " least 1 and at least 0"
            )
        (whole,) = opt._lists.values()
        if whole.device is not None:
            raise TypeError("the parameters are on a GPU; DataParallel needs arrays on the CPU")
        # Duplicates: what others send on `comm` meanwhile must not be taken for a bucket, nor must
        # what ranks ask each other, which comes before or after buckets that are under way.
        self._comm, self._control = comm.Dup(), comm.Dup()
        self._watch = Watch(comm)
        self._opt, self._check_every = opt, check_every
        self._shard: Shard | None = None
        self._structure, self._names = opt._structure, whole.names
        self._given, self._grouped = opt._given, opt._grouped  # `shard` puts pieces there
        self._specs, self._group_specs, self._dtypes_of = (
            whole.specs,
            whole.group_spec_of,
            whole.dtypes_of,
        )
        self._params: list[Array] = []  # shared with the objects made below
        self._follow()
        self._buffers = flat_buffers(self._params, comm.size, bucket_bytes) if self._params else []
        begun = whole.counts.any()  # else the state is the same everywhere, but averages may not be
        state = [a for own in whole.state for s, a in own.items() if begun or s == AVERAGE]
        for array in [*self._params, *state]:
            for first in range(0, array.nbytes, bucket_bytes):
                self._comm.Bcast(flat(array).view(np.uint8)[first : first + bucket_bytes])
        self._exchange = Exchange(self._comm, self._buffers, self._params, shard)
        if shard:
            self._shard = Shard(opt, self._comm, self._buffers, self._params)
        self._index = {name: i for i, name in enumerate(self._names)}
        self._flags = np.zeros(len(self._names) + 3, np.int64)

    @property
    def grad_norm(self) -> float | None:
        """The norm of the mean gradient in the last step; see `Optimizer.grad_norm`."""
        return self._opt.grad_norm

    @property
    def skipped(self) -> bool:
        """Whether the last step was skipped, on all ranks: a gradient was nonfinite on one."""
        return self._opt.skipped

    def accumulate(self, grads: Any) -> None:
        """Add the gradients of a local batch to those of the next step; nothing is sent.

        It comes before all calls of `ready`, which takes gradients of the last local batch.
        """
        if self._exchange.packed:
            raise ValueError(
                "gradients of the last local batch were handed over by ready() already; accumulate"
                " those of other batches before that"
            )
        for i, grad in enumerate(self._checked(grads)):
            if grad is not None:
                self._exchange.add(i, grad)
                self._clear(i, grad)

    def ready(self, name: str, grad: Any) -> None:
        """Hand over the gradient of one parameter as soon as it is computed.

        `name` is its key in `opt.state`. When all gradients of a bucket are there, it is sent while
        others are computed. A gradient that is handed over is not passed to `step` again.
        """
        if grad is None:
            raise TypeError(f"the gradient of {name!r} is None; expected an array: leave it out")
        if name not in self._index:
            raise KeyError(f"no parameter {name!r}; known: {', '.join(self._names)}")
        i = self._index[name]
        if i in self._exchange.packed:
            raise ValueError(f"the gradient of {name!r} is handed over twice before a step")
        own = [grad], [name], [self._specs[i]], [self._group_specs[i]]
        (checked,) = as_grads(*own, self._written)
        self._exchange.pack(i, checked)
        self._clear(i, checked)

    def step(self, grads: Any = None) -> bool:
        """Update all parameters on all ranks; every rank calls it.

        `grads` has the structure of the parameters, as for `Optimizer.step`, with None for those
        that were handed over by `ready`. It may be left out if all were. A parameter is skipped if
        it has no gradient on any rank.

        Returns True, or False if `skip_nonfinite` skipped the step, the same on all ranks.
        """
        given = [None] * len(self._names) if grads is None else self._checked(grads)
        self._follow()
        for i, grad in enumerate(given):
            if grad is not None and i in self._exchange.packed:
                name = self._names[i]
                raise ValueError(f"the gradient of {name!r} was handed over by ready() already")
        hypers = self._hypers()
        has_grad = self._agree(given, hypers)
        for buffer in self._buffers:
            for i in buffer.members:
                if i not in self._exchange.packed:
                    self._exchange.pack(i, given[i])
                    self._clear(i, given[i])
        self._exchange.finish()
        if self._shard is None:
            done = self._step_whole(has_grad)
        else:
            done = self._shard.step(self._exchange.reduced_pieces, has_grad, hypers)
            if done:  # the same on all ranks
                self._exchange.gather_params(self._shard.pieces, self._shard.arrays)
        if self._check_every and self._opt.steps % self._check_every == 0:
            check_bits(self._comm, self._names, self._params, self._opt.steps)
        self._watch.count()
        return done

    def _follow(self) -> None:
        """Adopt arrays that have replaced parameters, as `Optimizer.step` does."""
        values = trees.leaves(current_params(self._given, self._grouped), self._structure, "params")
        params = as_same_params(values, self._names, self._specs)
        if self._params and all(map(is_, params, self._params)):
            return
        self._written = check_written(params, [f"parameter {n!r}" for n in self._names])
        self._params[:] = params
        if self._shard is not None:
            self._shard.follow()

    def _checked(self, grads: Any) -> list[Array | None]:
        given = trees.leaves(grads, self._structure, "grads")
        return as_grads(given, self._names, self._specs, self._group_specs, self._written)

    def _clear(self, i: int, grad: Array | None) -> None:
        if grad is not None and self._group_specs[i].zero_grads:
            grad[...] = 0

    def _hypers(self) -> list[Hyper]:
        return hypers_at(self._opt.groups, self._opt.steps, self._dtypes_of)

    def _agree(self, given: Sequence[Array | None], hypers: list[Hyper]) -> list[bool]:
        """Which parameters have a gradient on any rank; also compares progress and numbers."""
        own = number_of((self._opt.steps, hypers))
        has_grad = [g is not None or self._exchange.has(i) for i, g in enumerate(given)]
        self._flags[:] = [*has_grad, self._exchange.started, own, -own]
        self._watch.wait(self._control.Iallreduce(MPI.IN_PLACE, self._flags, MPI.MAX))
        *flags, started, most, least = self._flags.tolist()
        if most != -least:
            check_same(self._control, description_of_step(self._opt.steps, hypers))
        self._exchange.wait_from(started)
        return list(map(bool, flags))

    def _step_whole(self, has_grad: Sequence[bool]) -> bool:
        """The optimizer's own step, with mean gradients."""
        grads = [self._exchange.reduced(i) if has else None for i, has in enumerate(has_grad)]
        return bool(self._opt.step(trees.tree_of(self._structure, iter(grads))))

    def state_dict(self) -> dict[str, Any] | None:
        """On rank 0 the whole optimizer's `state_dict`, on others None; every rank calls it."""
        if self._shard:
            if self._exchange.packed:
                raise ValueError(
                    "gradients were handed over by ready() already, and with shard state_dict()"
                    " sends messages that could mix with theirs; call it after step()"
                )
            return self._shard.state_dict()
        return self._opt.state_dict() if self._comm.rank == 0 else None

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned, with any number of ranks, `shard` or not.

        Every rank calls it with the same one. Raises as `Optimizer.load_state_dict` does.
        """
        (self._shard or self._opt).load_state_dict(state_dict)

    def save(self, path: files.StrPath) -> None:
        """Write one file for all ranks, as `cyopt.save` does; every rank calls it.

        `load` reads it with any number of ranks, and so does `cyopt.load`. Rank 0 has the whole
        state in memory meanwhile. Raises as `cyopt.save` does on rank 0, and OSError on others.
        """
        saved, error = self.state_dict(), None
        if saved is not None:
            kinds = files.kinds_of(self._names, self._specs)
            try:
                files.write(path, files.content(saved, files.rules_of(self._opt), kinds))
            except Exception as caught:
                error = caught
        told = self._comm.bcast(None if error is None else repr(error))
        if error is not None:
            raise error
        if told is not None:
            raise OSError(f"rank 0 could not write {os.fspath(path)!r}: {told}")

    def load(self, path: files.StrPath) -> None:
        """Continue from the file that `save` or `cyopt.save` wrote; every rank calls it.

        Raises as `cyopt.load` does.
        """
        saved = files.read(path)
        with files.fitting(path):
            files.check_made(self._opt, files.kinds_of(self._names, self._specs), saved)
            self.load_state_dict(saved)
