"""thinc's optimizers on cyopt's step: in thinc and spaCy, in place of thinc.api.Adam and SGD.

In a spaCy configuration only the name changes: `@optimizers = "cyopt.Adam.v1"`.

An `Optimizer` is thinc's own class with another step: schedules, counters, moments and averages are
thinc's, and stay where thinc keeps them. A step clips the gradient, updates the moments, the
weights and the average and zeroes the gradient in one pass over memory.

thinc's own method still handles RAdam, arrays that are not NumPy's, not contiguous in C order or
not of their weights' shape, and coupled `L2` (`L2_is_weight_decay=False`) with clipping, because
thinc adds it before it clips. Otherwise results differ in the last bits, except that thinc rounds
1 - beta to float32, which changes the second moment by up to 1e-5, and sums the norm with its BLAS.
If the norm is NaN, thinc does not clip, and cyopt makes the whole array NaN; if it is beyond
float32, thinc's is infinite. SGD zeroes a gradient with a NaN, where thinc leaves NaN in it. A step
that cyopt refuses (for an array of another type, say) raises before anything has changed; the error
has the key and, for numbers, cyopt's names: lr for learn_rate, weight_decay for L2, clip_norm for
grad_clip.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import cyopt
from cyopt.integrations import require, whole

require("thinc", "8.3", "thinc")

from thinc import optimizers as host  # noqa: E402
from thinc.backends import NumpyOps  # noqa: E402

_warmup = cyopt.schedules.ema_warmup()
_DEFAULTS = host.ADAM_DEFAULTS
# A number or a schedule; thinc 9 and 8.
Number: Any = getattr(host, "ScheduleT", None) or host.FloatOrSeq


class Optimizer(host.Optimizer):  # type: ignore[misc]  # thinc has no types here
    """thinc's Optimizer, with the step taken by cyopt; see `Adam` and `SGD`."""

    __slots__ = ()

    def __call__(self, key: Any, weights: Any, gradient: Any, *, lr_scale: float = 1.0) -> Any:
        """Update the weights in place and zero the gradient; returns both."""
        if len(gradient) < 1:
            return weights, gradient
        numbers: dict[str, Any] = {
            "lr": float(lr_scale * self._now("learn_rate", key)),
            "weight_decay": self._now("L2", key),
            "clip_norm": self._now("grad_clip", key) or None,
        }
        betas = self._now("b1", key), self._now("b2", key)
        added = numbers["weight_decay"] and not self.L2_is_weight_decay
        plain = betas == (0.0, 0.0)
        if (
            self.use_radam
            or not self._are_alike(key, weights, gradient)
            or (added and numbers["clip_norm"])
            or not (plain or min(betas) > 0)
        ):
            return super().__call__(key, weights, gradient, lr_scale=lr_scale)
        if added:
            numbers["decoupled_weight_decay"] = False
        done, average = self.nr_update.get(key, 0), None
        if self.averages is not None:
            average = self._state(self.averages, key, weights)
            numbers.update(average=average.reshape(-1), ema=_warmup(done))
        else:
            numbers["ema"] = None
        numbers.update(step=done + 1, zero_grads=True, like="thinc")
        arrays = weights.reshape(-1), gradient.reshape(-1)
        changes = [(self.nr_update, {key: done + 1})]
        if average is not None:
            changes.append((self.averages, {key: average}))
        step: Callable[[], object] = partial(cyopt.sgd_, *arrays, **numbers)
        if not plain:
            moments = [self._state(mom, key, arrays[0]) for mom in (self.mom1, self.mom2)]
            changes += [(self.mom1, {key: moments[0]}), (self.mom2, {key: moments[1]})]
            numbers.update(betas=betas, eps=self._now("eps", key))
            step = partial(cyopt.adam_, *arrays, *moments, **numbers)
        try:
            whole(step, changes)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{key!r}: {error}") from error
        return weights, gradient

    def _are_alike(self, key: Any, weights: Any, gradient: Any) -> bool:
        """Whether all arrays of this key are NumPy's, dense and of one shape.

        The step refuses other sizes, but it gets flat arrays and would not notice other shapes.
        """
        average = (self.averages or {}).get(key)
        arrays = [weights, gradient] if average is None else [weights, gradient, average]
        return all(
            _is_plain(a) and (a.shape == weights.shape or a.size != weights.size) for a in arrays
        )

    def _now(self, name: str, key: Any) -> float:
        """A number at this step: in thinc 9 the attribute is a schedule, in thinc 8 the number."""
        number = getattr(self, name)
        if callable(number):
            number = number(self.step, key=key, last_score=self.last_score)
        return float(number)

    @staticmethod
    def _state(known: dict[Any, Any], key: Any, like: Any) -> Any:
        """The state of this key; a new one is kept only after its first step."""
        state = known.get(key)
        return np.zeros_like(like, dtype=np.float32) if state is None else state


