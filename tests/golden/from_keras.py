"""Keras 3 on its JAX backend: there the update is Keras' own text, operation by operation."""

import os

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
from trajectory import LR, Case

LIKE = "keras"
VERSION = keras.__version__
DTYPES = ("float32", "float64")

CLASSES = {
    "SGD": keras.optimizers.SGD,
    "Momentum": lambda **kwargs: keras.optimizers.SGD(**{"momentum": 0.9, **kwargs}),
    "RMSProp": keras.optimizers.RMSprop,
    "AdaGrad": keras.optimizers.Adagrad,
    "Adam": keras.optimizers.Adam,
    "AdamW": keras.optimizers.AdamW,
}
NAMES = {"lr": "learning_rate", "alpha": "rho", "eps": "epsilon", "grad_scale": "loss_scale_factor"}


def case(name: str, cls: str, **kwargs) -> Case:
    own = {NAMES.get(key, key): value for key, value in kwargs.items()}
    if kwargs.get("lr") == "schedule":
        own["learning_rate"] = LR[0]
    if "betas" in own:
        own["beta_1"], own["beta_2"] = own.pop("betas")
    return Case(name, cls, kwargs, lambda: CLASSES[cls](**own))


CASES = [
    case("default", "SGD"),
    case("momentum", "SGD", momentum=0.9),
    case("nesterov", "SGD", momentum=0.9, nesterov=True),
    case("weight_decay", "SGD", lr=0.1, momentum=0.9, weight_decay=0.1),
    case("grad_scale", "SGD", grad_scale=8.0),
    case("schedule", "SGD", lr="schedule", momentum=0.9),
    case("schedule_nesterov", "SGD", lr="schedule", momentum=0.9, nesterov=True),
    case("default", "Momentum"),
    case("schedule", "Momentum", lr="schedule", weight_decay=0.1),
    case("default", "RMSProp"),
    case("lr", "RMSProp", lr=0.1),
    case("alpha", "RMSProp", lr=0.1, alpha=0.99),
    case("eps", "RMSProp", lr=0.1, eps=0.1),
    case("weight_decay", "RMSProp", lr=0.1, weight_decay=0.1),
    case("momentum", "RMSProp", lr=0.01, momentum=0.9),
    case("centered", "RMSProp", lr=0.01, centered=True),
    case("centered_momentum_eps", "RMSProp", lr=0.01, centered=True, momentum=0.9, eps=0.1),
    case("schedule", "RMSProp", lr="schedule", momentum=0.9),
    case("default", "AdaGrad"),
    case("lr", "AdaGrad", lr=0.1),
    case("initial_accumulator", "AdaGrad", lr=0.1, initial_accumulator_value=0.0),
    case("eps", "AdaGrad", lr=0.1, eps=0.1),
    case("weight_decay", "AdaGrad", lr=0.1, weight_decay=0.1),
    case("schedule", "AdaGrad", lr="schedule"),
    case("default", "Adam"),
    case("lr", "Adam", lr=0.1),
    case("betas", "Adam", lr=0.1, betas=(0.8, 0.9)),
    case("eps", "Adam", lr=0.1, eps=0.1),
    case("weight_decay", "Adam", lr=0.1, weight_decay=0.1),
    case("amsgrad", "Adam", lr=0.1, betas=(0.8, 0.9), amsgrad=True),
    case("grad_scale", "Adam", lr=0.1, eps=0.1, grad_scale=8.0),
    case("schedule", "Adam", lr="schedule"),
    case("default", "AdamW"),
    case("weight_decay", "AdamW", lr=0.1, weight_decay=0.1),
    case("amsgrad", "AdamW", lr=0.1, betas=(0.8, 0.9), eps=0.1, amsgrad=True),
    case("schedule", "AdamW", lr="schedule", weight_decay=0.1),
]


def run(case: Case, start, grads):
    dtype = str(start[0].dtype)
    jax.config.update("jax_enable_x64", dtype == "float64")
    keras.config.set_floatx(dtype)  # else the learning rate stays float32
    params = [keras.Variable(array) for array in start]
    optimizer = case.make()
    for t, step_grads in enumerate(grads):
        if case.scheduled:
            optimizer.learning_rate = LR[t]
        optimizer.apply([keras.ops.convert_to_tensor(grad) for grad in step_grads], params)
        yield [keras.ops.convert_to_numpy(param) for param in params]
