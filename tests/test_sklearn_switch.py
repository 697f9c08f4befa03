"""cyopt.integrations.sklearn on and off: blocks, threads, processes, pickles, others' patches."""

import copy
import importlib
import itertools
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata

import numpy as np
import pytest
from run_python import run_python

pytest.importorskip("sklearn")

from perceptrons import CLASSES, X, Y, a_fit, counted, ended, fitted, partial_fits, same
from sklearn.neural_network import MLPRegressor
from sklearn.neural_network._stochastic_optimizers import (
    AdamOptimizer,
    BaseOptimizer,
    SGDOptimizer,
)

from cyopt.integrations.sklearn import accelerate, off, on

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture
def steps(monkeypatch):
    return counted(monkeypatch)


@pytest.fixture(autouse=True)
def classes_are_as_they_were():
    yield
    were = ended()
    off()  # for the tests after one that failed
    assert were


def a_step(cls=AdamOptimizer, scale=1):
    optimizer, params = cls([np.zeros(3)]), [np.ones(3)]
    optimizer.update_params(params, [scale * np.arange(3.0)])
    return vars(optimizer), params


def accelerated(cls=AdamOptimizer):
    """Whether a step of it is cyopt's now."""
    with pytest.MonkeyPatch.context() as patch:
        made = counted(patch)
        a_step(cls)
        return len(made) == 1


# --- on and off -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", CLASSES)
def test_on_and_off_and_blocks(cls):
    assert not accelerated(cls)
    off()
    assert ended()
    on()
    on()
    assert accelerated(cls)
    with accelerate():
        off()
        assert accelerated(cls)  # the block is open
    assert not accelerated(cls) and ended()
    with accelerate():
        with accelerate():
            assert accelerated(cls)
        assert accelerated(cls)
        on()
    assert accelerated(cls)  # by `on`
    off()
    assert not accelerated(cls)


def test_an_exception_ends_a_block():
    with pytest.raises(KeyError), accelerate():
        raise KeyError
    assert ended()

    @accelerate()
    def decorated():
        assert accelerated()
        raise KeyError

    for _ in range(2):
        with pytest.raises(KeyError):
            decorated()
        assert ended()


def test_a_block_in_one_thread_outlives_one_in_another():
    inside, leave = threading.Event(), threading.Event()

    def other():
        with accelerate():
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=other)
    with accelerate():
        thread.start()
        inside.wait(60)
    assert accelerated()
    leave.set()
    thread.join(60)
    assert ended()


def test_threads_that_fit_and_switch_at_once():
    def work(_):
        with accelerate():
            return fitted(a_fit, estimator=MLPRegressor)

    own = fitted(a_fit, estimator=MLPRegressor)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(work, range(20)))
    assert all(same(vars(own), vars(result)) for result in results)


# --- other people's classes and patches -----------------------------------------------------------


class Halved(AdamOptimizer):
    """An update of its own."""

    def _get_updates(self, grads):
        return [update / 2 for update in super()._get_updates(grads)]


class Logged(SGDOptimizer):
    """scikit-learn's update, with something beside it."""

    def update_params(self, params, grads):
        self.logged = True
        super().update_params(params, grads)


class Fresh(BaseOptimizer):
    """A rule of which cyopt knows nothing."""

    def __init__(self, params):
        super().__init__()

    def _get_updates(self, grads):
        return [-self.learning_rate * grad for grad in grads]


@pytest.mark.parametrize(("cls", "by_cyopt"), [(Halved, 0), (Logged, 1), (Fresh, 0)])
def test_subclasses_keep_their_rule(cls, by_cyopt, steps):
    own = a_step(cls)
    with accelerate():
        assert same(own, a_step(cls))
    assert len(steps) == by_cyopt


def test_an_optimizer_with_a_method_of_its_own_keeps_it(steps):
    optimizer, params = AdamOptimizer([np.zeros(3)]), [np.zeros(3)]
    optimizer._get_updates = lambda grads: grads
    with accelerate():
        optimizer.update_params(params, [np.arange(3.0)])
    assert np.array_equal(params[0], np.arange(3.0))
    assert not steps


PLACES = [
    (AdamOptimizer, "update_params"),
    (AdamOptimizer, "_get_updates"),
    (BaseOptimizer, "update_params"),
]
ORDERS = [
    order
    for order in itertools.permutations(["on", "off", "put", "take"])
    if order.index("on") < order.index("off") and order.index("put") < order.index("take")
]


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
@pytest.mark.parametrize(("cls", "name"), PLACES)
def test_a_patch_of_somebody_else_lives_through_any_order(cls, name, order):
    own, with_theirs, patch = a_step(), a_step(scale=3), pytest.MonkeyPatch()

    def put():
        replaced = getattr(cls, name)

        def theirs(self, *args):
            *params, grads = args
            return replaced(self, *params, [3 * grad for grad in grads])

        patch.setattr(cls, name, theirs)

    acts = {"on": on, "off": off, "put": put, "take": patch.undo}
    now = set()
    for act in order:
        acts[act]()
        now ^= {{"off": "on", "take": "put"}.get(act, act)}
        assert same(a_step(), with_theirs if "put" in now else own)
        assert "on" in now or not accelerated()
    on()  # where they have put our method back, it does nothing until it is on again
    assert accelerated()
    off()


