"""thinc on NumPy, float32 (it takes nothing else), with and without its clipping and averages."""

from importlib.metadata import version

from thinc.api import SGD, Adam
from trajectory import LR, Case

LIKE = "thinc"
VERSION = version("thinc")
DTYPES = ("float32",)

CLASSES = {"SGD": SGD, "Adam": Adam}
NAMES = {"lr": "learn_rate", "weight_decay": "L2", "decoupled_weight_decay": "L2_is_weight_decay"}
PLAIN = {"clip_norm": None, "ema": None}


def case(name: str, cls: str, **kwargs) -> Case:
    own = {NAMES.get(key, key): value for key, value in kwargs.items()}
    if kwargs.get("lr") == "schedule":
        own["learn_rate"] = LR
    if "betas" in own:
        own["beta1"], own["beta2"] = own.pop("betas")
    own["grad_clip"] = own.pop("clip_norm", 1.0) or 0
    own["use_averages"] = "ema" not in own
    own.pop("ema", None)
    return Case(name, cls, kwargs, lambda: CLASSES[cls](**own))


CASES = [
    case("default", "SGD", lr=0.1, **PLAIN),
    case("weight_decay", "SGD", lr=0.1, weight_decay=0.1, **PLAIN),
    case("coupled", "SGD", lr=0.1, weight_decay=0.1, decoupled_weight_decay=False, **PLAIN),
    case("schedule", "SGD", lr="schedule", weight_decay=0.1, **PLAIN),
    case("default", "Adam", **PLAIN),
    case("lr", "Adam", lr=0.1, **PLAIN),
    case("betas", "Adam", lr=0.1, betas=(0.8, 0.9), **PLAIN),
    case("eps", "Adam", lr=0.1, eps=0.1, **PLAIN),
    case("weight_decay", "Adam", lr=0.1, weight_decay=0.1, **PLAIN),
    case("coupled", "Adam", lr=0.1, weight_decay=0.1, decoupled_weight_decay=False, **PLAIN),
    case("schedule", "Adam", lr="schedule", weight_decay=0.1, **PLAIN),
    case("clip_norm", "SGD", lr=0.1),
    case("clip_norm", "Adam", lr=0.1),
    case("clip_norm_3", "SGD", lr=0.1, clip_norm=3.0, weight_decay=0.1),
    case("clip_norm_3", "Adam", lr=0.1, clip_norm=3.0, weight_decay=0.1),
    case("averages", "SGD", lr=0.1),
    case("averages", "Adam", lr=0.1),
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
        yield list(optimizer.averages.values()) if case.name == "averages" else params
