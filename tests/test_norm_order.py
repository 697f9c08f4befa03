"""The order in which parameters are given changes no norm: their names decide."""

import itertools

import numpy as np
import pytest

import cyopt


def drawn(rng, dtype):
    sizes = [1, 7, 5_000, 3, 20_000]
    return {f"p{i}": rng.normal(size=n).astype(dtype) * 10**i for i, n in enumerate(sizes)}


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_norms_do_not_depend_on_the_order_of_the_list(dtype, reference):
    rng = np.random.default_rng(3)
    params, grads = drawn(rng, dtype), drawn(rng, dtype)
    seen = set()
    for names in itertools.islice(itertools.permutations(params), 0, 120, 7):
        opt = cyopt.SGD({name: params[name].copy() for name in names}, clip_norm=1.0)
        if reference:
            cyopt.reference.attach(opt)
        opt.step({name: grads[name] for name in reversed(names)}, norms=True)
        seen.add((opt.grad_norm, opt.update_norm, opt.param_norm))
    assert len(seen) == 1


def test_a_run_continues_with_its_names_in_another_order():
    rng = np.random.default_rng(4)
    params, grads = drawn(rng, np.float32), [drawn(rng, np.float32) for _ in range(6)]
    straight = {name: param.copy() for name, param in params.items()}
    opt = cyopt.Adam(straight, clip_norm=0.1)
    for grad in grads[:3]:
        opt.step(grad)
    turned = {name: straight[name].copy() for name in reversed(straight)}
    again = cyopt.Adam(turned, clip_norm=0.1)
    again.load_state_dict(opt.state_dict())
    for grad in grads[3:]:
        opt.step(grad)
        again.step(grad)
        assert again.grad_norm == opt.grad_norm
    for name, param in straight.items():
        assert np.array_equal(turned[name], param)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_norms_of_nan_and_infinity_do_not_depend_on_the_order(bad):
    grads = [np.full(3, x) for x in (1.0, bad, 0.5, bad, 2.0)]
    for order in itertools.permutations(range(5)):
        opt = cyopt.SGD([np.ones(3) for _ in grads])
        opt.step([grads[i] for i in order], norms=True)
        assert np.array_equal(opt.grad_norm, bad, equal_nan=True)
