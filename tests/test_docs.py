"""The code of docs/ and of compiled docstrings runs."""

import doctest
import re
from importlib import util
from pathlib import Path

import pytest
from run_python import run_python

from cyopt import _cpu

FOLDER = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```python(?: requires=(\w+))?\n(.*?)^```$", re.M | re.S)
BLOCKS = [
    pytest.param(host, code, id=f"{path.stem}-{i}-{host or 'cyopt'}")
    for path in sorted(FOLDER.glob("*.md"))
    for i, (host, code) in enumerate(BLOCK.findall(path.read_text()))
]


@pytest.mark.parametrize(("host", "code"), BLOCKS)
def test_a_block_runs(host, code):
    if host and not util.find_spec(host):
        pytest.skip(f"{host} is not installed")
    run_python(code)


@pytest.mark.skipif(not FOLDER.is_dir(), reason="needs the sources, not only the package")
def test_every_block_is_run():
    text = "".join(path.read_text() for path in FOLDER.glob("*.md"))
    assert len(BLOCKS) == text.count("```python") >= 3


def test_examples_of_compiled_code_run():
    result = doctest.testmod(_cpu)
    assert result.attempted >= 4
    assert result.failed == 0
