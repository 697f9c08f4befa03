"""Options and fixtures of all tests."""

import pytest

from cyopt import _cpu

pytest.register_assert_rewrite(
    "models", "same_bits", "worlds", "gpu_pair", "torch_pair"
)  # their failures show values


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="the whole of every matrix, and installs")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--full"):
        skip = pytest.mark.skip(reason="part of the whole matrix: run with --full")
        for item in items:
            if "full" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(scope="session")
def full(request):
    """Whether to run the whole of a matrix instead of a sample."""
    return request.config.getoption("--full")


@pytest.fixture(autouse=True)
def same_configuration():
    """Threads, instruction set and subnormals are after each test what they were before."""
    before = _cpu.get_config()
    yield
    _cpu.set_config(**before)


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that is this CPU, in place of the driver's."""
    import gpu_of_host

    return gpu_of_host.stand_in(monkeypatch)
