"""The folder bench/hosts: both trainings of a row come to the same, one of them by cyopt."""

import importlib
import importlib.util
import json
import math
import sys
from pathlib import Path

import pytest

pytest.importorskip("psutil", reason='needs pip install "cyopt[bench]"')
pytest.importorskip("rich", reason='needs pip install "cyopt[bench]"')

from cyopt import _cpu
from cyopt.bench import _twin
from cyopt.bench.timing import Effort

FOLDER = Path(__file__).parents[1] / "bench"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="needs the folder bench/")
SHORT = Effort(rounds=2, least=2, sample=1e-5, budget=1e-3)
HOSTS = ("sklearn", "autograd", "thinc", "spacy", "torch", "numba")


@pytest.fixture(autouse=True)
def folder_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)


def some_reviews():
    """In place of those that must be fetched."""
    kinds = [("bad", "good")[i % 2] for i in range(600)]
    texts = [f"{kind} thing, the {i % 37}th of {i % 11}" * 3 for i, kind in enumerate(kinds)]
    return texts, [kind == "good" for kind in kinds]


def loss(side):
    try:
        return side.train()
    except ValueError:  # of a host that looks for numbers that are not finite
        return math.nan


@pytest.mark.full  # minutes
@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.filterwarnings("ignore")  # the hosts' own
def test_trainings_come_to_the_same_and_one_is_cyopts(host, monkeypatch):
    """With kernels that compute something else cyopt's side changes, and the host's does not."""
    pytest.importorskip(host)
    module = importlib.import_module(f"hosts.{host}")
    if hasattr(module, "reviews"):
        monkeypatch.setattr(module, "reviews", some_reviews)
    kernels = _cpu.get_config()["kernels"]
    for row in module.ROWS:
        own, ours = row.sides()
        losses = loss(own), loss(ours)
        assert abs(losses[0] - losses[1]) <= row.tolerance * abs(losses[0]), row.task
        _cpu.set_config(kernels=_twin.KERNELS)
        try:
            assert loss(own) == losses[0], row.task
            assert loss(ours) != losses[1], row.task
        finally:
            _cpu.set_config(kernels=kernels)
        own.step()
        ours.step()


@pytest.fixture
def app(folder_on_the_path):
    return importlib.import_module("hosts.app")


def a_row(app, own, ours, tolerance):
    side = importlib.import_module("hosts.rows").Side
    sides = [side(lambda loss=loss: loss, lambda: None) for loss in (own, ours)]
    return app.Row("a host", "a task", [(2, 3), (3,)], tolerance, lambda: sides, steps=10)


@pytest.mark.parametrize(
    ("own", "ours", "tolerance", "right"),
    [
        (0.5, 0.5, 0.0, True),
        (0.5, 0.5000001, 0.0, False),
        (0.5, 0.5004, 1e-3, True),
        (0.5, 0.5006, 1e-3, False),
        (-0.5, -0.4996, 1e-3, True),
        (0.5, math.nan, 1e-3, False),
        (math.nan, math.nan, 1e-3, False),
    ],
)
def test_losses_that_differ_are_not_timed(app, own, ours, tolerance, right):
    row = a_row(app, own, ours, tolerance)
    if right:
        result = app.run_row(row, SHORT, SHORT)
        assert result.losses == (own, ours)
        assert [len(times) for times in (*result.step, *result.training)] == [2] * 4
    else:
        with pytest.raises(app.UnequalError, match=f"losses are {own} and {ours}"):
            app.run_row(row, SHORT, SHORT)


def fails():
    raise OSError("no such host")


def test_what_is_printed_and_saved(app, monkeypatch, capsys, tmp_path):
    rows = [
        a_row(app, 1.0, 1.0, 0.0),
        a_row(app, 1.0, 2.0, 0.5),
        app.Row("another", "task", [()], 0.0, fails),
    ]
    module = type(sys)("hosts.sklearn")
    module.ROWS = rows
    monkeypatch.setitem(sys.modules, "hosts.sklearn", module)
    monkeypatch.setitem(sys.modules, "hosts.torch", None)
    file = tmp_path / "rows.json"
    assert app.run(["sklearn", "torch"], file) == 1
    printed = capsys.readouterr().out
    assert "Measuring without torch" in printed
    assert "WRONG, not timed: a host, a task: UnequalError: the losses are 1.0 and 2.0" in printed
    assert "WRONG, not timed: another, task: OSError: no such host" in printed
    saved = json.loads(file.read_text())
    assert [row["numbers"] for row in saved["rows"]] == [9]
    assert len(saved["wrong"]) == 2
    assert "scikit-learn" in saved["machine"]
