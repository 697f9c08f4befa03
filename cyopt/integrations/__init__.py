"""cyopt inside other frameworks: one module for each, imported only on request.

Each needs its framework, which is an extra: `pip install 'cyopt[sklearn]'`. No rule or check is
repeated here; a module only translates between its framework's names and the core's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

from cyopt import _cpu

_MISSING = object()
Changes = Sequence[tuple[dict[Any, Any], dict[Any, Any]]]  # dicts, and what is to be put into each


def require(package: str, minimum: str, extra: str) -> None:
    """Raise ImportError, which names the extra and the version, unless the package is new enough.

    >>> from cyopt.integrations import require
    >>> require("numpy", "1.26", "sklearn")
    >>> require("numpy", "99.1", "sklearn")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ImportError: numpy 99.1 or later is needed and ... is installed: pip install 'cyopt[sklearn]'
    """
    try:
        found = metadata.version(package)
    except metadata.PackageNotFoundError:
        found = ""
    if _numbers(found) < _numbers(minimum):
        raise ImportError(
            f"{package} {minimum} or later is needed and {found or 'none'} is installed:"
            f" pip install 'cyopt[{extra}]'"
        )


def whole(step: Callable[[], object], changes: Changes, undo: Callable[[], object] = bool) -> None:
    """Put the changes into their dicts, then step once: all or nothing.

    The step is last, so that an interrupt after it finds all done. A refusal, or an interrupt
    before the step is made, undoes the changes, and by `undo` what else `step` does before.

    >>> import numpy as np, cyopt
    >>> from cyopt.integrations import whole
    >>> counts, w = {"w": 0}, np.ones(2)
    >>> try:
    ...     whole(lambda: cyopt.sgd_(w, np.ones(3), lr=0.1), [(counts, {"w": 1})])
    ... except ValueError:
    ...     counts
    {'w': 0}
    """
    made = _cpu.steps_made()
    before = [
        (entries, {key: entries.get(key, _MISSING) for key in new}) for entries, new in changes
    ]
    try:
        for entries, new in changes:
            entries.update(new)
        step()
    except BaseException:
        if _cpu.steps_made() == made:
            undo()
            for entries, old in before:
                for key, value in old.items():
                    if value is _MISSING:
                        entries.pop(key, None)
                    else:
                        entries[key] = value
        raise


def _numbers(version: str) -> tuple[int, ...]:
    """The release of a version as numbers: (1, 26) for "1.26.4rc1"."""
    return tuple(map(int, re.findall(r"\d+", version)[:2]))
