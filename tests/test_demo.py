"""The demo, through its command line, and the network and optimizers it is made of."""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import cyopt
from cyopt.demo import NAMES, add_arguments, as_written, in_place, main, network
from cyopt.extras import output_file

needs_libraries = 'the demo\'s libraries are missing, pip install "cyopt[demo]"'
for library in ("sklearn", "matplotlib", "rich"):
    pytest.importorskip(library, reason=needs_libraries)

OPTIONS = ["--epochs", "--hidden", "--batch", "--seed", "--dtype", "--output"]
SHORT = ["--epochs", "2", "--hidden", "16", "8"]


def demo(*arguments, cwd, **environment):
    package_folder = str(Path(cyopt.__file__).parents[1])
    path = os.pathsep.join([*environment.pop("path", []), package_folder])
    return subprocess.run(
        [sys.executable, "-m", "cyopt", "demo", *arguments],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "80", "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_short_run_of_every_optimizer(tmp_path, dtype):
    result = demo(*NAMES, *SHORT, "--dtype", dtype, "--output", "all.png", cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("same bits: yes") == len(NAMES)
    assert result.stdout.count("90 steps") == len(NAMES)
    assert "picture: all.png" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert (tmp_path / "all.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_default_run_learns_the_digits(tmp_path):
    result = demo(cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    accuracies = [float(text) for text in re.findall(r"([\d.]+)%", result.stdout)]
    assert len(accuracies) == 4
    assert min(accuracies) >= 97.0
    assert (tmp_path / "cyopt-demo.png").exists()


@pytest.mark.parametrize(("module", "name"), [("sklearn", "scikit-learn"), ("rich", "rich")])
def test_missing_library_names_the_cure(tmp_path, module, name):
    (tmp_path / f"{module}.py").write_text(f"raise ModuleNotFoundError(name={module!r})")
    result = demo(*SHORT, cwd=tmp_path, path=[str(tmp_path)])
    assert result.returncode == 1
    assert f"needs {name}, which" in result.stderr
    assert 'pip install "cyopt[demo]"' in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["adm"], "'adm' is unknown, choose from sgd, momentum, adagrad, rmsprop, adam, adamw"),
        (["--epochs", "0"], "--epochs: '0' is not a positive integer"),
        (["--hidden", "8", "x"], "--hidden: 'x' is not a positive integer"),
        (["--batch", "-3"], "--batch: '-3' is not a positive integer"),
        (["--seed", "1.5"], "--seed: '1.5' is not an integer from 0"),
        (["--dtype", "float16"], "--dtype: invalid choice: 'float16'"),
        (["--output", "demo.jpg"], "--output: 'demo.jpg' does not end in .png"),
        (["--output", "no/such/demo.png"], "does not exist"),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(tmp_path, arguments, message):
    result = demo(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert message in " ".join(result.stderr.split())


def test_the_default_picture_is_refused_before_any_work_too(tmp_path):
    (tmp_path / "cyopt-demo.png").mkdir()
    result = demo(*SHORT, cwd=tmp_path)
    assert result.returncode == 2
    assert "'cyopt-demo.png' cannot be written" in " ".join(result.stderr.split())


def test_an_interrupt_prints_no_traceback(tmp_path, monkeypatch):
    from cyopt.demo import app

    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "run", interrupted)
    monkeypatch.chdir(tmp_path)
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert main(parser.parse_args([])) == 130


def test_a_link_to_a_missing_picture_stays_a_link(tmp_path):
    link, target = tmp_path / "link.png", tmp_path / "there.png"
    link.symlink_to(target)
    assert output_file(".png")(str(link)) == link
    assert link.is_symlink()
    assert not target.exists()


def test_a_second_file_beside_the_picture_is_checked_too(tmp_path):
    (tmp_path / "a-more.png").mkdir()
    with pytest.raises(argparse.ArgumentTypeError, match=r"a-more.png' cannot be written"):
        output_file(".png", "-more")(str(tmp_path / "a.png"))
    assert not (tmp_path / "a.png").exists()


def test_help_names_everything(tmp_path):
    result = demo("--help", cwd=tmp_path)
    assert result.returncode == 0
    assert all(word in result.stdout for word in [*OPTIONS, *NAMES])


def test_other_bits_are_reported(tmp_path, monkeypatch, capsys):
    from cyopt.demo import training

    idle = SimpleNamespace(step=lambda grads: True)
    monkeypatch.setattr(training, "attach", lambda optimizer: idle)
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    picture = tmp_path / "demo.png"
    assert main(parser.parse_args(["sgd", *SHORT, "--output", str(picture)])) == 1
    assert "same bits: no" in capsys.readouterr().out
    assert picture.exists()


@pytest.fixture
def small():
    random = np.random.default_rng(3)
    params = network.initial_parameters([5, 7, 6, 4], "float64", seed=3)
    for name in ("b1", "b2", "b3"):
        params[name] += random.normal(size=params[name].shape)
    return params, random.random((9, 5)), random.integers(0, 4, 9)


def test_gradients_are_the_slopes_of_the_loss(small):
    params, images, labels = small
    _, grads = network.loss_and_gradients(params, images, labels)
    h = 1e-6
    for name, p in params.items():
        for i in np.ndindex(p.shape):
            kept = p[i]
            p[i] = kept + h
            above, _ = network.loss_and_gradients(params, images, labels)
            p[i] = kept - h
            below, _ = network.loss_and_gradients(params, images, labels)
            p[i] = kept
            assert grads[name][i] == pytest.approx((above - below) / (2 * h), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("name", ["SGD", "Momentum", "AdaGrad", "RMSProp", "Adam", "AdamW"])
def test_three_implementations_are_one_optimizer(small, name):
    start, images, labels = small
    final = []
    for module in (as_written, in_place, cyopt):
        params = {k: p.copy() for k, p in start.items()}
        optimizer = getattr(module, name)(params, lr=0.01)
        for _ in range(20):
            _, grads = network.loss_and_gradients(params, images, labels)
            optimizer.step(grads)
        final.append(params)
    for k in start:
        assert not np.array_equal(final[0][k], start[k])
        np.testing.assert_allclose(final[1][k], final[0][k], rtol=1e-10)
        np.testing.assert_allclose(final[2][k], final[0][k], rtol=1e-10)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_optimizers_keep_the_dtype(dtype):
    for module in (as_written, in_place):
        for name in ("SGD", "Momentum", "AdaGrad", "RMSProp", "Adam", "AdamW"):
            params = {"w": np.ones(3, dtype)}
            optimizer = getattr(module, name)(params, lr=0.01)
            optimizer.step({"w": np.ones(3, dtype)})
            kept = [arrays for arrays in vars(optimizer).values() if isinstance(arrays, dict)]
            assert {arrays["w"].dtype for arrays in kept} == {np.dtype(dtype)}


def test_a_reader_of_the_output_may_end_first(tmp_path):
    """As head does."""
    ended, pipe = os.pipe()
    os.close(ended)
    command = [sys.executable, "-m", "cyopt", "info"]
    package_folder = str(Path(cyopt.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": package_folder}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, stdout=pipe, stderr=subprocess.PIPE
    )
    os.close(pipe)
    assert (done.returncode, done.stderr) == (1, b"")
