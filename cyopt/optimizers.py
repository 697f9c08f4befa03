"""The optimizers: formulas, hyperparameters and their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from cyopt.group import Hyperparameter
from cyopt.hyper import COMMON, Common, Number
from cyopt.optimizer import Optimizer

if TYPE_CHECKING:
    from typing_extensions import Unpack


def _off(momentum: object) -> bool:
    """Whether there is no velocity; a schedule of the momentum has one."""
    return not callable(momentum) and momentum == 0


class SGD(Optimizer):
    """Stochastic gradient descent, plain or with momentum.

    Without momentum `p = p - lr*g`. With momentum mu (`momentum`) and velocity v
    (`state[name]["momentum_buffer"]`, starting at 0), `momentum_form` says where lr enters:

    - "lr_outside" (PyTorch, TensorFlow 1, optax): `v = mu*v + (1 - dampening)*g`, without dampening
      in a parameter's first step; `p = p - lr*v`
    - "lr_inside" (Keras, scikit-learn): `v = mu*v - lr*g`; `p = p + v`
    - "average" (textbooks, autograd): `v = mu*v + (1 - mu)*g`; `p = p - lr*v`

    `nesterov` steps along `g + mu*v`, with the updated v, instead of v (likewise in the other
    forms). While mu is temporarily 0, v is the last gradient; PyTorch leaves its buffer unchanged.
    Every operation is rounded to the parameter's dtype.

    Every class takes:

    - params: one array or any nesting of dicts, lists and tuples of arrays (float32 or float64,
      dense in C or Fortran order), which are updated in place; or groups; or None (see `Optimizer`)
    - lr: learning rate, at least 0
    - weight_decay: added to the gradient as `weight_decay*p`; with `decoupled_weight_decay` p is
      multiplied by `1 - lr*weight_decay` instead, before the update (PyTorch's AdamW) or, with
      `weight_decay_order="after"`, after it (thinc)
    - maximize: ascend instead of descend
    - grad_scale: what the gradients were multiplied by (loss scaling); they are divided by it
    - clip_norm: if the norm L of all gradients (divided by `grad_scale`) is larger, they are
      multiplied by `clip_norm / (L + clip_eps)`; with `clip_scope="array"` each by its own norm.
      PyTorch's clip_grad_norm_ has `clip_eps` 1e-6, thinc, Keras and optax 0. If squares overflow,
      L is inf and the gradients become 0, as in PyTorch
    - clip_value: then each element of the gradient is limited to +-clip_value
    - skip_nonfinite: a step with an inf or NaN in a gradient changes nothing and returns False
    - zero_grads: every step, even a skipped one, sets the gradients to zero
    - cast_grads: gradients of float32 parameters may be float64; each element is rounded once
    - capturable: a step may be captured into a CUDA graph, and each replay is a step: the GPU
      counts them, and computes from its counts what changes, such as bias corrections. `step`
      returns None, and `steps` waits for the GPU. A graph keeps the hyperparameters and addresses
      of its capture; the optimizer must live as long as the graph
    - ema: decay d of an average a of each parameter, `opt.averages[name]`: after a step
      `a = a + (1 - d)*(p - a)`, NaN where p is infinite; unchanged if the gradient is None.
      `ema_init` says how it starts: "params", as a copy of p before p's first step, or "zeros"

    All of this happens in the update's own pass over memory; `clip_norm` and `skip_nonfinite` first
    read the gradients once more. The norm has the same bits for any number of threads
    (`cyopt.rules.square_sum`). None turns off clip_norm, clip_value and ema.

    Every number except a state's starting value may be a schedule, a function of `steps` (see
    `cyopt.schedules`), unless only the GPU knows `steps`, with skip_nonfinite or capturable.
    Raises TypeError or ValueError for a value that is out of range or has no meaning.

    >>> import numpy as np, cyopt
    >>> w = np.array([1.0, 2.0], np.float32)
    >>> opt = cyopt.SGD({"w": w}, lr=0.5, momentum=0.9)
    >>> opt.step({"w": np.array([1.0, -1.0], np.float32)})
    True
    >>> w
    array([0.5, 2.5], dtype=float32)

    Source: Polyak 1964; Sutskever et al. 2013; PyTorch's torch.optim.SGD, whose defaults it has.
    Unlike PyTorch's fused kernels, it reads gradients of any strides correctly.
    """

    __slots__ = ()
    momentum = Hyperparameter()
    dampening = Hyperparameter()
    nesterov = Hyperparameter()
    momentum_form = Hyperparameter()

    def __init__(
        self,
        params: Any = None,
        lr: Number = 1e-3,
        *,
        momentum: Number = 0.0,
        dampening: Number = 0.0,
        weight_decay: Number = 0.0,
        nesterov: bool = False,
        momentum_form: str = "lr_outside",
        **common: Unpack[Common],
    ) -> None:
        super().__init__(params, _hyperparameters(locals()))

    @staticmethod
    def rule_of(values: Mapping[str, Any]) -> str:
        if _off(values["momentum"]):
            return "sgd"
        return "nesterov" if values["nesterov"] else "momentum"


class Momentum(SGD):
    """SGD with momentum 0.9; see `cyopt.SGD` for the formula and all arguments.

    >>> import cyopt
    >>> cyopt.Momentum(lr=0.1).momentum
    0.9
    """

    __slots__ = ()

    def __init__(
        self, params: Any = None, lr: Number = 1e-3, *, momentum: Number = 0.9, **others: Any
    ) -> None:
        super().__init__(params, lr, momentum=momentum, **others)


class AdaGrad(Optimizer):
    """AdaGrad: steps divided by the root of the sum of all squared gradients.

    With h = `state[name]["sum"]`, starting at `initial_accumulator_value`, and t = 1, 2, ... the
    parameter's step: `h = h + g*g`; `p = p - (step*g) / (sqrt(h) + eps)` with
    `step = lr / (1 + (t - 1)*lr_decay)`. `eps_inside_sqrt` divides by `sqrt(h + eps)` (Keras,
    optax).

    The other arguments, and the exceptions, are those of `cyopt.SGD`.

    >>> import numpy as np, cyopt
    >>> w = np.array([1.0, 2.0])
    >>> opt = cyopt.AdaGrad([w], lr=0.5)
    >>> opt.step([np.array([2.0, -4.0])])
    True
    >>> w
    array([0.5, 2.5])

    Source: Duchi, Hazan & Singer 2011; PyTorch's torch.optim.Adagrad, whose defaults it has.
    """

    __slots__ = ()
    initial_values: ClassVar = {"sum": "initial_accumulator_value"}
    lr_decay = Hyperparameter()
    initial_accumulator_value = Hyperparameter()
    eps = Hyperparameter()
    eps_inside_sqrt = Hyperparameter()

    def __init__(
        self,
        params: Any = None,
        lr: Number = 1e-2,
        *,
        lr_decay: Number = 0.0,
        weight_decay: Number = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: Number = 1e-10,
        eps_inside_sqrt: bool = False,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(params, _hyperparameters(locals()))

    @staticmethod
    def rule_of(values: Mapping[str, Any]) -> str:
        return "adagrad"


class RMSProp(Optimizer):
    """RMSProp: steps divided by the root of a running average of squared gradients.

    With v = `state[name]["square_avg"]`, starting at `initial_square_avg`:
    `v = alpha*v + (1 - alpha)*(g*g)`; `u = g / (sqrt(v) + eps)`; `p = p - lr*u`.

    - eps_inside_sqrt: `sqrt(v + eps)` (Keras, TensorFlow, optax)
    - centered: the root is of `max(0, v - q*q)`, q = `state[name]["grad_avg"]` the running average
      of g (Graves 2013); PyTorch has no max, and gives NaN where rounding makes `v - q*q` negative;
      where v and q*q both overflow, the result is NaN
    - momentum: with w = `state[name]["momentum_buffer"]`, `w = momentum*w + u`; `p = p - lr*w`
      (PyTorch); with `momentum_form="lr_inside"` `w = momentum*w + lr*u`; `p = p - w` (Keras,
      TensorFlow, optax)

    The other arguments, and the exceptions, are those of `cyopt.SGD`.

    >>> import numpy as np, cyopt
    >>> w = np.array([1.0, 2.0])
    >>> opt = cyopt.RMSProp([w], lr=0.1, alpha=0.75, eps=0)
    >>> opt.step([np.array([2.0, -4.0])])
    True
    >>> w
    array([0.8, 2.2])

    Source: Tieleman & Hinton 2012; PyTorch's torch.optim.RMSprop, whose defaults it has.
    """

    __slots__ = ()
    initial_values: ClassVar = {"square_avg": "initial_square_avg"}
    alpha = Hyperparameter()
    eps = Hyperparameter()
    momentum = Hyperparameter()
    centered = Hyperparameter()
    eps_inside_sqrt = Hyperparameter()
    momentum_form = Hyperparameter()
    initial_square_avg = Hyperparameter()

    def __init__(
        self,
        params: Any = None,
        lr: Number = 1e-2,
        *,
        alpha: Number = 0.99,
        eps: Number = 1e-8,
        weight_decay: Number = 0.0,
        momentum: Number = 0.0,
        centered: bool = False,
        eps_inside_sqrt: bool = False,
        momentum_form: str = "lr_outside",
        initial_square_avg: float = 0.0,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(params, _hyperparameters(locals()))

    @staticmethod
    def rule_of(values: Mapping[str, Any]) -> str:
        centered = "_centered" if values["centered"] else ""
        return f"rmsprop{centered}{'' if _off(values['momentum']) else '_momentum'}"


class Adam(Optimizer):
    """Adam: bias-corrected running averages of the gradient and of its square.

    With m = `state[name]["exp_avg"]`, v = `state[name]["exp_avg_sq"]`, both starting at 0, betas =
    (b1, b2), and t = 1, 2, ... the parameter's step:
    `m = b1*m + (1 - b1)*g`; `v = b2*v + (1 - b2)*(g*g)`;
    `p = p - lr/(1 - b1**t) * m / (sqrt(v)/sqrt(1 - b2**t) + eps)`.

    - amsgrad: the largest v so far (`state[name]["max_exp_avg_sq"]`) instead of v
    - eps_hat: `lr*sqrt(1 - b2**t)/(1 - b1**t) * m / (sqrt(v) + eps)`, the "epsilon hat" form
      (Keras, TensorFlow, scikit-learn, thinc): its eps weighs more in the first steps
    - bias_correction: False leaves out both corrections
    - libm_pow: `b**t` by the C library's pow, like Python's `**` (scikit-learn); False: by repeated
      squaring, which gives the same bits on every machine

    The other arguments, and the exceptions, are those of `cyopt.SGD`.

    >>> import numpy as np, cyopt
    >>> params = {"w": np.ones((2, 2), np.float32), "b": np.zeros(2, np.float32)}
    >>> opt = cyopt.Adam(params, lr=0.1)
    >>> opt.step({"w": np.ones((2, 2), np.float32), "b": None})
    True
    >>> params["w"]
    array([[0.9, 0.9],
           [0.9, 0.9]], dtype=float32)

    Source: Kingma & Ba 2015, Algorithm 1; Reddi, Kale & Kumar 2018; PyTorch's torch.optim.Adam,
    whose defaults it has. PyTorch computes m by interpolation: the last bits differ.
    """

    __slots__ = ()
    betas = Hyperparameter()
    eps = Hyperparameter()
    amsgrad = Hyperparameter()
    eps_hat = Hyperparameter()
    bias_correction = Hyperparameter()
    libm_pow = Hyperparameter()

    def __init__(
        self,
        params: Any = None,
        lr: Number = 1e-3,
        *,
        betas: tuple[Number, Number] = (0.9, 0.999),
        eps: Number = 1e-8,
        weight_decay: Number = 0.0,
        amsgrad: bool = False,
        eps_hat: bool = False,
        bias_correction: bool = True,
        libm_pow: bool = False,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(params, _hyperparameters(locals()))

    @staticmethod
    def rule_of(values: Mapping[str, Any]) -> str:
        return "amsgrad" if values["amsgrad"] else "adam"


class AdamW(Adam):
    """Adam with decoupled weight decay 0.01; see `cyopt.Adam` for the formula and all arguments.

    p is multiplied by `1 - lr*weight_decay` before the update, as in PyTorch; the paper's decay is
    not multiplied by lr.

    >>> import cyopt
    >>> cyopt.AdamW(lr=0.1).weight_decay
    0.01

    Source: Loshchilov & Hutter 2019; PyTorch's torch.optim.AdamW, whose defaults it has.
    """

    __slots__ = ()

    def __init__(
        self,
        params: Any = None,
        lr: Number = 1e-3,
        *,
        weight_decay: Number = 1e-2,
        decoupled_weight_decay: bool = True,
        **others: Any,
    ) -> None:
        super().__init__(
            params,
            lr,
            weight_decay=weight_decay,
            decoupled_weight_decay=decoupled_weight_decay,
            **others,
        )


def _hyperparameters(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of an `__init__` that are hyperparameters, and those that all classes have."""
    others = ("self", "params", "common", "__class__")
    own = {name: value for name, value in arguments.items() if name not in others}
    return {**own, **COMMON, **arguments["common"]}


ALL: tuple[type[Optimizer], ...] = (SGD, Momentum, AdaGrad, RMSProp, Adam, AdamW)
