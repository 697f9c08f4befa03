"""thinc on NumPy, float32 (it takes nothing else), without its gradient clipping and averages."""

from importlib.metadata import version

from thinc.api import SGD, Adam
from trajectory import LR, Case

LIKE = "thinc"
VERSION = version("thinc")
DTYPES = ("float32",)

CLASSES = {"SGD": SGD, "Adam": Adam}
NAMES = {"lr": "learn_rate", "weight_decay": "L2", "decoupled_weight_decay": "L2_is_weight_decay"}


def case(name: str, cls: str, **kwargs) -> Case:
    own = {NAMES.get(key, key): value for key, value in kwargs.items()}
    if kwargs.get("lr") == "schedule":
        own["learn_rate"] = LR
    if "betas" in own:
        own["beta1"], own["beta2"] = own.pop("betas")
    return Case(name, cls, kwargs, lambda: CLASSES[cls](grad_clip=0, use_averages=False, **own))


CASES = [
    case("default", "SGD", lr=0.1),
    case("weight_decay", "SGD", lr=0.1, weight_decay=0.1),
    case("coupled", "SGD", lr=0.1, weight_decay=0.1, decoupled_weight_decay=False),
    case("schedule", "SGD", lr="schedule", weight_decay=0.1),
    case("default", "Adam"),
    case("lr", "Adam", lr=0.1),
    case("betas", "Adam", lr=0.1, betas=(0.8, 0.9)),
    case("eps", "Adam", lr=0.1, eps=0.1),
    case("weight_decay", "Adam", lr=0.1, weight_decay=0.1),
    case("coupled", "Adam", lr=0.1, weight_decay=0.1, decoupled_weight_decay=False),
    case("schedule", "Adam", lr="schedule", weight_decay=0.1),
]


def run(case: Case, start, grads):
    optimizer = case.make()
    params = start
    for step_grads in grads:
        params = [
            optimizer((0, str(i)), param, grad)[0]
            for i, (param, grad) in enumerate(zip(params, step_grads, strict=True))
        ]
        optimizer.step_schedules()
        yield params
