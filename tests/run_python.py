"""Code in an interpreter of its own, for what may hang or crash or change the whole process."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path


def run_python(code, *prelude, **environment):
    """Run code with a time limit, so that a hang fails; what it prints. It may import tests."""
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(map(textwrap.dedent, [*prelude, code]))],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr or f"exit status {done.returncode}"
    return done.stdout
