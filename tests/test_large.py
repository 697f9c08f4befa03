"""More than 2^31 elements: right at both ends, in the middle, and wherever 32 bits would end."""

import numpy as np
import psutil
import pytest
from same_bits import same_bits

import cyopt

SIZE = 2**31 + 5
WIDTH = 1000
# Both ends, with element 2^31 near the last; the middle; 2^31 and 2^32 bytes behind the start.
PLACES = [0, 2**29 - WIDTH // 2, 2**30 - WIDTH // 2, SIZE - WIDTH]


def sparse(seed, stride=1):
    """Zeros, except for random numbers at PLACES. Pages that are never written take no memory."""
    rng = np.random.default_rng(seed)
    array = np.zeros(SIZE, np.float32)[::stride]
    for place in PLACES:
        array[place : place + WIDTH] = rng.standard_normal(WIDTH, np.float32)
    return array


def windows(array):
    """Copies of what is at PLACES."""
    return [array[place : place + WIDTH].copy() for place in PLACES]


def zeros_elsewhere(array):
    """Whether the rest is as it was; a slice at a time, as a comparison makes an array."""
    begins = [0, *(place + WIDTH for place in PLACES)]
    return not any(
        np.any(array[begin:end])
        for start, stop in zip(begins, [*PLACES, SIZE], strict=True)
        for begin in range(start, stop, 2**26)
        for end in [min(stop, begin + 2**26)]
    )


def needs(written):
    """Skip where so many written arrays of this size do not fit beside what else runs."""
    bytes_needed = written * SIZE * 4 + 2**31
    if psutil.virtual_memory().available < bytes_needed:
        pytest.skip(f"needs {bytes_needed / 2**30:.0f} GiB of free memory")


def check(cls, hyper, stride=1):
    """A step over all of it beside one over the windows alone."""
    param, grad = sparse(1), sparse(2, stride)
    expected = windows(param)
    cls(expected, **hyper).step(windows(grad))
    assert cls([param], **hyper).step([grad])
    assert all(map(same_bits, windows(param), expected))
    assert zeros_elsewhere(param)


@pytest.mark.parametrize("stride", [1, -1], ids=["dense", "gathered"])
def test_a_step_is_right_at_all_places(stride):
    needs(written=1)
    check(cyopt.SGD, {"lr": 0.1}, stride)


@pytest.mark.full
def test_a_step_with_state_is_right_at_all_places():
    needs(written=2)
    check(cyopt.Momentum, {"lr": 0.1, "nesterov": True, "weight_decay": 0.1})


def test_norms_count_all_places():
    needs(written=1)
    param, grad = sparse(1), sparse(2)
    opt = cyopt.SGD([param], lr=0.1, clip_norm=1e6)
    opt.step([grad], norms=True)
    for norm, array in [(opt.grad_norm, grad), (opt.param_norm, param)]:
        numbers = np.concatenate(windows(array)).astype(np.float64)
        # In another order of summation, in double.
        assert norm == pytest.approx(np.sqrt(numbers @ numbers), rel=1e-13)
    assert zeros_elsewhere(param)