# --- pickles, copies and other processes ----------------------------------------------------------


def test_a_fitted_model_goes_on_where_cyopt_cannot_be_imported(tmp_path):
    with accelerate():
        model = fitted(partial_fits, estimator=MLPRegressor)
    file = tmp_path / "model"
    file.write_bytes(pickle.dumps((model, X, Y)))
    run_python(
        f"""
        import pathlib, pickle, sys
        sys.modules["cyopt"] = None  # importing it raises ImportError
        file = pathlib.Path({str(file)!r})
        model, X, Y = pickle.loads(file.read_bytes())
        model.partial_fit(X, Y)
        file.write_bytes(pickle.dumps(model))
        """
    )
    with accelerate():
        model.partial_fit(X, Y)
    assert same(vars(pickle.loads(file.read_bytes())), vars(model))


def test_a_copy_has_a_state_of_its_own(steps):
    model = fitted(partial_fits, estimator=MLPRegressor)
    other = copy.deepcopy(model)
    before = copy.deepcopy(vars(model))
    with accelerate():
        other.partial_fit(X, Y)
    assert steps
    assert same(vars(model), before)
    model.partial_fit(X, Y)
    assert same(vars(model), vars(other))


CROSS_VALIDATION = """
import warnings
import joblib
import numpy as np
from cyopt.integrations import sklearn as integration
from sklearn.model_selection import cross_validate
from sklearn.neural_network import MLPRegressor
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer

class Model(MLPRegressor):
    def fit(self, X, y):
        self.by_cyopt_ = "update_params" in vars(AdamOptimizer)
        return super().fit(X, y)

def fits(n_jobs):
    model = Model(hidden_layer_sizes=(5,), max_iter=300, tol=0.01, random_state=0)
    X = np.random.default_rng(0).normal(size=(30, 4))
    scores = cross_validate(model, X, X[:, 0], cv=3, n_jobs=n_jobs, return_estimator=True)
    models = scores["estimator"]
    return [model.by_cyopt_ for model in models], [model.coefs_[0].tobytes() for model in models]

warnings.simplefilter("ignore")
"""


def test_jobs():
    run_python(
        """
        _, own = fits(1)
        with integration.accelerate():
            assert fits(2) == ([False] * 3, own)
            with joblib.parallel_config("threading"):
                assert fits(2) == ([True] * 3, own)
            with joblib.parallel_config("multiprocessing"):
                assert fits(2) == ([True] * 3, own)
        with joblib.parallel_config("loky", initializer=integration.on):
            assert fits(2) == ([True] * 3, own)
        """,
        CROSS_VALIDATION,
    )


# --- versions, and scikit-learn's own tests -------------------------------------------------------


@pytest.mark.parametrize("found", ["1.4.2", None])
def test_an_older_scikit_learn_is_refused(found, monkeypatch):
    def version(package):
        if package != "scikit-learn" or found is None:
            raise metadata.PackageNotFoundError
        return found

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.delitem(sys.modules, "cyopt.integrations.sklearn")
    message = rf"scikit-learn 1.5 or later .* {found or 'none'} .*: pip install 'cyopt\[sklearn\]'"
    with pytest.raises(ImportError, match=message):
        importlib.import_module("cyopt.integrations.sklearn")


OWN_TESTS = """
import sys
import pytest
import cyopt.integrations.sklearn as integration
from perceptrons import counted

steps = counted(pytest.MonkeyPatch())
if sys.argv[1] == "on":
    integration.on()
status = pytest.main(sys.argv[2:])
print("STEPS", len(steps))
sys.exit(status)
"""


def passed(switch, module, folder):
    """The tests of a module of scikit-learn that pass, and how many steps cyopt made in them."""
    # An empty configuration: pytest would find this project's.
    options = ["-c", os.devnull, "--rootdir", str(folder), "-p", "no:cacheprovider", "-rA", "-q"]
    done = subprocess.run(
        [sys.executable, "-c", OWN_TESTS, switch, *options, "--pyargs", module],
        env={**os.environ, "PYTHONPATH": os.path.dirname(__file__)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    words = [line.split() for line in done.stdout.splitlines()]
    names = [line[1] for line in words if line[:1] == ["PASSED"]]
    return names, next(int(line[1]) for line in words if line[:1] == ["STEPS"])


@pytest.mark.parametrize(
    ("module", "least"),
    [("test_stochastic_optimizers", 10), pytest.param("test_mlp", 5000, marks=pytest.mark.full)],
)
def test_its_own_tests_pass_as_well(module, least, tmp_path):
    module = f"sklearn.neural_network.tests.{module}"
    own, none = passed("off", module, tmp_path)
    ours, steps = passed("on", module, tmp_path)
    assert ours == own and len(own) > 5
    assert none == 0 and steps > least
