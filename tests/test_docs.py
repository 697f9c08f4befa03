"""The code of README, docs/ and compiled docstrings runs."""

import doctest
import re
from importlib import util
from pathlib import Path

import pytest
from run_python import run_python

from cyopt import _cpu

ROOT = Path(__file__).parents[1]
FILES = sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("README.md")])
BLOCK = re.compile(r"^```python(?: requires=(\w+))?\n(.*?)^```$", re.M | re.S)
GPU = re.compile(r"^## On a GPU$.*?(?=^## )", re.M | re.S)  # tests/gpu/test_readme.py runs it
IMPORTS = "import numpy as np, cyopt\n"  # which README has only in its first block
TEXTS = {path.stem: GPU.sub("", path.read_text(encoding="utf-8")) for path in FILES}
BLOCKS = [
    pytest.param(host, code, id=f"{name}-{i}-{host or 'cyopt'}")
    for name, text in TEXTS.items()
    for i, (host, code) in enumerate(BLOCK.findall(text))
]


@pytest.mark.parametrize(("host", "code"), BLOCKS)
def test_a_block_runs(host, code):
    if host and not util.find_spec(host):
        pytest.skip(f"{host} is not installed")
    run_python(IMPORTS + code)


@pytest.mark.skipif(not FILES, reason="needs the sources, not only the package")
def test_every_block_is_run():
    assert len(BLOCKS) == "".join(TEXTS.values()).count("```python") >= 6


def test_examples_of_compiled_code_run():
    result = doctest.testmod(_cpu)
    assert result.attempted >= 4
    assert result.failed == 0
