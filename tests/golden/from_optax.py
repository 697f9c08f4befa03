"""optax; float32 without x64, as it is used."""

import jax
import jax.numpy as jnp
import optax
from trajectory import LR, Case

LIKE = "optax"
VERSION = optax.__version__
DTYPES = ("float32", "float64")

NAMES = {
    "lr": "learning_rate",
    "alpha": "decay",
    "eps_inside_sqrt": "eps_in_sqrt",
    "initial_square_avg": "initial_scale",
}


def case(name: str, cls: str, make, **kwargs) -> Case:
    own = {NAMES.get(key, key): value for key, value in kwargs.items()}
    if kwargs["lr"] == "schedule":
        own["learning_rate"] = lambda count: jnp.asarray(LR)[count]
    if "betas" in own:
        own["b1"], own["b2"] = own.pop("betas")
    return Case(name, cls, kwargs, lambda: make(**own))


def coupled(make):
    """optax spells L2 as a chain."""

    def chained(weight_decay, decoupled_weight_decay, **kwargs):
        assert not decoupled_weight_decay
        return optax.chain(optax.add_decayed_weights(weight_decay), make(**kwargs))

    return chained


def decoupled_sgd(learning_rate, momentum, weight_decay, decoupled_weight_decay):
    assert decoupled_weight_decay
    return optax.chain(
        optax.trace(momentum),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(learning_rate),
    )


def momentum_sgd(**kwargs):
    return optax.sgd(momentum=0.9, **kwargs)


CASES = [
    case("default", "SGD", optax.sgd, lr=0.1),
    case("momentum", "SGD", optax.sgd, lr=0.1, momentum=0.9),
    case("nesterov", "SGD", optax.sgd, lr=0.1, momentum=0.9, nesterov=True),
    case(
        "weight_decay",
        "SGD",
        coupled(optax.sgd),
        lr=0.1,
        momentum=0.9,
        weight_decay=0.1,
        decoupled_weight_decay=False,
    ),
    case(
        "decoupled",
        "SGD",
        decoupled_sgd,
        lr=0.1,
        momentum=0.9,
        weight_decay=0.1,
        decoupled_weight_decay=True,
    ),
    case("schedule", "SGD", optax.sgd, lr="schedule", momentum=0.9),
    case("default", "Momentum", momentum_sgd, lr=0.1),
    case("nesterov", "Momentum", momentum_sgd, lr="schedule", nesterov=True),
    case("default", "RMSProp", optax.rmsprop, lr=0.01),
    case("alpha", "RMSProp", optax.rmsprop, lr=0.1, alpha=0.99),
    case("eps", "RMSProp", optax.rmsprop, lr=0.1, eps=0.1),
    case("eps_outside", "RMSProp", optax.rmsprop, lr=0.1, eps=0.1, eps_inside_sqrt=False),
    case("initial", "RMSProp", optax.rmsprop, lr=0.1, initial_square_avg=1.0),
    case("momentum", "RMSProp", optax.rmsprop, lr=0.01, momentum=0.9),
    case("centered", "RMSProp", optax.rmsprop, lr=0.01, centered=True),
    case(
        "centered_eps_outside",
        "RMSProp",
        optax.rmsprop,
        lr=0.01,
        centered=True,
        eps=0.1,
        eps_inside_sqrt=False,
    ),
    case(
        "centered_momentum_eps",
        "RMSProp",
        optax.rmsprop,
        lr=0.01,
        centered=True,
        momentum=0.9,
        eps=0.1,
    ),
    case(
        "weight_decay",
        "RMSProp",
        coupled(optax.rmsprop),
        lr=0.1,
        weight_decay=0.1,
        decoupled_weight_decay=False,
    ),
    case("schedule", "RMSProp", optax.rmsprop, lr="schedule", momentum=0.9),
    case("default", "AdaGrad", optax.adagrad, lr=0.1),
    case("initial_accumulator", "AdaGrad", optax.adagrad, lr=0.1, initial_accumulator_value=0.0),
    case("eps", "AdaGrad", optax.adagrad, lr=0.1, eps=0.1),
    case("schedule", "AdaGrad", optax.adagrad, lr="schedule"),
    case("default", "Adam", optax.adam, lr=0.001),
    case("lr", "Adam", optax.adam, lr=0.1),
    case("betas", "Adam", optax.adam, lr=0.1, betas=(0.8, 0.9)),
    case("eps", "Adam", optax.adam, lr=0.1, eps=0.1),
    case(
        "weight_decay",
        "Adam",
        coupled(optax.adam),
        lr=0.1,
        weight_decay=0.1,
        decoupled_weight_decay=False,
    ),
    case("schedule", "Adam", optax.adam, lr="schedule"),
    case("default", "AdamW", optax.adamw, lr=0.1),
    case("weight_decay", "AdamW", optax.adamw, lr=0.1, weight_decay=0.1),
    case("schedule", "AdamW", optax.adamw, lr="schedule", weight_decay=0.1),
]


def run(case: Case, start, grads):
    jax.config.update("jax_enable_x64", start[0].dtype == "float64")
    params = [jnp.asarray(array) for array in start]
    optimizer = case.make()
    state = optimizer.init(params)
    for step_grads in grads:
        updates, state = optimizer.update([jnp.asarray(g) for g in step_grads], state, params)
        params = optax.apply_updates(params, updates)
        yield params
