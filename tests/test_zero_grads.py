"""zero_grads: a step sets gradients to zero, those alone, and refuses what it cannot."""

import numpy as np
import pytest

import cyopt


def test_gradients_that_cannot_be_zeroed_are_refused():
    params = [np.zeros(4), np.zeros(4)]
    opt = cyopt.SGD(params, zero_grads=True)
    base = np.ones(8)
    frozen = np.ones(4)
    frozen.flags.writeable = False
    repeated = np.lib.stride_tricks.as_strided(base, (4,), (0,), writeable=True)
    for grads, message in (
        ([frozen, base[:4]], "read-only"),
        ([base[:4], base[:4]], "shares memory"),
        ([base[:4], base[3:7]], "shares memory"),
        ([repeated, np.ones(4)], "elements share"),
        ([np.float64(1.0), np.ones(4)], "expected"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            opt.step(grads)
    assert base.all() and not any(p.any() for p in params)
    assert opt.step([base[::2], base[1::2]])  # interleaved, but apart
    assert not base.any()
    for dense in (base[:4], base[4:]), (base[4:], base[:4]):
        base[:] = 1
        assert opt.step(list(dense))
        assert not base.any()
    with pytest.raises(ValueError, match="shares memory"):  # after a step like it
        opt.step([base[:4], base[2:6]])


def test_a_gradient_whose_elements_overlap_is_refused():
    opt = cyopt.SGD([np.zeros((3, 2))], zero_grads=True)
    window = np.lib.stride_tricks.sliding_window_view(np.ones(4), 2, writeable=True)
    with pytest.raises(ValueError, match="elements share"):
        opt.step([window])
    zero_dimensional = cyopt.SGD([np.zeros(())], zero_grads=True)
    with pytest.raises(TypeError, match="expected a"):
        zero_dimensional.step([np.float64(1.0)])


def test_a_zeroed_gradient_is_apart_from_those_of_other_groups():
    params = [np.zeros(4), np.zeros(4)]
    opt = cyopt.SGD([{"params": [params[0]], "zero_grads": True}, {"params": [params[1]]}])
    base = np.ones(4)
    with pytest.raises(ValueError, match="shares memory"):
        opt.step([[base], [base]])
    other = np.ones(4)
    opt.step([[base], [other]])
    assert other.all() and not base.any()


def test_a_gradient_that_overlaps_a_later_zeroed_one_is_refused():
    params = [np.zeros(4), np.zeros(4)]
    opt = cyopt.SGD([{"params": [params[0]]}, {"params": [params[1]], "zero_grads": True}])
    base = np.ones(6)
    with pytest.raises(ValueError, match="shares memory"):
        opt.step([[base[:4]], [base[2:]]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_lies_between_zeroed_elements_stays(dtype):
    opt = cyopt.SGD([np.zeros(5, dtype)], zero_grads=True)
    base = np.ones(10, dtype)
    for _ in range(2):
        base[:] = 1
        opt.step([base[::2]])
        assert np.array_equal(base, [0, 1] * 5)


# --- after a step like it -------------------------------------------------------------------------


def test_dense_gradients_where_strided_ones_lay_are_checked():
    params = [np.zeros(4), np.zeros(4)]
    opt = cyopt.SGD(params, lr=1.0, zero_grads=True)
    base = np.ones(16)
    opt.step([base[:8:2], base[1:8:2]])
    base[:] = 1
    with pytest.raises(ValueError, match="shares memory"):
        opt.step([base[:4], base[1:5]])
    assert base.all()


def test_a_repeated_step_checks_gradients_that_it_zeroes():
    params = [np.zeros((2, 3), np.float32)]
    opt = cyopt.SGD(params, zero_grads=True, cast_grads=True)
    memory = np.ones(6)
    for _ in range(2):
        opt.step([memory.reshape(2, 3)])
    narrow = memory.view(np.float32)[:6].reshape(2, 3)  # the same address
    narrow[...] = 1
    for grad in (narrow, memory.reshape(3, 2).T):
        grad[...] = 1
        opt.step([grad])
        assert not grad.any()
    grad = memory.reshape(2, 3)
    opt.step([grad])
    grad.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        opt.step([grad])
