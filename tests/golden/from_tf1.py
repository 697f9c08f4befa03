"""TensorFlow 1's optimizers (tf.compat.v1.train), run eagerly on resource variables.

They make float32 tensors of Python numbers, whatever the variable's type: a float64 variable would
be trained with the momentum 0.8999999761581421. So each hyperparameter, the defaults of the
signature included, is handed over as a tensor of the variable's type.
"""

import inspect

import tensorflow as tf
from trajectory import LR, Case

LIKE = "tf1"
VERSION = tf.__version__
DTYPES = ("float32", "float64")

train = tf.compat.v1.train
CLASSES = {
    "SGD": train.GradientDescentOptimizer,
    "Momentum": train.MomentumOptimizer,
    "RMSProp": train.RMSPropOptimizer,
    "AdaGrad": train.AdagradOptimizer,
    "Adam": train.AdamOptimizer,
}
NAMES = {"lr": "learning_rate", "alpha": "decay", "eps": "epsilon", "nesterov": "use_nesterov"}


def tensors(own: dict, dtype) -> dict:
    """The initial accumulator is put into its variable as it is and must be a Python number."""
    return {
        key: tf.constant(value, dtype)
        if isinstance(value, float) and key != "initial_accumulator_value"
        else value
        for key, value in own.items()
    }


def case(name: str, cls: str, **kwargs) -> Case:
    """`make` takes the variables' type and a callable: the learning rate of the current step."""

    def make(dtype, lr):
        signature = inspect.signature(CLASSES[cls]).parameters
        own = {
            key: argument.default
            for key, argument in signature.items()
            if argument.default is not argument.empty
        }
        own |= {NAMES.get(key, key): value for key, value in kwargs.items()}
        if cls == "Momentum":
            own["momentum"] = 0.9  # it has no default
        if kwargs.get("lr") == "schedule":
            own["learning_rate"] = lambda: tf.constant(lr(), dtype)
        if "betas" in own:
            own["beta1"], own["beta2"] = own.pop("betas")
        return CLASSES[cls](**tensors(own, dtype))

    return Case(name, cls, kwargs, make)


CASES = [
    case("default", "SGD", lr=0.1),
    case("schedule", "SGD", lr="schedule"),
    case("default", "Momentum", lr=0.1),
    case("nesterov", "Momentum", lr=0.1, nesterov=True),
    case("schedule", "Momentum", lr="schedule"),
    case("schedule_nesterov", "Momentum", lr="schedule", nesterov=True),
    case("default", "RMSProp", lr=0.1),
    case("alpha", "RMSProp", lr=0.1, alpha=0.99),
    case("eps", "RMSProp", lr=0.1, eps=0.1),
    case("momentum", "RMSProp", lr=0.01, momentum=0.9),
    case("centered", "RMSProp", lr=0.1, centered=True),
    case("centered_momentum_eps", "RMSProp", lr=0.01, centered=True, momentum=0.9, eps=0.1),
    case("schedule", "RMSProp", lr="schedule", momentum=0.9),
    case("default", "AdaGrad", lr=0.1),
    case("initial_accumulator", "AdaGrad", lr=0.1, initial_accumulator_value=1.0),
    case("schedule", "AdaGrad", lr="schedule"),
    case("default", "Adam"),
    case("lr", "Adam", lr=0.1),
    case("betas", "Adam", lr=0.1, betas=(0.8, 0.9)),
    case("eps", "Adam", lr=0.1, eps=0.1),
    case("schedule", "Adam", lr="schedule"),
]


def run(case: Case, start, grads):
    params = [tf.Variable(array) for array in start]
    done = 0
    optimizer = case.make(params[0].dtype, lambda: LR[done])
    for step_grads in grads:
        step_tensors = [tf.constant(grad) for grad in step_grads]
        optimizer.apply_gradients(zip(step_tensors, params, strict=True))
        done += 1
        yield [param.numpy() for param in params]
