"""Optimizers in NumPy as they are usually written: the formula, line by line, in fresh arrays.

The formulas are torch's. Every operator makes a temporary array the size of the parameter.
"""

# ruff: noqa: D101  (the code is the formula)

import math

import numpy as np

from .network import Arrays


class SGD:
    def __init__(self, params: Arrays, lr: float):
        self.params = params
        self.lr = lr

    def step(self, grads: Arrays) -> None:
        for k, p in self.params.items():
            p -= self.lr * grads[k]


class Momentum:
    def __init__(self, params: Arrays, lr: float, momentum: float = 0.9):
        self.params = params
        self.lr = lr
        self.momentum = momentum
        self.v = {k: np.zeros_like(p) for k, p in params.items()}

    def step(self, grads: Arrays) -> None:
        for k, p in self.params.items():
            self.v[k] = self.momentum * self.v[k] + grads[k]
            p -= self.lr * self.v[k]


class AdaGrad:
    def __init__(self, params: Arrays, lr: float, eps: float = 1e-10):
        self.params = params
        self.lr = lr
        self.eps = eps
        self.h = {k: np.zeros_like(p) for k, p in params.items()}

    def step(self, grads: Arrays) -> None:
        for k, p in self.params.items():
            self.h[k] = self.h[k] + grads[k] ** 2
            p -= self.lr * grads[k] / (np.sqrt(self.h[k]) + self.eps)


class RMSProp:
    def __init__(self, params: Arrays, lr: float, alpha: float = 0.99, eps: float = 1e-8):
        self.params = params
        self.lr = lr
        self.alpha = alpha
        self.eps = eps
        self.v = {k: np.zeros_like(p) for k, p in params.items()}

    def step(self, grads: Arrays) -> None:
        for k, p in self.params.items():
            self.v[k] = self.alpha * self.v[k] + (1 - self.alpha) * grads[k] ** 2
            p -= self.lr * grads[k] / (np.sqrt(self.v[k]) + self.eps)


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
        self.m = {k: np.zeros_like(p) for k, p in params.items()}
        self.v = {k: np.zeros_like(p) for k, p in params.items()}

    def step(self, grads: Arrays) -> None:
        self.t += 1
        step = self.lr / (1 - self.beta1**self.t)
        root = math.sqrt(1 - self.beta2**self.t)
        for k, p in self.params.items():
            if self.weight_decay:
                p *= 1 - self.lr * self.weight_decay
            self.m[k] = self.beta1 * self.m[k] + (1 - self.beta1) * grads[k]
            self.v[k] = self.beta2 * self.v[k] + (1 - self.beta2) * grads[k] ** 2
            p -= step * self.m[k] / (np.sqrt(self.v[k]) / root + self.eps)


class AdamW(Adam):
    weight_decay = 1e-2
