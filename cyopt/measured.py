"""What the last step of an optimizer measured."""

from __future__ import annotations

import enum
from typing import Any, Final

import numpy as np


def measurements(grad_norm: float = -1.0, skipped: bool = False) -> tuple[float, ...]:
    """What a step measured: norms of gradients, change and parameters; whether it was skipped.

    A norm below 0 was not measured.
    """
    return grad_norm, -1.0, -1.0, float(skipped)


class Pending(enum.Enum):
    """What a plan returns for a step that a GPU may skip, without waiting for its decision."""

    PENDING = 0


PENDING: Final = Pending.PENDING
Done = bool | Pending


class Measured:
    """Norms, each the root of a sum of squares over all arrays that had a gradient.

    The sum is taken in double and in a fixed order (`cyopt.rules.square_sum`): the same bits for
    any instruction set, number of threads and alignment.
    """

    __slots__ = ()
    _measured: np.ndarray[Any, np.dtype[np.float64]]

    @property
    def skipped(self) -> bool:
        """Whether the last step was skipped because a gradient was not finite.

        Like the norms, this waits for a GPU that decides it, and raises RuntimeError if a CUDA
        graph holds the step of one key of several, of which the last step then is not known.
        """
        self._fetch_last()
        return bool(self._measured[3])

    @property
    def grad_norm(self) -> float | None:
        """The norm of all gradients, divided by `grad_scale`, before clipping, in the last step.

        Squares that overflow make it inf, and clipping then leaves no update, as in PyTorch.
        None if it was not measured, which takes `clip_norm`, `skip_nonfinite` or `norms=True`.
        """
        return self._norm(0)

    @property
    def update_norm(self) -> float | None:
        """The norm of the change of all parameters in the last step, if that had `norms=True`."""
        return self._norm(1)

    @property
    def param_norm(self) -> float | None:
        """The norm of all updated parameters after the last step, if that had `norms=True`."""
        return self._norm(2)

    def _fetch_last(self) -> None:
        """Fetch what only a GPU knows of the last step."""

    def _norm(self, i: int) -> float | None:
        self._fetch_last()
        norm = float(self._measured[i])
        return None if norm < 0 else norm
