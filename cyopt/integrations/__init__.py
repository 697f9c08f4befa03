"""cyopt inside other frameworks: one module for each, imported only on request.

Each needs its framework, which is an extra: `pip install 'cyopt[sklearn]'`. No rule or check is
repeated here; a module only translates between its framework's names and the core's.
"""

from __future__ import annotations

import re
from importlib import metadata


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


def _numbers(version: str) -> tuple[int, ...]:
    """The release of a version as numbers: (1, 26) for "1.26.4rc1"."""
    return tuple(map(int, re.findall(r"\d+", version)[:2]))
