"""cyopt.integrations.sklearn: what fits come to, step by step, and what cyopt leaves alone."""

import copy
import warnings

import numpy as np
import pytest
from same_bits import same_bits

pytest.importorskip("sklearn")

from perceptrons import OWN, SETTINGS, WAYS, a_fit, a_warm_start, counted, ended, fitted, same
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer

import cyopt
from cyopt.integrations.sklearn import accelerate

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture
def steps(monkeypatch):
    return counted(monkeypatch)


@pytest.fixture(autouse=True)
def classes_are_as_they_were():
    yield
    assert ended()


# --- what fits come to ----------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("estimator", [MLPClassifier, MLPRegressor])
def test_float64_fits_are_the_same_to_the_bit(estimator, setting, way, steps):
    own = fitted(way, setting, estimator)
    assert not steps
    with accelerate():
        ours = fitted(way, setting, estimator)
    assert same(vars(own), vars(ours))
    plain = setting == "sgd"  # whose velocities cyopt does not keep
    assert set(steps) == (set() if plain else {f"{ours.solver}_"})
    if not plain and ours.solver == "adam":
        assert len(steps) == ours._optimizer.t or way is a_warm_start


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("setting", SETTINGS)
def test_each_float32_step_is_near(setting, way, monkeypatch, steps):
    """scikit-learn computes Adam's update in float64 and rounds the new parameter once."""
    eps = np.finfo(np.float32).eps

    def compared(self, params, grads):
        own, own_params = copy.deepcopy(self), copy.deepcopy(params)
        before = copy.deepcopy(params)
        OWN(own, own_params, grads)
        method(self, params, grads)
        exact = True
        for name in {"ms", "vs", "velocities"} & vars(self).keys():
            for a, b in zip(getattr(self, name), getattr(own, name), strict=True):
                if b.dtype == np.float32:
                    assert same_bits(a, b)
                else:  # made of float64 gradients or numbers: there it loses less where it cancels
                    exact = False
                    assert a.dtype == np.float32 or setting == "sgd"
                    assert (np.abs(a - b) <= 4 * eps * np.abs(b).max()).all()
        for p, q, old in zip(params, own_params, before, strict=True):
            # Three roundings of the update (step size, product, quotient), one of the sum.
            update = np.abs(q - old) if exact else np.abs(q - old).max()
            bound = 2 * eps * update + np.spacing(np.maximum(np.abs(q), np.abs(old)))
            assert p.dtype == np.float32 and (np.abs(p - q) <= bound).all()

    cls = AdamOptimizer if setting.startswith("adam") else SGDOptimizer
    with accelerate(), monkeypatch.context() as patch:
        method = cls.update_params
        patch.setattr(cls, "update_params", compared)
        fitted(way, setting, dtype=np.float32)
    assert len(steps) > 5 or setting == "sgd"


@pytest.mark.parametrize("setting", [name for name in SETTINGS if name.startswith("sgd,")])
def test_sgd_is_the_same_to_the_bit_in_float32_too(setting):
    own = fitted(a_fit, setting, dtype=np.float32)
    with accelerate():
        assert same(vars(own), vars(fitted(a_fit, setting, dtype=np.float32)))


