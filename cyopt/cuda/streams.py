"""The stream of a step over a list of parameters, and its order with the arrays' streams."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from cyopt import _cpu
from cyopt.cuda import libraries
from cyopt.cuda.driver import Device

Result = TypeVar("Result")


class Streams:
    """The stream of a step: the caller's, or the current one of the first parameter's library."""

    def __init__(self, device: Device) -> None:
        self._device = device
        # For each library, or each stream where arrays have their own: a function that returns the
        # handle, and an array to call it with.
        self._lenders: list[tuple[Callable[[Any, int], int], Any]] = []

    def lend(self, arrays: list[Any]) -> None:
        """Order steps with the streams of these arrays from now on; parameters come first.

        None stands for no array. The first array of each stream is kept alive.
        """
        first: dict[Any, Any] = {}
        for array in _cpu.first_of_types(arrays):
            library, cls = libraries.of(array), type(array)
            if library.has_current_stream:
                first.setdefault(library, array)
            else:
                for own in (other for other in arrays if type(other) is cls):
                    first.setdefault(library.stream(own, self._device.ordinal), own)
        self._lenders = [(libraries.of(array).stream, array) for array in first.values()]

    def give_back(self) -> None:
        """Release the arrays that are kept alive."""
        self._lenders = []

    def run(
        self,
        chosen: Any,
        capturable: bool,
        is_ready: bool,
        action: Callable[..., Result],
        *args: Any,
    ) -> Result:
        """`action(*args, stream, captured)`; `captured` says whether a CUDA graph captures it.

        `chosen` is the caller's stream, or None; for the flags see `check_capture`.
        """
        if chosen is None:
            ordinal = self._device.ordinal
            handles = [stream_of(array, ordinal) for stream_of, array in self._lenders]
            stream = handles[0]
            others = set(handles) - {stream} if len(handles) > 1 else set()
        else:
            stream, others = libraries.stream_handle(chosen), set()
        with self._device:
            # The default stream cannot be captured, and asking takes a driver call.
            asks = others or stream != libraries.LEGACY_STREAM
            captured = asks and self._is_captured([stream, *others])
            if captured:
                check_capture(capturable, is_ready)
            for other in others:
                self._device.order(stream, other)
            try:
                result = action(*args, stream, captured)
            except BaseException:  # such as an interrupt after the launches
                with suppress(Exception):  # which would hide it
                    self._order_behind(others, stream)
                raise
            self._order_behind(others, stream)
        return result

    def _order_behind(self, others: Iterable[int], stream: int) -> None:
        for other in others:
            self._device.order(other, stream)

    def _is_captured(self, streams: Sequence[int]) -> bool:
        """Whether a CUDA graph captures these streams; RuntimeError, if only some of them."""
        asked = (s != libraries.LEGACY_STREAM and self._device.is_capturing(s) for s in streams)
        states = set(asked)
        if len(states) > 1:
            raise RuntimeError(
                "a CUDA graph captures the stream of some of the parameters and gradients, but not"
                " of the others; capture on one stream, or pass it as stream="
            )
        return states.pop()


def check_capture(capturable: bool, is_ready: bool) -> None:
    """Raise RuntimeError if a graph must not contain the step.

    `is_ready` says that the GPU has the counters, which are uploaded outside of a capture.
    """
    if not capturable:
        raise RuntimeError(
            "the stream is captured into a CUDA graph, whose replays would repeat this step's"
            " numbers, such as bias corrections, and count no step; step outside of the graph, or"
            " make the optimizer, such as cyopt.Adam, with capturable=True"
        )
    if not is_ready:
        raise RuntimeError(
            "the stream is captured into a CUDA graph, but this optimizer has made no step on the"
            " GPU yet since it was made or loaded; make one first, outside of the graph"
        )
