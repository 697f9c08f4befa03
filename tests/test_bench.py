"""The benchmark: its command line and files, what it refuses to time, and what it measures with."""

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import cyopt
from cyopt.bench import UNITS, add_arguments, main
from cyopt.bench.cases import CHECKED_STEPS, LR, RULES, Case
from cyopt.bench.selection import FULL_CHOICE, select, term
from cyopt.bench.timing import Effort, measure, ratio, spread
from cyopt.bench.workloads import SIZES, model, one_array, short

needs_libraries = 'the benchmark\'s libraries are missing, pip install "cyopt[bench]"'
for library in ("cpuinfo", "matplotlib", "psutil", "rich"):
    pytest.importorskip(library, reason=needs_libraries)

from cyopt import _cpu  # noqa: E402
from cyopt.bench import _twin, compare, implementations, report, run  # noqa: E402
from cyopt.bench.implementations import TWIN, Subject, cyopt_and_twin, roof  # noqa: E402
from cyopt.bench.report import Results, conclusion, duration  # noqa: E402
from cyopt.bench.run import Record, fits, run_case  # noqa: E402

PNG = b"\x89PNG\r\n\x1a\n"
TINY = ["--quick", "--only", "sgd", "float64", "1k", "1t"]


def bench(*arguments, cwd, path=(), **environment):
    package_folder = str(Path(cyopt.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-m", "cyopt", "bench", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*path, package_folder]), **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
    )


def here(*arguments, more=()):
    """The same in this process."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return main(parser.parse_args(arguments), more)


# --- the command line -----------------------------------------------------------------------------


def test_tables_json_and_pictures(tmp_path):
    result = bench(*TINY, "digits", "--json", "b.json", "--plot", "b.png", cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "sgd float64, 1 thread, 24 bytes per element" in result.stdout
    for row in ("NumPy as written", "cyopt base", "traffic twin", "share of the twin", "GB/s"):
        assert row in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100
    assert "\x1b" not in result.stdout
    assert (tmp_path / "b.png").read_bytes().startswith(PNG)
    assert (tmp_path / "b-models.png").read_bytes().startswith(PNG)
    check_json(json.loads((tmp_path / "b.json").read_text()))


def check_json(saved):
    assert saved["machine"]["cyopt"] == cyopt.__version__
    assert {"CPU", "memory", "NumPy", "compiler", "ISA"} <= set(saved["machine"])
    assert saved["settings"]["rules"] == ["sgd"]
    assert saved["settings"]["workloads"] == ["1k", "digits"]
    assert saved["wrong"] == saved["skipped"] == []
    names = {r["implementation"] for r in saved["records"]}
    assert {"NumPy as written", "NumPy with out=", "cyopt base", "traffic twin"} <= names
    for record in saved["records"]:
        assert record["bytes"] == 24 * record["elements"]
        assert min(record["seconds"]) <= record["median"] <= max(record["seconds"])
        assert record["same_bits"] in ([True] if "cyopt" in record["implementation"] else
                                       [True, False, None])  # fmt: skip


def test_help_names_everything(tmp_path):
    result = bench("--help", cwd=tmp_path)
    assert result.returncode == 0
    for word in ("--only", "--quick", "--json", "--plot", "resnet50", "traffic twin", "130"):
        assert word in result.stdout


@pytest.mark.parametrize("module", ["rich", "psutil", "cpuinfo"])
def test_missing_library_names_the_cure(tmp_path, module):
    (tmp_path / f"{module}.py").write_text(f"raise ModuleNotFoundError(name={module!r})")
    result = bench(*TINY, cwd=tmp_path, path=[str(tmp_path)])
    assert result.returncode == 1
    assert f"needs {'py-' if module == 'cpuinfo' else ''}{module}, which" in result.stderr
    assert 'pip install "cyopt[bench]"' in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "adm"], "'adm' is unknown (nearest: adam); rules: sgd, momentum"),
        (["--only", "resnet5"], "'resnet5' is unknown (nearest: resnet50); rules: sgd"),
        (["--only", "0"], "'0' is unknown; rules: sgd"),
        (["--only", "1.5"], "'1.5' is unknown"),
        (["--only", "100000t"], "threads: 1t to"),
        (["--only", "float16"], "threads: 1t to"),
        (["--json", "b.txt"], "--json: 'b.txt' does not end in .json"),
        (["--plot", "no/such/b.png"], "does not exist"),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        here(*arguments)
    assert message in " ".join(capsys.readouterr().err.split())


# --- what is timed --------------------------------------------------------------------------------


def idle(case, threads):
    """Does nothing, and says that this is a step."""
    yield Subject("idle", "pass", {}, results=lambda: case.params)


def not_a_number(case, threads):
    yield Subject("nan", "p.fill(nan)", {"p": case.params[0], "nan": np.nan},
                  results=lambda: case.params)  # fmt: skip


def test_a_wrong_result_is_not_timed(tmp_path, capsys):
    file = tmp_path / "b.json"
    assert here(*TINY, "--json", str(file), more=[idle, not_a_number]) == 1
    printed = capsys.readouterr().out
    assert "WRONG, not timed: idle, sgd float64 1k: off by 1 of the largest change" in printed
    saved = json.loads(file.read_text(), parse_constant=pytest.fail)  # NaN is not JSON
    assert [(w["implementation"], w["error"]) for w in saved["wrong"]] == [
        ("idle", pytest.approx(1.0)),
        ("nan", None),
    ]
    assert not {"idle", "nan"} & {r["implementation"] for r in saved["records"]}
    assert saved["records"]


def interrupting(case, threads):
    if case.workload.name == "2k":
        raise KeyboardInterrupt
    return []


def test_an_interrupt_keeps_what_was_measured_and_restores_the_settings(tmp_path, capsys):
    cyopt.set_isa("base")
    cyopt.set_num_threads(1)
    file = tmp_path / "b.json"
    arguments = [word for word in TINY if word != "1t"]
    assert here(*arguments, "2k", "--json", str(file), more=[interrupting]) == 130
    assert cyopt.get_isa() == "base"
    assert cyopt.get_num_threads() == 1
    printed = capsys.readouterr().out
    assert "Interrupted" in printed
    assert "sgd float64, 1 thread" in printed
    assert "2 threads" not in printed
    assert {r["workload"] for r in json.loads(file.read_text())["records"]} == {"1k"}


def test_a_case_too_large_for_the_memory_is_skipped(capsys, monkeypatch):
    assert not fits(RULES["adam"], "float64", one_array(10**15), 5)
    assert fits(RULES["adam"], "float64", one_array(100), 15)
    with monkeypatch.context() as patch:
        patch.setattr(run, "cgroup_memory", lambda: implementations.ROOF_BYTES)
        assert not fits(RULES["adam"], "float64", one_array(100), 15)
    assert here("--quick", "--only", "adam", "float32", "1e15") == 1  # nothing is measured
    assert "too large for the free memory: adam float32 1000000000M" in capsys.readouterr().out


def test_a_file_that_cannot_be_saved_leaves_the_other_one(tmp_path, capsys, monkeypatch):
    def full(path, kept):
        raise OSError(28, "No space left on device", path)

    monkeypatch.setattr(report, "write_json", full)
    files = ["--json", str(tmp_path / "b.json"), "--plot", str(tmp_path / "b.png")]
    assert here(*TINY, *files) == 1
    assert "No space left on device" in capsys.readouterr().out
    assert (tmp_path / "b.png").read_bytes().startswith(PNG)


def test_a_link_to_the_file_stays_a_link(tmp_path):
    link, target = tmp_path / "b.json", tmp_path / "target.json"
    target.write_text("{}")
    link.symlink_to(target)
    report.write_json(link, {"a": 1})
    assert link.is_symlink() and json.loads(target.read_text()) == {"a": 1}
    assert sorted(tmp_path.iterdir()) == [link, target]


def test_only_may_be_given_twice():
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    words = ["--only", "adam", "1t", "--only", "1k"]
    assert parser.parse_args(words).only == parser.parse_args(["--only", "adam", "1t", "1k"]).only


def test_a_busy_machine_is_reported():
    steady = dict.fromkeys(("rule", "dtype", "workload", "statement"), "")
    steady |= {"arrays": 1, "elements": 1, "bytes": 1, "threads": 1, "error": 0.0}
    quiet = Record(**steady, same_bits=True, implementation="cyopt base", seconds=[1.0, 1.0, 1.01])
    noisy = replace(quiet, seconds=[1.0, 1.0, 3.0])
    numpy = replace(noisy, implementation="NumPy as written")  # its allocations have a spread
    assert not list(conclusion(Results({}, {}, [*[quiet] * 9, noisy, numpy])))
    told = list(conclusion(Results({}, {}, [quiet, noisy, numpy])))
    assert told[0].plain.startswith("1 of 2 times of cyopt and the twin have a spread above 10%")


# --- what is selected -----------------------------------------------------------------------------


def test_default_selection():
    everything = select([], FULL_CHOICE)
    assert [r.name for r in everything.rules] == ["sgd", "momentum", "adagrad", "rmsprop", "adam"]
    assert everything.dtypes == ["float32", "float64"]
    assert len(everything.workloads) == len(SIZES) + 7
    assert everything.threads == sorted({1, cyopt.get_num_threads()})


def test_only_restricts_the_kinds_it_names():
    some = select([term(t) for t in ("AmsGrad", "1M", "1e6", "gpt2", "2.5k")], FULL_CHOICE)
    assert [r.name for r in some.rules] == ["amsgrad"]
    assert [w.name for w in some.workloads] == ["2500", "1M", "gpt2"]
    assert some.dtypes == ["float32", "float64"]
    assert select([term("1t")], FULL_CHOICE).threads == [1]


# --- what it is measured with ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "elements", "arrays"),
    [
        ("digits", 2_410, 4),
        ("mnist", 235_146, 6),
        ("many-small", 1_000_000, 1_000),
        ("sparse-text", 2_000_201, 4),
        ("spacy", 929_618, 26),
        ("resnet50", 25_557_032, 161),
        ("gpt2", 124_439_808, 148),
    ],
)
def test_models_have_the_architectures_parameters(name, elements, arrays):
    workload = model(name)
    assert (workload.elements, len(workload.shapes)) == (elements, arrays)
    assert workload.is_model


def test_streams_are_the_arrays_read_and_written():
    streams = {name: rule.streams for name, rule in RULES.items()}
    assert streams == {
        "sgd": 3,
        "momentum": 5,
        "nesterov": 5,
        "adagrad": 5,
        "rmsprop": 5,
        "rmsprop_centered": 7,
        "rmsprop_momentum": 7,
        "rmsprop_centered_momentum": 9,
        "adam": 7,
        "amsgrad": 9,
    }
    assert Case(RULES["adam"], "float32", one_array(10)).bytes == 280


def test_error_is_a_part_of_the_largest_change():
    case = Case(RULES["sgd"], "float64", one_array(5))
    assert case.error(case.expected) == 0.0
    assert case.same_bits(case.expected)
    assert case.error(case.params) == 1.0  # nothing changed yet
    halfway = [(case.params[0] + case.expected[0]) / 2]
    assert case.error(halfway) == pytest.approx(0.5)
    assert not case.same_bits(halfway)
    assert np.isnan(case.error([np.full(5, np.nan)]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_the_twin_moves_the_rules_bytes(rule, dtype):
    param, grad = np.zeros(100, dtype), np.arange(100, dtype=dtype)
    optimizer = rule.optimizer([param])
    _cpu.set_config(kernels=_twin.KERNELS)
    optimizer.step([grad])
    state = list(optimizer.state["0"].values())
    assert len(state) == (rule.streams - 3) // 2
    before = [a.copy() for a in (param, *state)]
    optimizer.step([grad])
    for old, new in zip(before, (param, *state), strict=True):
        assert np.array_equal(new, old + grad)


def test_spread_and_ratio():
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(2 / 3)
    assert spread([7.0, 7.0, 7.0]) == 0.0
    assert ratio([2.0, 4.0, 60.0, 9.0], [1.0, 2.0, 3.0]) == 2.0  # by rounds that both have


def test_numbers_are_read_easily():
    assert [short(n) for n in (100, 1_500, 10_000, 40_000_000)] == ["100", "1500", "10k", "40M"]
    assert [duration(s) for s in (9.996e-6, 9.999e-4, 0.5)] == ["10.0 us", "1.00 ms", "500 ms"]


# --- impostors, and the harness itself ------------------------------------------------------------


def stepping(function):
    """An implementation that calls `function(t, p, g, *states)` for a case of one array."""

    def implementation(case, threads):
        states = [np.zeros_like(case.params[0]) for _ in range(3)]
        names = {"step": function, "p": case.params[0], "g": case.grads[0], "states": states}

        def start():
            names["t"] = itertools.count(1)
            for state in states:
                state[...] = 0

        yield Subject(function.__name__, "step(next(t), p, g, *states)", names, start=start,
                      results=lambda: case.params)  # fmt: skip

    return implementation


def honest_adam(t, p, g, m, v, _):
    m[...] = 0.9 * m + (1 - 0.9) * g
    v[...] = 0.999 * v + (1 - 0.999) * g**2
    p -= LR / (1 - 0.9**t) * m / (np.sqrt(v) / np.sqrt(1 - 0.999**t) + 1e-8)


def sign_descent(t, p, g, *_):
    p -= LR * g / (abs(g) + 1e-8)


def lazy(t, p, g, *states):
    if t <= len(CHECKED_STEPS):
        honest_adam(t, p, g, *states)


def wrong_beta(t, p, g, m, v, _):
    m[...] = 0.9 * m + (1 - 0.9) * g
    v[...] = 0.99 * v + (1 - 0.99) * g**2
    p -= LR / (1 - 0.9**t) * m / (np.sqrt(v) / np.sqrt(1 - 0.99**t) + 1e-8)


def fails(t, p, g, *_):
    raise OSError("no such library")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("rule", "function", "right"),
    [
        ("adam", honest_adam, True),
        ("adam", sign_descent, False),
        ("adam", wrong_beta, False),
        ("adam", lazy, False),
        ("adam", fails, False),
        ("amsgrad", honest_adam, False),
        ("amsgrad", sign_descent, False),
    ],
)
def test_impostors_are_not_timed(rule, function, right, dtype):
    case = Case(RULES[rule], dtype, one_array(1000))
    short = Effort(rounds=2, least=1, sample=1e-5, budget=1e-3)
    records, wrong = run_case(case, [stepping(function)], (1,), short, lambda: None)
    assert [r.implementation for r in records] == ([function.__name__] if right else [])
    assert len(wrong) == (not right)
    if function is fails:
        assert wrong[0].message == "OSError: no such library"


def test_what_cannot_be_checked_is_not_timed():
    case = Case(RULES["sgd"], "float32", one_array(10))
    short = Effort(rounds=2, least=1, sample=1e-5, budget=1e-3)
    records, wrong = run_case(case, [lambda *_: [Subject("no", "pass", {})]], (1,), short, print)
    assert records == []
    assert [w.message for w in wrong] == ["TypeError: it has no results to check"]


@pytest.mark.parametrize("exact", [True, False])
def test_the_last_bit_counts_for_cyopt(exact):
    case = Case(RULES["sgd"], "float32", one_array(1000))
    optimizer = RULES["sgd"].optimizer(case.params)

    def almost(case, threads):
        names = {"opt": optimizer, "grads": case.grads}
        yield Subject("almost", "opt.step(grads)", names, results=results, exact=exact)

    def results():
        return [np.nextafter(case.params[0], np.float32(np.inf))]

    short = Effort(rounds=2, least=1, sample=1e-5, budget=1e-3)
    records, wrong = run_case(case, [almost], (1,), short, lambda: None)
    assert (len(records), len(wrong)) == ((0, 1) if exact else (1, 0))


def test_a_sample_is_the_time_of_one_call():
    prepared = []
    subjects = [
        Subject(
            str(n),
            "sleep(n)",
            {"sleep": time.sleep, "n": n},
            prepare=lambda n=n: prepared.append(n),
        )
        for n in (1e-3, 4e-3)
    ]
    effort = Effort(rounds=4, least=2, sample=5e-3, budget=1.0)
    one, four = measure(subjects, effort, lambda: None)
    assert len(one) == len(four) == 4
    assert 1e-3 <= min(one) < 3e-3 < 4e-3 <= min(four) < 12e-3
    assert sorted(set(prepared)) == [1e-3, 4e-3]
    assert prepared.count(1e-3) >= 5  # in each round, and to find the number of calls


def test_slow_subjects_have_fewer_rounds():
    subject = Subject("slow", "sleep(0.01)", {"sleep": time.sleep})
    (seconds,) = measure([subject], Effort(9, 2, 1e-3, 0.015), lambda: None)
    assert len(seconds) == 2


def test_a_subject_runs_with_what_it_says():
    """The instruction set, the threads and the kernels are those of the name, in the statement."""
    case = Case(RULES["adam"], "float32", one_array(100))
    twins = 0
    for subject in cyopt_and_twin(case, (1, 2)):
        subject.start()
        subject.prepare()
        config = _cpu.get_config()
        assert config["num_threads"] == subject.threads
        is_twin = subject.name == TWIN
        twins += is_twin
        assert (config["kernels"] == _twin.KERNELS) is is_twin
        if not is_twin:
            assert subject.name == f"cyopt {cyopt.get_isa()}"
    assert twins == 2


def test_the_roof_moves_the_bytes_of_the_step():
    case = Case(RULES["adam"], "float64", one_array(2_000_000))
    moved = {"memcpy": 2, "triad": 3, "a += q*b": 3}  # streams
    arrays = {"memcpy": 2, "triad": 3, "a += q*b": 2}
    seen = set()
    for subject in roof(case, (1, 2)):
        names = subject.namespace
        parts = [names["part"]] if subject.threads == 1 else names["parts"]
        size = sum(stream.nbytes for part in parts for stream in part)
        size = size / arrays[subject.name] * moved[subject.name] * names["passes"]
        assert size == pytest.approx(case.bytes, rel=1e-3)
        exec(subject.statement, names)
        seen.add((subject.name, subject.threads))
    assert len(seen) == 6


def record(implementation, seconds, threads=1):
    return Record("adam", "float32", "1k", 1, 1000, 28_000, implementation, threads, "", 0.0, True,
                  seconds)  # fmt: skip


def test_cells_in_each_unit():
    ours = record(compare.DEFAULT_CYOPT, [2e-6] * 3)
    cells = {unit: report.cell(ours, figure).plain for unit, (_, figure) in report.CELLS.items()}
    assert cells == {"time": "2.00 us ", "ns": "2.00 ", "GB/s": "14.0 "}
    assert set(UNITS) == set(cells)
    assert report.cell(None, str).plain == ""


def test_a_table_says_where_it_was_measured():
    case = [record(implementations.ON_GPU, [1e-6] * 3), record(compare.DEFAULT_CYOPT, [1e-6] * 3)]
    assert report.title(case, 1).plain == "adam float32, GPU, 28 bytes per element"
    assert report.title(case[1:], 1).plain == "adam float32, 1 thread, 28 bytes per element"


def test_figures_of_records():
    ours = record(compare.DEFAULT_CYOPT, [2e-6, 2e-6, 4e-6])
    case = [record("cyopt none", [1e-6] * 3), ours, record(TWIN, [1e-6, 1e-6, 2e-6])]
    assert compare.default_cyopt(case, 1) is ours
    assert compare.default_cyopt(case, 2) is None
    assert compare.times_faster(ours, compare.find(case, TWIN, 1)) == pytest.approx(0.5)
    assert ours.gigabytes_per_second == pytest.approx(14.0)
    assert ours.ns_per_element == pytest.approx(2.0)
