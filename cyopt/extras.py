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


def output_file(ending: str, *also: str) -> Callable[[str], Path]:
    """The type of an argument that names a file to write, refused before the work, not after it.

    `also` are endings of the names of files that are written beside it.
    """

    def check(text: str) -> Path:
        path = Path(text)
        if path.suffix != ending:
            raise argparse.ArgumentTypeError(f"{text!r} does not end in {ending}")
        if not path.parent.is_dir():
            raise argparse.ArgumentTypeError(f"the folder {str(path.parent)!r} does not exist")
        for file in (path, *(beside(path, end) for end in also)):
            _check_writable(file)
        return path

    return check


def beside(path: Path, end: str) -> Path:
    """The file whose name has `end` before the dot."""
    return path.with_name(f"{path.stem}{end}{path.suffix}")


def _check_writable(path: Path) -> None:
    file = path.resolve()  # where a link leads
    new = not file.exists()
    try:
        file.open("ab").close()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{str(path)!r} cannot be written: {error}") from None
    if new:
        file.unlink()
