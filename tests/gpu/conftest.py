"""`make test-gpu`: tests that need an NVIDIA GPU. `make test` does not collect this folder."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tables of the other tests


def pytest_sessionstart(session):
    from cyopt.cuda import driver

    try:
        driver.device(0)
    except RuntimeError as error:
        pytest.exit(f"no GPU: {error}", returncode=1)


@pytest.fixture
def torch():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch is not for CUDA")
    return torch


@pytest.fixture(autouse=True)
def subnormals_are_kept():
    import cyopt

    cyopt.set_subnormals("keep")