@pytest.mark.parametrize(
    "numbers",
    [
        {"momentum": np.linspace(0.5, 0.9, 3)[1]},
        {"momentum": np.float64(0.5), "nesterovs_momentum": True},
        {"momentum": np.float32(0.9)},
        {"learning_rate_init": np.float64(0.01)},
        {"learning_rate": "invscaling", "power_t": np.float64(0.5)},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numbers_may_have_numpys_types(numbers, dtype):
    def way(make, x, y):
        return make(**numbers).fit(x, y)

    own = fitted(way, "sgd", dtype=dtype)
    with accelerate():
        assert same(vars(own), vars(fitted(way, "sgd", dtype=dtype)))


# --- what cyopt refuses, scikit-learn does --------------------------------------------------------


def outcome(change, cls=AdamOptimizer, dtype=np.float64, **numbers):
    """A step, a change, a step: the optimizer, the parameters, the error, the last warnings."""
    rng = np.random.default_rng(0)
    params, first, grads = (
        [rng.normal(size=shape).astype(dtype) for shape in [(3, 4), (4,)]] for _ in range(3)
    )
    optimizer = cls(params, **numbers)
    error = None
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        optimizer.update_params(params, first)
        warned.clear()
        change(optimizer, params, grads)
        try:
            optimizer.update_params(params, grads)
        except Exception as caught:
            error = repr(caught)
    return vars(optimizer), params, error, [str(warning.message) for warning in warned]


def nothing(optimizer, params, grads):
    pass


CHANGES = {
    "read-only parameters": lambda o, p, g: [a.setflags(write=False) for a in p],
    "read-only state": lambda o, p, g: [m.setflags(write=False) for m in o.ms],
    "float32 state": lambda o, p, g: setattr(o, "vs", [v.astype(np.float32) for v in o.vs]),
    "one state twice": lambda o, p, g: setattr(o, "vs", o.ms),
    "state in another order": lambda o, p, g: setattr(o, "ms", list(map(np.asfortranarray, o.ms))),
    "gradient is a parameter": lambda o, p, g: g.__setitem__(0, p[0]),
    "gradient is broadcast": lambda o, p, g: g.__setitem__(1, g[1][:1]),
    "gradient has another shape": lambda o, p, g: g.__setitem__(1, g[1][:3]),
    "gradient is missing": lambda o, p, g: g.pop(),
    "masked parameter": lambda o, p, g: p.__setitem__(0, np.ma.masked_greater(p[0], 0)),
    "strided parameter": lambda o, p, g: p.__setitem__(1, np.repeat(p[1], 2)[::2]),
}
NUMBERS = {
    "beta_1 is 1": {"beta_1": 1.0},
    "beta_2 is 1": {"beta_2": 1.0},
    "1 - beta_1 is float32's": {"beta_1": np.float32(0.3)},
    "epsilon is 0 in float32": {"epsilon": 1e-50},
    "NaN": {"learning_rate_init": float("nan")},
    "momentum is 0": {"cls": SGDOptimizer, "momentum": 0},
    "momentum is 1": {"cls": SGDOptimizer, "momentum": 1.0},
}


@pytest.mark.parametrize("name", CHANGES)
def test_arrays_that_cyopt_refuses_are_left_to_scikit_learn(name, steps):
    own = outcome(CHANGES[name])
    with accelerate():
        assert same(own, outcome(CHANGES[name]))
    assert steps == ["adam_"]  # the first step


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_that_cyopt_refuses_are_left_to_scikit_learn(name, steps):
    own = outcome(nothing, dtype=np.float32, **NUMBERS[name])
    with accelerate():
        assert same(own, outcome(nothing, dtype=np.float32, **NUMBERS[name]))
    assert not steps


def fortran(optimizer, params, grads):
    params[:] = map(np.asfortranarray, params)
    optimizer.ms, optimizer.vs = (
        list(map(np.asfortranarray, a)) for a in (optimizer.ms, optimizer.vs)
    )


def packed(optimizer, params, grads):
    """Views into one vector, as L-BFGS leaves them."""
    vector = np.concatenate([p.ravel() for p in params])
    params[:] = vector[:12].reshape(3, 4), vector[12:]


def transposed_grads(optimizer, params, grads):
    grads[0] = np.ascontiguousarray(grads[0].T).T


@pytest.mark.parametrize("change", [nothing, fortran, packed, transposed_grads])
def test_layouts_that_cyopt_takes_give_the_same_bits(change, steps):
    own = outcome(change)
    with accelerate():
        assert same(own, outcome(change))
    assert steps == ["adam_", "adam_"]


def test_an_infinite_gradient_is_taken_as_it_is(steps):
    def change(optimizer, params, grads):
        grads[0][0] = np.inf, -np.inf, np.nan, 1e300

    own = outcome(change)
    with accelerate():
        ours = outcome(change)
    assert same(own[:3], ours[:3])
    assert own[3] and not ours[3]  # NumPy warns; cyopt does not
    assert steps == ["adam_", "adam_"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interrupt_leaves_a_step_whole(when, monkeypatch):
    """The `fit` of scikit-learn ends quietly on it, and a partial_fit may go on."""
    adam_ = cyopt.adam_

    def interrupted(*arrays, **numbers):
        if when == "after":
            adam_(*arrays, **numbers)
        raise KeyboardInterrupt

    param, twin, grad = np.ones(3), np.ones(3), np.full(3, 0.5)
    optimizer, other = AdamOptimizer([param]), AdamOptimizer([twin])
    with accelerate():
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(cyopt, "adam_", interrupted)
            optimizer.update_params([param], [grad])
        if when == "after":
            other.update_params([twin], [grad])
        for _ in range(2):
            assert same(vars(optimizer), vars(other)) and same_bits(param, twin)
            optimizer.update_params([param], [grad])
            other.update_params([twin], [grad])
