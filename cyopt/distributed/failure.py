"""A rank that fails, or ends before the others, ends the job: others would wait forever."""

from __future__ import annotations

import atexit
import sys
import threading
import time
import traceback
from types import TracebackType
from typing import Any

import numpy as np
from mpi4py import MPI

_installed: list[Any] = []
_watches: list[Watch] = []


def end_job_on_errors(comm: Any) -> None:
    """From now on an uncaught exception is printed with its rank, and ends all ranks.

    Also in threads. If a rank is killed, mpiexec notices it and ends the others.
    """
    if _installed or comm.size == 1:
        return
    _installed.append(comm)

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        text = "".join(traceback.format_exception(kind, error, trace))
        sys.stderr.write(f"rank {comm.rank} of {comm.size} ends the job:\n{text}")
        sys.stderr.flush()
        comm.Abort(1)

    def thread_hook(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
            hook(args.exc_type, args.exc_value, args.exc_traceback)

    sys.excepthook, threading.excepthook = hook, thread_hook


class Watch:
    """Notifies ranks that wait in a step if a rank has ended, by sys.exit or with fewer batches."""

    def __init__(self, comm: Any) -> None:
        self._comm = comm.Dup()
        self._others = [rank for rank in range(comm.size) if rank != comm.rank]
        self._steps = np.zeros(1, np.int64)  # that this rank has made
        self._ended: dict[int, Any] = {}  # rank -> the steps that it had made
        if not _watches:
            atexit.register(_leave)  # before mpi4py ends MPI
        _watches.append(self)

    def tell(self) -> list[Any]:
        """Start to notify all others that this rank has ended, and after how many."""
        return [self._comm.Isend(self._steps, rank) for rank in self._others]

    def wait_for_others(self) -> None:
        """Wait until they have ended too, as MPI would."""
        for rank in self._others:
            if rank not in self._ended:
                self._receive(rank)

    def wait(self, request: Any) -> None:
        """Wait until a communication of all ranks is done, of which each step makes one.

        Raises RuntimeError if a rank has ended without taking part. One that has made this step may
        have ended as well: its share is on the way.
        """
        status = MPI.Status()
        while not request.Test():
            time.sleep(0)  # yields to others if there are more ranks than CPUs
            if self._comm.Iprobe(status=status):
                self._receive(status.source)
            for rank, steps in self._ended.items():
                if steps <= self._steps:
                    raise RuntimeError(
                        f"rank {rank} has ended, but this one makes another step; make the same"
                        " number on all ranks"
                    )

    def count(self) -> None:
        """Count a step that this rank has made."""
        self._steps += 1

    def _receive(self, rank: int) -> None:
        steps = np.zeros(1, np.int64)
        self._comm.Recv(steps, rank)
        self._ended[rank] = steps


def _leave() -> None:
    """Notify the others by all watches before waiting: they may be in a step of any of these."""
    if MPI.Is_finalized():
        return
    requests = [request for watch in _watches for request in watch.tell()]
    for watch in _watches:
        watch.wait_for_others()
    MPI.Request.Waitall(requests)
