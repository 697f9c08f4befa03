"""optax: its transformations, jitted by jax with parameters and state donated."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from typing import Any

import jax
import numpy as np
import optax
from jaxlib.xla_client import make_cpu_client

from cyopt.bench.cases import LR, Case
from cyopt.bench.implementations import Implementation, Subject

from .common import ALPHA, MU

jax.config.update("jax_enable_x64", True)  # otherwise float64 becomes float32

# Without AdaGrad, whose eps is inside the root, and amsgrad, which takes the maximum of v after its
# bias is corrected. rmsprop's momentum includes lr, the same if lr does not change.
RMSPROP = partial(optax.rmsprop, LR, ALPHA, eps_in_sqrt=False)
OPTIMIZERS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "sgd": partial(optax.sgd, LR),
    "momentum": partial(optax.sgd, LR, MU),
    "nesterov": partial(optax.sgd, LR, MU, nesterov=True),
    "rmsprop": RMSPROP,
    "rmsprop_centered": partial(RMSPROP, centered=True),
    "rmsprop_momentum": partial(RMSPROP, momentum=MU),
    "rmsprop_centered_momentum": partial(RMSPROP, centered=True, momentum=MU),
    "adam": partial(optax.adam, LR),
}


@cache
def device(threads: int) -> Any:
    """A CPU device with its own thread pool: jax fixes a pool's size when it makes a client.

    Not asynchronous, as with `jax_cpu_enable_async_dispatch=False`: each step is waited for, and
    handing a small one to another thread takes longer than the step.
    """
    before = os.environ.get("PJRT_NPROC")
    os.environ["PJRT_NPROC"] = str(threads)
    try:
        return make_cpu_client(asynchronous=False).local_devices()[0]
    finally:
        del os.environ["PJRT_NPROC"]
        if before is not None:
            os.environ["PJRT_NPROC"] = before


def jitted_update(optimizer: optax.GradientTransformation) -> Callable[..., Any]:
    """Parameters and state, given away, and gradients -> the next parameters and state."""

    def update(params: Any, state: Any, grads: Any) -> Any:
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return jax.jit(update, donate_argnums=(0, 1))


class Model:
    """Parameters and state in jax's own memory; each step replaces them."""

    def __init__(self, case: Case, threads: int) -> None:
        self.case, self.device = case, device(threads)
        self.optimizer = OPTIMIZERS[case.rule.name]()
        self.update = jitted_update(self.optimizer)

    def start(self) -> None:
        params = [param.copy() for param in self.case.params]  # jax may keep the memory it is given
        self.params = jax.device_put(params, self.device)
        self.state = jax.device_put(self.optimizer.init(self.params), self.device)
        self.read_grads()

    def read_grads(self) -> None:
        copies = [grad.copy() for grad in self.case.grads]
        self.grads = jax.device_put(copies, self.device)

    def step(self) -> None:
        self.params, self.state = self.update(self.params, self.state, self.grads)
        jax.block_until_ready(self.params)

    def results(self) -> list[Any]:
        return [np.asarray(param) for param in self.params]


def jitted(case: Case, threads: Sequence[int]) -> Iterable[Subject]:
    """`optimizer.update` and `apply_updates` in one jitted function, until the result is ready."""
    if case.rule.name not in OPTIMIZERS:
        return
    for n in threads:
        m = Model(case, n)
        yield Subject(
            "optax jitted",
            "model.step()",
            {"model": m},
            n,
            m.start,
            read_grads=m.read_grads,
            results=m.results,
        )


PEERS: list[Implementation] = [jitted]
