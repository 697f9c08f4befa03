"""What an unknown name may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# What others call hyperparameters, and frameworks of `like`.
_ELSEWHERE = {
    "learning_rate": "lr",
    "mu": "momentum",
    "rho": "alpha",
    "epsilon": "eps",
    **dict.fromkeys(("beta1", "beta2", "beta_1", "beta_2", "b1", "b2"), "betas"),
    **dict.fromkeys(("tensorflow", "tf", "tf2"), "keras"),
    **dict.fromkeys(("jax", "flax"), "optax"),
}


def unknown_name(name: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: the nearest known one, and all."""
    known = list(known)
    elsewhere = [_ELSEWHERE[name]] if _ELSEWHERE.get(name) in known else []
    nearest = elsewhere or difflib.get_close_matches(name, known, 1, 0.6)
    return (f"; did you mean {nearest[0]!r}?" if nearest else ";") + f" known: {', '.join(known)}"
