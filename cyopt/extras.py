"""What the commands of `python -m cyopt` that need more than NumPy share. Standard library only."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path


def libraries_are_there(command: str, libraries: Mapping[str, str]) -> bool:
    """Whether these modules (module -> package) can be imported; if not, the cure is printed."""
    missing = [name for module, name in libraries.items() if not _importable(module)]
    if missing:
        print(
            f"cyopt {command} needs {', '.join(missing)}, which cannot be imported here."
            f' Install what it needs:\n\n    pip install "cyopt[{command}]"',
            file=sys.stderr,
        )
    return not missing


def _importable(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


def output_file(ending: str) -> Callable[[str], Path]:
    """The type of an argument, refused before the work and not after it."""

    def check(text: str) -> Path:
        path = Path(text)
        if path.suffix != ending:
            raise argparse.ArgumentTypeError(f"{text!r} does not end in {ending}")
        if not path.parent.is_dir():
            raise argparse.ArgumentTypeError(f"the folder {str(path.parent)!r} does not exist")
        new = not path.exists()
        try:
            path.open("ab").close()
        except OSError as error:
            raise argparse.ArgumentTypeError(f"{text!r} cannot be written: {error}") from None
        if new:
            path.unlink()
        return path

    return check
