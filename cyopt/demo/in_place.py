"""The optimizers of as_written.py without temporaries.

Every operation writes into an array that exists already; each parameter has one scratch array,
`u`, in which its update is built.
"""

# ruff: noqa: D101  (the code is the formula)

import math

import numpy as np

from .network import Arrays


def zeros_like(params: Arrays) -> Arrays:
    """State or scratch: one array of zeros for each parameter."""
    return {k: np.zeros_like(p) for k, p in params.items()}


class SGD:
    def __init__(self, params: Arrays, lr: float):
        self.params = params
        self.lr = lr
        self.u = zeros_like(params)

    def step(self, grads: Arrays) -> None:
        for k, p in self.params.items():
            u = self.u[k]
            np.multiply(grads[k], self.lr, out=u)
            p -= u


class Momentum:
    def __init__(self, params: Arrays, lr: float, momentum: float = 0.9):
        self.params = params
        self.lr = lr
        self.momentum = momentum
        self.v = zeros_like(params)
        self.u = zeros_like(params)

    def step(self, grads: Arrays) -> None:
        for k, p in self.params.items():
            v, u = self.v[k], self.u[k]
            v *= self.momentum
            v += grads[k]
            np.multiply(v, self.lr, out=u)
            p -= u


class AdaGrad:
    def __init__(self, params: Arrays, lr: float, eps: float = 1e-10):
        self.params = params
        self.lr = lr
        self.eps = eps
        self.h = zeros_like(params)
        self.u = zeros_like(params)

    def step(self, grads: Arrays) -> None:
        for k, p in self.params.items():
            g, h, u = grads[k], self.h[k], self.u[k]
            np.multiply(g, g, out=u)
            h += u
            np.sqrt(h, out=u)
            u += self.eps
            np.divide(g, u, out=u)
            u *= self.lr
            p -= u


class RMSProp:
    def __init__(self, params: Arrays, lr: float, alpha: float = 0.99, eps: float = 1e-8):
        self.params = params
        self.lr = lr
        self.alpha = alpha
        self.eps = eps
        self.v = zeros_like(params)
        self.u = zeros_like(params)

    def step(self, grads: Arrays) -> None:
        for k, p in self.params.items():
            g, v, u = grads[k], self.v[k], self.u[k]
            np.multiply(g, g, out=u)
            u *= 1 - self.alpha
            v *= self.alpha
            v += u
            np.sqrt(v, out=u)
            u += self.eps
            np.divide(g, u, out=u)
            u *= self.lr
            p -= u


class Adam:
    weight_decay = 0.0

    def __init__(
        self,
        params: Arrays,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ):
        self.params = params
        self.lr = lr
        self.beta1, self.beta2 = betas
        self.eps = eps
        self.t = 0
        self.m = zeros_like(params)
        self.v = zeros_like(params)
        self.u = zeros_like(params)

    def step(self, grads: Arrays) -> None:
        self.t += 1
        step = self.lr / (1 - self.beta1**self.t)
        root = math.sqrt(1 - self.beta2**self.t)
        for k, p in self.params.items():
            g, m, v, u = grads[k], self.m[k], self.v[k], self.u[k]
            if self.weight_decay:
                p *= 1 - self.lr * self.weight_decay
            np.multiply(g, 1 - self.beta1, out=u)
            m *= self.beta1
            m += u
            np.multiply(g, g, out=u)
            u *= 1 - self.beta2
            v *= self.beta2
            v += u
            np.sqrt(v, out=u)
            u /= root
            u += self.eps
            np.divide(m, u, out=u)
            u *= step
            p -= u


class AdamW(Adam):
    weight_decay = 1e-2
