"""EVERY update rule in Python, as `src_c/rules.h` and `src_c/scalars.c` have it in C.

A rule takes a parameter, its gradient after `prologue`, its state, all arrays (or NumPy scalars) of
one dtype, and the scalars `h` of `prepare` rounded to that dtype. It returns the new parameter and
state. The result is defined by these lines: operators are + - * / and sqrt, each rounded once, in
the order written, and the two comparisons below. The C kernels give the same bits. CYOPT_SCALARS in
`src_c/cyopt.h` says what each scalar means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy import sqrt

if TYPE_CHECKING:
    from cyopt.hyper import Hyper

Array = Any  # an ndarray or a NumPy scalar: the rules are written for both
Scalars = Any  # the numbers of `prepare` as attributes, and `zero`


def maximum(a: Array, b: Array) -> Array:
    """`a > b ? a : b`: new data second, so that a NaN in it is kept."""
    return np.where(a > b, a, b)


def minimum(a: Array, b: Array) -> Array:
    """`a < b ? a : b`, likewise."""
    return np.where(a < b, a, b)


def prologue(p: Array, g: Array, h: Scalars, coupled: bool, limited: bool) -> Array:
    """What every rule starts with: scale and sign of the gradient; limits; coupled weight decay."""
    g = h.s * g
    if limited:
        g = minimum(h.limit, maximum(-h.limit, g))
    if coupled:
        g = g + h.wd * p
    return g


def average(a: Array, p: Array, h: Scalars) -> Array:
    """The parameter's new average, after the rule has updated it to `p`."""
    return a + h.e * (p - a)


def sgd(p: Array, g: Array, h: Scalars) -> tuple[Array, ...]:
    """Gradient descent."""
    p = h.k * p - h.step * g
    return (p,)


def momentum(
    p: Array, g: Array, momentum_buffer: Array, h: Scalars, nesterov: bool = False
) -> tuple[Array, ...]:
    """Momentum. Polyak 1964; Nesterov's form as in Sutskever et al. 2013 and PyTorch."""
    momentum_buffer = h.mu * momentum_buffer + h.a * g
    u = momentum_buffer
    if nesterov:
        u = h.a * g + h.mu * momentum_buffer
    p = h.k * p - h.step * u
    return p, momentum_buffer


def adagrad(p: Array, g: Array, sum: Array, h: Scalars) -> tuple[Array, ...]:
    """AdaGrad. Duchi, Hazan & Singer 2011."""
    sum = sum + g * g
    p = h.k * p - (h.step * g) / (sqrt(sum + h.eps_in) + h.eps)
    return p, sum


def rmsprop(
    p: Array,
    g: Array,
    square_avg: Array,
    grad_avg: Array,
    momentum_buffer: Array,
    h: Scalars,
    centered: bool = False,
    velocity: bool = False,
) -> tuple[Array, ...]:
    """RMSProp. Tieleman & Hinton 2012; centered: Graves 2013."""
    square_avg = h.b2 * square_avg + h.c2 * (g * g)
    x = square_avg
    if centered:
        grad_avg = h.b2 * grad_avg + h.c2 * g
        x = maximum(h.zero, square_avg - grad_avg * grad_avg)
    u = g / (sqrt(x + h.eps_in) + h.eps)
    if velocity:
        momentum_buffer = h.mu * momentum_buffer + h.a * u
        u = momentum_buffer
    p = h.k * p - h.step * u
    return p, square_avg, grad_avg, momentum_buffer


def adam(
    p: Array,
    g: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    max_exp_avg_sq: Array,
    h: Scalars,
    amsgrad: bool = False,
) -> tuple[Array, ...]:
    """Adam. Kingma & Ba 2015, Algorithm 1; amsgrad: Reddi, Kale & Kumar 2018."""
    exp_avg = h.b1 * exp_avg + h.c1 * g
    exp_avg_sq = h.b2 * exp_avg_sq + h.c2 * (g * g)
    x = exp_avg_sq
    if amsgrad:
        max_exp_avg_sq = maximum(max_exp_avg_sq, exp_avg_sq)
        x = max_exp_avg_sq
    p = h.k * p - (h.step * exp_avg) / (sqrt(x) * h.r + h.eps)
    return p, exp_avg, exp_avg_sq, max_exp_avg_sq


