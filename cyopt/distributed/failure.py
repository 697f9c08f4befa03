"""An error on one rank ends the job: the others would wait for it for ever."""

from __future__ import annotations

import sys
import traceback
from types import TracebackType
from typing import Any

_installed: list[Any] = []


def end_job_on_errors(comm: Any) -> None:
    """From now on an exception that nobody catches is printed with its rank, and ends all ranks.

    A rank that is killed is noticed by mpiexec, which ends the others.
    """
    if _installed or comm.size == 1:
        return
    before = sys.excepthook
    _installed.append(before)

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, SystemExit):
            before(kind, error, trace)
            return
        text = "".join(traceback.format_exception(kind, error, trace))
        sys.stderr.write(f"rank {comm.rank} of {comm.size} ends the job:\n{text}")
        sys.stderr.flush()
        comm.Abort(1)

    sys.excepthook = hook
