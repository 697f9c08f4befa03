"""scikit-learn's perceptrons, in each way that they are fitted, and what is the same of two."""

import numpy as np
from same_bits import same_bits
from scipy import sparse
from sklearn.neural_network import MLPClassifier
from sklearn.neural_network._stochastic_optimizers import (
    AdamOptimizer,
    BaseOptimizer,
    SGDOptimizer,
)
from sklearn.utils.validation import has_fit_parameter

import cyopt

CLASSES = (AdamOptimizer, SGDOptimizer)
OWN = BaseOptimizer.update_params
RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 8)) * (RNG.random((60, 8)) < 0.7)
Y = X @ RNG.normal(size=8)
SETTINGS = {
    "adam": {},
    "adam, other numbers": {
        "beta_1": 0.8, "beta_2": 0.99, "epsilon": 1e-4, "learning_rate_init": 0.02,
    },
    "adam, NumPy's numbers": {
        "beta_1": np.float64(0.85), "beta_2": np.float64(0.9995), "epsilon": 1e-12,
        "learning_rate_init": np.float64(0.003),
    },
    "sgd": {"momentum": 0.0, "nesterovs_momentum": False},
    "sgd, momentum": {"nesterovs_momentum": False, "learning_rate_init": 0.01},
    "sgd, nesterov": {"momentum": 0.8, "learning_rate_init": 0.01},
    "sgd, invscaling": {"learning_rate": "invscaling", "learning_rate_init": 0.05},
    "sgd, adaptive": {
        "learning_rate": "adaptive", "learning_rate_init": 0.1, "tol": 0.1, "n_iter_no_change": 1,
    },
}  # fmt: skip


def a_fit(make, x, y):
    return make().fit(x, y)


def partial_fits(make, x, y):
    model = make()
    for start in (0, 20, 40):
        some = {"classes": np.unique(y)} if isinstance(model, MLPClassifier) and not start else {}
        model.partial_fit(x[start : start + 20], y[start : start + 20], **some)
    return model


def a_warm_start(make, x, y):
    model = make(warm_start=True).fit(x, y)
    return model.set_params(max_iter=3).fit(x, y)


def early_stopping(make, x, y):
    return make(early_stopping=True, max_iter=30, n_iter_no_change=2).fit(x, y)


def sample_weights(make, x, y):
    return make().fit(x, y, sample_weight=np.linspace(0.5, 2, len(y)))


def sparse_input(make, x, y):
    return make().fit(sparse.csr_matrix(x), y)


WAYS = [a_fit, partial_fits, a_warm_start, early_stopping, sample_weights, sparse_input]
if not has_fit_parameter(MLPClassifier, "sample_weight"):  # since scikit-learn 1.7
    WAYS.remove(sample_weights)


def fitted(way, setting="adam", estimator=MLPClassifier, dtype=np.float64):
    def make(**more):
        given = {"hidden_layer_sizes": (7, 5), "batch_size": 16, "max_iter": 8, "random_state": 0}
        return estimator(solver=setting.split(",")[0], **{**given, **SETTINGS[setting], **more})

    y = np.digitize(Y, [-1, 1]) if estimator is MLPClassifier else Y.astype(dtype)
    return way(make, X.astype(dtype), y)


def same(a, b):
    """Whether two attributes are the same: numbers and arrays bit for bit, in lists and dicts."""
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, BaseOptimizer):
        return type(a) is type(b) and same(vars(a), vars(b))
    if isinstance(a, np.ndarray) and a.dtype.kind == "f":
        return same_bits(a, b)
    if isinstance(a, np.ndarray | int | float | str | None):
        return type(a) is type(b) and bool(np.all((a == b) | ((a != a) & (b != b))))
    return type(a) is type(b)  # random states, label binarizers


def counted(monkeypatch):
    """The steps that cyopt makes from now on: a list of the names of its functions."""
    made = []

    def wrapper(name, step):
        def call(*args, **kwargs):
            done = step(*args, **kwargs)
            made.append(name)
            return done

        return call

    for name in ("adam_", "sgd_"):
        monkeypatch.setattr(cyopt, name, wrapper(name, getattr(cyopt, name)))
    return made


def ended():
    """Whether scikit-learn's classes are as they were."""
    return not any("update_params" in vars(cls) for cls in CLASSES) and all(
        cls.update_params is OWN for cls in (*CLASSES, BaseOptimizer)
    )