class Rule(NamedTuple):
    """A row of the table: a function, its flags, its state in the order of its arguments.

    A state that this variant does not use is an empty name.
    """

    function: Callable[..., tuple[Array, ...]]
    flags: Mapping[str, bool]
    state: tuple[str, ...]


RULES = {
    "sgd": Rule(sgd, {}, ()),
    "momentum": Rule(momentum, {}, ("momentum_buffer",)),
    "nesterov": Rule(momentum, {"nesterov": True}, ("momentum_buffer",)),
    "adagrad": Rule(adagrad, {}, ("sum",)),
    "rmsprop": Rule(rmsprop, {}, ("square_avg", "", "")),
    "rmsprop_centered": Rule(rmsprop, {"centered": True}, ("square_avg", "grad_avg", "")),
    "rmsprop_momentum": Rule(rmsprop, {"velocity": True}, ("square_avg", "", "momentum_buffer")),
    "rmsprop_centered_momentum": Rule(
        rmsprop,
        {"centered": True, "velocity": True},
        ("square_avg", "grad_avg", "momentum_buffer"),
    ),
    "adam": Rule(adam, {}, ("exp_avg", "exp_avg_sq", "")),
    "amsgrad": Rule(adam, {"amsgrad": True}, ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")),
}


def power_by_squaring(base: float, t: int) -> float:
    """`base**t` by multiplications only: the same bits everywhere, unlike libm's `pow`."""
    result = 1.0
    while t > 0:
        if t & 1:
            result = result * base
        base = base * base
        t >>= 1
    return result


root = math.sqrt  # of doubles

# The scalars that change from step to step. A GPU that counts its steps computes them with these.


def decayed(lr: float, lr_decay: float, t: float) -> float:
    """`step` of AdaGrad."""
    return lr / (1.0 + (t - 1.0) * lr_decay)


def corrected(lr: float, power1: float) -> float:
    """`step` of Adam, with beta1**t."""
    return lr / (1.0 - power1)


def corrected_root(power2: float) -> float:
    """`r` of Adam, with beta2**t."""
    return 1.0 / root(1.0 - power2)


def corrected_both(lr: float, power1: float, power2: float) -> float:
    """`step` of Adam with `eps_hat`."""
    return lr * root(1.0 - power2) / (1.0 - power1)


def prepare(hyper: Hyper, t: int) -> dict[str, Any]:
    """The scalars of step `t`, which counts from 1: all in double, left to right as written.

    `src_c/scalars.c` says which framework writes which form.
    """
    lr = hyper.lr
    coupled = hyper.decay == "coupled"
    x: dict[str, Any] = {
        "rule": hyper.rule,
        "coupled": coupled and hyper.weight_decay != 0,
        "limited": hyper.clip_value != 0,
        "clip_per_array": hyper.clip_per_array,
        "skip_nonfinite": hyper.skip_nonfinite,
        "clip_norm": hyper.clip_norm,
        "clip_eps": hyper.clip_eps,
        "limit": hyper.clip_value,
        "s": (-1.0 if hyper.maximize else 1.0) * (1.0 / hyper.grad_scale),
        "wd": hyper.weight_decay if coupled else 0.0,
        "k": 1.0 if coupled else 1.0 - lr * hyper.weight_decay,
        "step": lr,
        "mu": 0.0,
        "a": 0.0,
        "b1": hyper.beta1,
        "c1": 1.0 - hyper.beta1,
        "b2": hyper.beta2,
        "c2": 1.0 - hyper.beta2,
        "r": 1.0,
        "eps_in": hyper.eps if hyper.eps_inside_sqrt else 0.0,
        "eps": 0.0 if hyper.eps_inside_sqrt else hyper.eps,
        "e": 1.0 - hyper.ema,
    }
    function = RULES[hyper.rule].function
    if function is momentum:
        x["mu"] = hyper.momentum
        if hyper.momentum_form == "lr_inside":
            x["a"], x["step"] = -lr, -1.0
        elif hyper.momentum_form == "average":
            x["a"] = 1.0 - hyper.momentum
        else:
            x["a"] = 1.0 if t == 1 or hyper.momentum == 0 else 1.0 - hyper.dampening
    elif function is adagrad:
        x["step"] = decayed(lr, hyper.lr_decay, t)
    elif function is rmsprop:
        x["mu"], x["a"] = hyper.momentum, 1.0
        if hyper.momentum_form == "lr_inside" and RULES[hyper.rule].flags.get("velocity"):
            x["a"], x["step"] = lr, 1.0
    elif function is adam:
        if hyper.bias_correction:
            power = pow if hyper.libm_pow else power_by_squaring
            power1, power2 = power(hyper.beta1, t), power(hyper.beta2, t)
            if hyper.eps_hat:
                x["step"] = corrected_both(lr, power1, power2)
            else:
                x["step"] = corrected(lr, power1)
                x["r"] = corrected_root(power2)
        if not math.isnan(hyper.denom_scale):
            x["r"] = hyper.denom_scale
    if not math.isnan(hyper.step_size):
        x["step"] = hyper.step_size
    if hyper.decay == "after":
        x["step"] = x["step"] * x["k"]
    return x


# --- norms ----------------------------------------------------------------------------------------

CHUNK, LANES = 4096, 16


def square_sum(x: Array) -> float:
    """The sum of the squares of a one-dimensional array, in double and in a fixed order.

    In chunks of 4,096 numbers, number i of a chunk is added to sum i mod 16; the 16, then the
    chunks, are added in pairs. `src_c/sides.inc` and `src_c/norms.c` do the same in C.
    """
    return pairwise_sum(square_sums(x))


def square_sums(x: Array) -> list[float]:
    """The sum of the squares of each chunk."""
    chunks = np.zeros((-(-x.size // CHUNK), CHUNK // LANES, LANES))
    chunks.reshape(-1)[: x.size] = x  # the padding is 0, which changes no sum
    sums = np.zeros((len(chunks), LANES))
    for i in range(CHUNK // LANES):
        sums = sums + chunks[:, i] * chunks[:, i]
    return [pairwise_sum(lanes) for lanes in sums]


def pairwise_sum(x: Array) -> float:
    """Add neighbours, then neighbouring sums, until one is left; 0 if there are none.

    >>> pairwise_sum([1.0, 2.0, 3.0]) == (1.0 + 2.0) + 3.0
    True
    """
    x = np.asarray(x, np.float64)
    with np.errstate(all="ignore"):
        while len(x) > 1:
            even = len(x) // 2 * 2
            x = np.append(x[:even:2] + x[1:even:2], x[even:])
    return float(x[0]) if len(x) else 0.0


def norm(sums: Iterable[float]) -> float:
    """The root of the sum over all arrays, which are added in ascending order.

    Hence the order in which they are given does not matter.

    >>> norm([1.0, 1.0, 1e16]) == norm([1e16, 1.0, 1.0]) == math.sqrt(1e16 + 2.0)
    True
    """
    return math.sqrt(pairwise_sum(sorted(sums)))


def clip_coefficient(scalars: Mapping[str, Any], norm: float) -> float:
    """The factor by which `clip_norm` multiplies gradients of this norm; NaN for NaN."""
    if scalars["clip_norm"] == 0:
        return 1.0
    with np.errstate(all="ignore"):
        return float(clip_ratio(np.float64(scalars["clip_norm"]), scalars["clip_eps"], norm))


def clip_ratio(clip_norm: float, clip_eps: float, norm: float) -> float:
    """The factor that brings a norm down to `clip_norm`; 1 where it is below."""
    ratio = clip_norm / (norm + clip_eps)
    return 1.0 if ratio > 1.0 else ratio
