"""Importing cyopt from its sources, where nothing is compiled, says so."""

import os
import shutil
import subprocess
import sys

import cyopt


def test_sources_that_are_not_compiled_say_so(tmp_path):
    """Python prefers the folder where it is started to a compiled cyopt that is installed."""
    package = tmp_path / "cyopt"
    compiled = shutil.ignore_patterns("*.so")
    shutil.copytree(os.path.dirname(cyopt.__file__), package, ignore=compiled)
    # Without site: what `pip install -e` puts there would find the compiled module.
    alone = [sys.executable, "-S", "-c", "import cyopt"]
    environment = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(alone, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert f"ImportError: cyopt is imported from its sources in {package}" in done.stderr
