"""Steps of several ranks under mpiexec: see mpi_jobs.py."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mpi4py", reason="make test-mpi installs it")
HERE = Path(__file__).parent
MPIEXEC = shutil.which(
    "mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.defpath])
)

pytestmark = pytest.mark.skipif(not MPIEXEC, reason="make test-mpi installs an MPI")


def mpi(ranks, script, *arguments):
    """The output of a script on so many ranks; none may hang."""
    flags = ["--oversubscribe"]
    flags += ["--allow-run-as-root"] if os.geteuid() == 0 else []
    command = [MPIEXEC, "-n", str(ranks), *(flags if is_open_mpi() else [])]
    return subprocess.run(
        [*command, sys.executable, HERE / script, *map(str, arguments)],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
    )


def is_open_mpi():
    done = subprocess.run([MPIEXEC, "--version"], capture_output=True, text=True)
    return "Open MPI" in done.stdout + done.stderr or "prterun" in done.stdout


def said(done):
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


several_ranks = pytest.mark.parametrize("ranks", [2, 3, 4])


@several_ranks
def test_the_bits_are_those_of_one_optimizer_with_the_mean_gradient(ranks):
    assert said(mpi(ranks, "mpi_jobs.py", "bits")) == ["same"] * ranks


@several_ranks
def test_gradients_may_be_handed_over_one_by_one_in_any_order(ranks):
    assert said(mpi(ranks, "mpi_jobs.py", "overlap")) == ["same"] * ranks


@several_ranks
def test_a_shard_holds_its_part_of_the_state(ranks):
    assert said(mpi(ranks, "mpi_jobs.py", "memory")) == ["kept"] * ranks


@several_ranks
def test_bits_that_differ_are_found_on_all_ranks(ranks):
    assert said(mpi(ranks, "mpi_jobs.py", "checks")) == ["found"] * ranks


@several_ranks
def test_all_ranks_continue_from_the_state_of_rank_0(ranks):
    assert said(mpi(ranks, "mpi_jobs.py", "resumed")) == ["same"] * ranks


def test_one_rank_steps_as_without_mpi():
    assert said(mpi(1, "mpi_jobs.py", "bits")) == ["same"]


def test_the_example_has_the_same_losses_on_any_number_of_ranks(tmp_path):
    pytest.importorskip("sklearn", reason='needs pip install "cyopt[demo]"')
    script = HERE.parent / "examples" / "data_parallel" / "digits.py"
    if not script.is_file():
        pytest.skip("needs the folder examples/")
    curves = []
    for ranks, more in ((1, []), (2, []), (4, ["--shard", "--save", tmp_path / "adam.npz"])):
        done = mpi(ranks, script, "--epochs", 3, *more)
        assert done.returncode == 0, done.stderr
        curves.append([float(line.split()[-1]) for line in done.stdout.splitlines()[:-1]])
    # Float64 sums in another order, over 87 steps.
    np.testing.assert_allclose(curves[1:], [curves[0]] * 2, rtol=1e-8)
    assert curves[0][-1] < 0.25
    assert (tmp_path / "adam.npz").is_file()


def test_each_sample_is_in_one_batch_of_one_rank():
    class Comm:
        def __init__(self, rank, size):
            self.rank, self.size = rank, size

    own_batches = pytest.importorskip("cyopt.distributed.sampling").own_batches
    for size, epoch in ((1, 0), (3, 0), (3, 1), (7, 1)):
        of_ranks = [list(own_batches(100, 12, Comm(r, size), epoch=epoch)) for r in range(size)]
        for batches in zip(*of_ranks, strict=True):
            assert sum(weight for _, weight in batches) == pytest.approx(size)
        seen = [i for own in of_ranks for samples, _ in own for i in samples]
        assert sorted(seen) == list(range(100))
    assert [list(own) for own, _ in own_batches(100, 12, Comm(0, 1), epoch=0)] != [
        list(own) for own, _ in own_batches(100, 12, Comm(0, 1), epoch=1)
    ]


def test_a_refusal_says_what_is_wrong_and_changes_nothing():
    done = mpi(2, "mpi_jobs.py", "refusals")
    assert done.returncode == 0, done.stderr
    expected = [
        "the gradient of 'w2' is handed over twice",
        "no parameter 'w3'; known: w1, b1",
        "the gradient of 'b2' is None",
        "gradient of 'b2' has dtype float64 but its parameter",
        "gradient of 'b2' shares memory with parameter 'b2'",
        "the gradient of 'w2' was handed over by ready",
        r"gradient of 'b1' has shape \(69,\)",
        "grads does not have the keys of the parameters",
        "state",
        "grads is of type",
        "opt is Adam",
    ]
    for line, pattern in zip(done.stdout.splitlines(), 2 * expected, strict=True):
        assert re.search(pattern, line), (line, pattern)


def test_what_differs_is_named_on_all_ranks():
    done = mpi(3, "mpi_jobs.py", "differences")
    assert done.returncode == 0, done.stderr
    expected = [
        r"parameter 'w' is float64 of shape \(3, 4\).* and float64 of shape \(4, 3\)",
        r"parameter 'w' is float64 .* and float32 ",
        r"the list of parameters is \['v'\] there and \['w'\]",
        r"lr of group 0 is 0.5 there and 0.1",
        r"shard is True there and False",
        r"the optimizer is SGD there and Adam",
        r"lr of group 0 is 0.5 there and 0.1",
    ]
    for line, pattern in zip(done.stdout.splitlines(), expected, strict=True):
        assert re.search(pattern, line)


@pytest.mark.parametrize(
    ("first", "last"),
    [((2, "shard"), (3, "shard")), ((3, "shard"), (1, "whole")), ((2, "whole"), (4, "shard"))],
    ids=str,
)
def test_a_checkpoint_continues_on_another_number_of_ranks(tmp_path, first, last):
    path = tmp_path / "adam.npz"
    for (ranks, shard), what in ((first, "first"), (last, "last")):
        assert said(mpi(ranks, "mpi_jobs.py", "checkpoint", path, what, shard)) == ["done"] * ranks


two_or_three_ranks = pytest.mark.parametrize("ranks", [2, 3])


@two_or_three_ranks
def test_two_optimizers_may_complete_their_buckets_in_any_order(ranks):
    assert said(mpi(ranks, "mpi_jobs.py", "two_optimizers")) == ["right"] * ranks


@two_or_three_ranks
def test_clipping_is_the_same_with_and_without_shards(ranks):
    assert said(mpi(ranks, "mpi_jobs.py", "clipping")) == ["right"] * ranks


@two_or_three_ranks
def test_averages_begin_as_copies_of_the_parameters_of_rank_0(ranks):
    assert said(mpi(ranks, "mpi_jobs.py", "construction")) == ["right"] * ranks


@two_or_three_ranks
def test_a_replaced_parameter_is_followed_on_all_ranks(ranks):
    assert said(mpi(ranks, "mpi_jobs.py", "replaced")) == ["right"] * ranks


@two_or_three_ranks
def test_an_unfit_state_or_file_is_an_error_on_all_ranks(ranks, tmp_path):
    assert said(mpi(ranks, "mpi_jobs.py", "unfit", tmp_path)) == ["right"] * ranks


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ("raises", "ValueError: the loss is not a number"),
        ("in_a_thread", "ValueError: in a thread"),
        ("unbound", "TypeError: opt is SGD"),
    ],
)
def test_a_rank_that_raises_ends_the_job(job, message):
    done = mpi(3, "mpi_jobs.py", job)
    assert done.returncode != 0
    assert "rank 1 of 3 ends the job:" in done.stderr
    assert message in done.stderr


@two_or_three_ranks
def test_ranks_that_took_part_in_the_last_step_may_end_before_others_are_done(ranks):
    assert said(mpi(ranks, "mpi_jobs.py", "ended")) == ["right"] * ranks


@pytest.mark.parametrize("job", ["exits", "ends_inside", "fewer", "turns"])
def test_a_rank_that_ends_before_the_others_ends_the_job(job):
    done = mpi(3, "mpi_jobs.py", job)
    assert done.returncode != 0
    assert "rank 1 has ended, but this one makes another step" in done.stderr
    assert ("no more data" in done.stderr) == (job == "exits")


def test_a_rank_that_dies_ends_the_job():
    assert mpi(3, "mpi_jobs.py", "dies").returncode != 0
