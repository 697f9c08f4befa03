"""autograd's optimizers; their state is always float64."""

from importlib.metadata import version

from autograd.misc.optimizers import adam, rmsprop, sgd
from trajectory import Case

LIKE = "autograd"
VERSION = version("autograd")
DTYPES = ("float64",)

CLASSES = {"SGD": sgd, "Momentum": sgd, "RMSProp": rmsprop, "Adam": adam}
NAMES = {"lr": "step_size", "momentum": "mass", "alpha": "gamma"}


def case(name: str, cls: str, **kwargs) -> Case:
    own = {NAMES.get(key, key): value for key, value in kwargs.items()}
    if "betas" in own:
        own["b1"], own["b2"] = own.pop("betas")
    return Case(name, cls, kwargs, lambda grad, x, n: CLASSES[cls](grad, x, num_iters=n, **own))


CASES = [
    case("default", "SGD"),
    case("lr", "SGD", lr=0.01),
    case("plain", "SGD", momentum=0.0),
    case("momentum", "SGD", momentum=0.5),
    case("default", "Momentum"),
    case("default", "RMSProp"),
    case("lr", "RMSProp", lr=0.01),
    case("alpha", "RMSProp", alpha=0.99),
    case("eps", "RMSProp", eps=0.1),
    case("default", "Adam"),
    case("lr", "Adam", lr=0.1),
    case("betas", "Adam", lr=0.1, betas=(0.8, 0.9)),
    case("eps", "Adam", lr=0.1, eps=0.1),
]


def run(case: Case, start, grads):
    """A call makes all its steps, so step n is a run of n."""
    for n in range(1, len(grads) + 1):
        yield case.make(lambda x, i: grads[i], start, n)
