"""The folder bench/: each peer that is installed agrees with the reference; bars judge right."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("psutil", reason='needs pip install "cyopt[bench]"')
pytest.importorskip("rich", reason='needs pip install "cyopt[bench]"')

from cyopt.bench.cases import RULES, Case
from cyopt.bench.compare import DEFAULT_CYOPT
from cyopt.bench.implementations import TWIN, Subject
from cyopt.bench.run import Record, run_case
from cyopt.bench.timing import Effort
from cyopt.bench.workloads import Workload, one_array

FOLDER = Path(__file__).parents[1] / "bench"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="needs the folder bench/")
SHORT = Effort(rounds=2, least=1, sample=1e-5, budget=1e-3)


@pytest.fixture(scope="module", autouse=True)
def folder_on_the_path():
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))


@pytest.fixture
def bars(folder_on_the_path):
    return importlib.import_module("bars")


@pytest.fixture
def figures(folder_on_the_path):
    return importlib.import_module("figures")


# --- the peers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("library", ["torch", "deepspeed", "numba", "numexpr", "optax", "thinc"])
@pytest.mark.filterwarnings("ignore")  # the peers' own
def test_a_peer_computes_what_it_is_timed_for(library, dtype):
    pytest.importorskip(library, reason="`make bench` installs it")
    importlib.import_module("peers")  # sets what must be set before the libraries start
    module = importlib.import_module(f"peers.{library}")
    peers = [*module.PEERS, *getattr(module, "CLIPPING", [])]
    timed = set()
    for rule in RULES.values():
        case = Case(rule, dtype, Workload("two", [(7, 5), (33,)]))
        records, wrong = run_case(case, peers, (1, 2), SHORT, lambda: None)
        assert not wrong
        timed |= {record.rule for record in records}
    assert timed or (dtype == "float64" and library in {"deepspeed", "thinc"})


@pytest.mark.filterwarnings("ignore")
def test_torch_for_a_gpu_computes_what_it_is_timed_for(gpu, monkeypatch):
    """On the CPU, by the code for a GPU."""
    torch = pytest.importorskip("torch", reason="`make bench` installs it")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    module = importlib.import_module("peers.gpu.torch")
    monkeypatch.setattr(module, "DEVICE", "cpu")
    of_gpu = importlib.import_module("cyopt.bench.gpu")
    for rule in RULES.values():
        case = Case(rule, "float32", Workload("two", [(7, 5), (33,)]))
        peers = [*module.PEERS, *of_gpu.OWN]
        records, wrong = run_case(case, peers, (1,), SHORT, lambda: None)
        assert not wrong
        assert len(records) >= 4


def test_numba_for_a_gpu_computes_what_it_is_timed_for():
    pytest.importorskip("numba", reason="`make bench` installs it")
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1", "PYTHONPATH": str(FOLDER)}
    script = Path(__file__).with_name("peers_on_simulator.py")
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert done.stdout == "Numba plain: right\n" * 2, done.stderr


# --- the bars -------------------------------------------------------------------------------------


def record(implementation, seconds, threads=1):
    return Record("adam", "float32", "10M", 1, 10**7, 28 * 10**7, implementation, threads, "", None,
                  None, [seconds] * 3)  # fmt: skip


@pytest.mark.parametrize(
    ("at_most", "figures", "worst", "holds"),
    [
        (False, [1.2, 0.9, 1.1], 0.9, False),
        (False, [1.2, 1.0], 1.0, True),
        (True, [0.5, 1.1], 1.1, False),
        (True, [0.5, 0.9], 0.9, True),
    ],
)
def test_a_bar_is_judged_by_its_worst_figure(bars, at_most, figures, worst, holds):
    values = [bars.Value(figure, str(figure)) for figure in figures]
    row = bars.Row(bars.Bar("a promise", 1, 1.0, "x", lambda: values, at_most))
    row.look()
    assert row.worst() == (worst, str(worst))
    assert row.bar.holds(worst) is holds
    assert ("does not hold" in bars.cells(row.bar, row.worst())[-1]) is not holds


def test_a_bar_without_a_figure_does_not_hold(bars):
    row = bars.Row(bars.Bar("a promise", 1, 1.0, "x", list))
    row.look()
    assert row.worst() is None
    assert bars.cells(row.bar, None)[-1] == "not measured"


@pytest.mark.parametrize(("later", "reached"), [([1.2, 1.3], 1.2), ([0.8, 1.3], 0.9)])
def test_what_breaks_a_bar_is_measured_twice_more_and_the_median_counts(bars, later, reached):
    figures = iter([0.9, *later])
    bar = bars.Bar("", 1, 1.0, "x", lambda: [bars.Value(next(figures), "a"), bars.Value(1.5, "b")])
    row = bars.Row(bar)
    for _ in range(3):
        row.look()
    assert row.looks == {"a": [0.9, *later], "b": [1.5]}
    assert row.worst() == (reached, "a")


def test_a_figure_is_the_other_ones_time_over_cyopts(figures):
    records = [record(DEFAULT_CYOPT, 2e-3), record(TWIN, 1e-3), record(TWIN, 4e-3, threads=2)]
    assert [v.figure for v in figures.over_cyopt(records, TWIN, 1)] == [0.5]
    assert list(figures.over_cyopt(records, TWIN, 2)) == []  # cyopt was not measured there
    assert list(figures.over_cyopt(records, "absent", 1)) == []


def test_cases_are_measured_once_and_wrong_ones_are_reported(figures, monkeypatch):
    monkeypatch.setattr(figures, "EFFORT", SHORT)

    def idle(case, threads):
        yield Subject("idle", "pass", {}, results=lambda: case.params)

    measured = figures.Measured([idle])
    for _ in range(2):
        assert list(measured.against("idle", one_array(100), 1)) == []
    assert [wrong.implementation for wrong in measured.wrong] == ["idle"]
    (value,) = measured.step(one_array(100))
    assert 0 < value.figure < 1e4
    assert value.where == "adam float32 100"


def test_a_case_can_be_measured_again(figures, monkeypatch):
    monkeypatch.setattr(figures, "EFFORT", SHORT)
    measured = figures.Measured([])
    for forgotten, runs in [("another", 1), ("adam float32 100", 2)]:
        measured.forget({forgotten})
        for _ in range(2):
            (value,) = measured.step(one_array(100))
        assert len([r for r in measured.records if r.implementation == DEFAULT_CYOPT]) == runs
    assert value.where == "adam float32 100"


def test_the_options_are_measured_beside_a_plain_step(figures, monkeypatch):
    monkeypatch.setattr(figures, "EFFORT", SHORT)
    monkeypatch.setattr(figures, "LARGE", (1000,))
    measured = figures.Measured([])
    for threads in (1, 2):
        for values in (
            measured.over_plain("ema", threads),
            measured.over_plain("zero_grads", threads),
            measured.clip_over_its_passes(threads),
        ):
            (value,) = values
            assert 0 < value.figure < 1e4
    assert not measured.wrong
    assert list(measured.over_clip("absent", 1)) == []


def test_the_special_measurements_give_ratios(figures):
    (subnormal,) = figures.subnormal_over_normal(n=1000, rounds=3)
    assert subnormal.figure > 0
    assert [v.where for v in figures.busy_over_idle(rounds=2, calls=2)] == [
        "adam float32 digits",
        "adam float32 20k",
    ]


def test_the_report_prints_and_saves_every_bar(bars, monkeypatch, tmp_path, capsys):
    kept = bars.Bar("kept", 1, 1.0, "x", lambda: [bars.Value(2.0, "here")])
    broken = bars.Bar("broken", 1, 1.0, "x", lambda: [bars.Value(0.5, "there")])
    monkeypatch.setattr(bars, "bars", lambda measured: [kept, broken])
    file = tmp_path / "bars.json"
    assert bars.report([], [], {"peer": "1.0"}, file) == 0
    printed = capsys.readouterr().out
    assert printed.count("does not hold") == 1
    assert "measured again: broken, 1 thread, there: 0.500, 0.500, 0.500" in printed
    saved = json.loads(file.read_text())
    assert [(b["text"], b["reached"], b["where"]) for b in saved["bars"]] == [
        ("kept", 2.0, "here"),
        ("broken", 0.5, "there"),
    ]
    assert [b["again"] for b in saved["bars"]] == [{}, {"there": [0.5] * 3}]
    assert saved["machine"]["peer"] == "1.0"