def _is_plain(array: Any) -> bool:
    return type(array) is np.ndarray and array.flags.c_contiguous


def Adam(  # noqa: N802  # thinc's name
    learn_rate: Number = _DEFAULTS["learn_rate"],
    *,
    L2: Number = _DEFAULTS["L2"],  # noqa: N803
    beta1: Number = _DEFAULTS["beta1"],
    beta2: Number = _DEFAULTS["beta2"],
    eps: Number = _DEFAULTS["eps"],
    grad_clip: Number = _DEFAULTS["grad_clip"],
    L2_is_weight_decay: bool = True,  # noqa: N803
    use_averages: bool = True,
) -> Optimizer:
    """`thinc.api.Adam` on cyopt's step, with its arguments and defaults; "cyopt.Adam.v1" in spaCy.

    At update n of a parameter: `m = beta1*m + (1-beta1)*g`; `v = beta2*v + (1-beta2)*g*g`;
    `w = w - learn_rate*sqrt(1-beta2^n)/(1-beta1^n) * m / (sqrt(v) + eps)`, where g is clipped to
    the norm `grad_clip` (0: not); then `w = w - learn_rate*L2*w`, or, without `L2_is_weight_decay`,
    `L2*w` is added to g first; then w is averaged. Each number may be a thinc schedule.

    >>> import numpy as np
    >>> from cyopt.integrations.thinc import Adam
    >>> optimizer = Adam(0.1)
    >>> w, g = np.ones(3, np.float32), np.array([0.5, -0.5, 0.0], np.float32)
    >>> _ = optimizer((1, "W"), w, g)
    >>> w.round(6), g
    (array([0.9, 1.1, 1. ], dtype=float32), array([0., 0., 0.], dtype=float32))

    Source: thinc, `thinc.optimizers.Optimizer`; this module's docstring lists the differences.
    """
    return Optimizer(
        learn_rate,
        L2=L2,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        grad_clip=grad_clip,
        L2_is_weight_decay=L2_is_weight_decay,
        use_averages=use_averages,
    )


def SGD(  # noqa: N802
    learn_rate: Number,
    *,
    L2: Number = host.SGD_DEFAULTS["L2"],  # noqa: N803
    grad_clip: Number = host.SGD_DEFAULTS["grad_clip"],
    L2_is_weight_decay: bool = True,  # noqa: N803
    use_averages: bool = True,
) -> Optimizer:
    """`thinc.api.SGD` on cyopt's step, with its arguments and defaults; "cyopt.SGD.v1" in spaCy.

    `w = w - learn_rate*g`, where g is clipped; then decay and average as in `Adam`.

    >>> import numpy as np
    >>> from cyopt.integrations.thinc import SGD
    >>> SGD(0.5, grad_clip=0.0)((1, "W"), np.ones(2, np.float32), np.ones(2, np.float32))[0]
    array([0.5, 0.5], dtype=float32)
    """
    return Optimizer(
        learn_rate,
        L2=L2,
        beta1=0.0,
        beta2=0.0,
        grad_clip=grad_clip,
        L2_is_weight_decay=L2_is_weight_decay,
        use_averages=use_averages,
    )


class Ops(NumpyOps):  # type: ignore[misc]
    """thinc's NumpyOps with cyopt's `adam`, for code that calls it directly.

    thinc's own Optimizer looks up the operations by the array's type and never uses this class;
    train with an `Optimizer` of this module instead.

    >>> import numpy as np
    >>> from cyopt.integrations.thinc import Ops
    >>> w, g, m, v = (np.full(2, x, np.float32) for x in (1.0, 2.0, 0.0, 0.0))
    >>> Ops().adam(w, g, m, v, 0.5, 0.75, 0.0, 0.25)[0]
    array([0.75, 0.75], dtype=float32)
    """

    def adam(
        self,
        weights: Any,
        gradient: Any,
        mom1: Any,
        mom2: Any,
        beta1: float,
        beta2: float,
        eps: float,
        learn_rate: float,
        mod_rate: float = 1.0,
    ) -> Any:
        """`mom1 = beta1*mom1 + (1-beta1)*g`, and so on; all in place. Returns the four arrays.

        `weights = weights - learn_rate * mom1 / (mod_rate*sqrt(mom2) + eps)`, where thinc's
        NumpyOps treats `mod_rate` as 1; the gradient is zeroed, as there. Raises TypeError or
        ValueError, before anything is written, for arrays that do not fit.
        """
        cyopt.adam_(
            weights,
            gradient,
            mom1,
            mom2,
            step_size=float(learn_rate),
            denom_scale=float(mod_rate),
            betas=(float(beta1), float(beta2)),
            eps=float(eps),
            zero_grads=True,
        )
        return weights, gradient, mom1, mom2
