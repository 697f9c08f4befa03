"""An error on one rank ends the job: the others would wait for it for ever."""

from __future__ import annotations

import sys
import threading
import traceback
from types import TracebackType
from typing import Any

_installed: list[Any] = []


def end_job_on_errors(comm: Any) -> None:
    """From now on an exception that nobody catches is printed with its rank, and ends all ranks.

    Also in a thread. A rank that is killed is noticed by mpiexec, which ends the others. Nobody is
    told of sys.exit on one rank: `python -m mpi4py script.py` notices that as well.
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
