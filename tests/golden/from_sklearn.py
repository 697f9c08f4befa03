"""scikit-learn's optimizers of MLPClassifier and MLPRegressor."""

import sklearn
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer
from trajectory import LR, Case

LIKE = "sklearn"
VERSION = sklearn.__version__
DTYPES = ("float32", "float64")

CLASSES = {"SGD": SGDOptimizer, "Momentum": SGDOptimizer, "Adam": AdamOptimizer}
NAMES = {"lr": "learning_rate_init", "eps": "epsilon"}


def case(name: str, cls: str, **kwargs) -> Case:
    own = {NAMES.get(key, key): value for key, value in kwargs.items()}
    if kwargs.get("lr") == "schedule":
        own["learning_rate_init"] = LR[0]
    if "betas" in own:
        own["beta_1"], own["beta_2"] = own.pop("betas")
    return Case(name, cls, kwargs, lambda params: CLASSES[cls](params, **own))


CASES = [
    case("default", "SGD"),
    case("lr", "SGD", lr=0.01),
    case("plain", "SGD", momentum=0.0, nesterov=False),
    case("momentum", "SGD", momentum=0.8, nesterov=False),
    case("nesterov", "SGD", lr=0.01, momentum=0.8, nesterov=True),
    case("schedule", "SGD", lr="schedule", nesterov=False),
    case("schedule_nesterov", "SGD", lr="schedule"),
    case("default", "Momentum"),
    case("classical", "Momentum", nesterov=False),
    case("default", "Adam"),
    case("lr", "Adam", lr=0.1),
    case("betas", "Adam", lr=0.1, betas=(0.8, 0.9)),
    case("eps", "Adam", lr=0.1, eps=0.1),
    case("schedule", "Adam", lr="schedule"),
]


def run(case: Case, start, grads):
    optimizer = case.make(start)
    for t, step_grads in enumerate(grads):
        if case.scheduled:  # Adam makes learning_rate from learning_rate_init at each step
            optimizer.learning_rate = optimizer.learning_rate_init = LR[t]
        optimizer.update_params(start, step_grads)
        yield start
