"""Raises a clear error if the compiled module is missing; imported before all that needs it."""

from importlib.util import find_spec
from pathlib import Path

if find_spec("cyopt._cpu") is None:
    raise ImportError(
        f"cyopt is imported from its sources in {Path(__file__).parent}, which are not compiled:"
        " run Python in another folder, or compile them with `pip install -e .` or `make demo`"
    )
