"""The names that kernels use, for readers and type checkers.

`cyopt.cuda.compiler.names` gives them their meaning. A number has the kernel's dtype; a "double" is
float64 in every kernel. Addresses and integers have 64 bits.
"""

from typing import Any

Address = int
Number = Any

cuda: Any = None
ITEMSIZE = 0  # bytes of a number


def load_int(address: Address) -> int:
    """The integer at an address."""
    raise NotImplementedError


def store_int(address: Address, value: int) -> None:
    """Store an integer at an address."""


def load(address: Address) -> Number:
    """The number at an address."""
    raise NotImplementedError


def store(address: Address, value: Number) -> None:
    """Store a number at an address."""


def load_double(address: Address) -> float:
    """The double at an address."""
    raise NotImplementedError


def store_double(address: Address, value: float) -> None:
    """Store a double at an address."""


def add(a: Number, b: Number) -> Number:
    """`a + b`, rounded once."""


def mul(a: Number, b: Number) -> Number:
    """`a * b`, rounded once."""


def add_double(a: float, b: float) -> float:
    """`a + b`, rounded once."""
    raise NotImplementedError


def mul_double(a: float, b: float) -> float:
    """`a * b`, rounded once."""
    raise NotImplementedError


def div_double(a: float, b: float) -> float:
    """`a / b`, rounded once."""
    raise NotImplementedError


def sqrt_double(a: float) -> float:
    """The square root, rounded once."""
    raise NotImplementedError


def real(a: float) -> Number:
    """A double as a number."""


def double(a: Number) -> float:
    """A number as a double."""
    raise NotImplementedError


def power_by_squaring(base: float, t: int) -> float:
    """As in `cyopt.rules`, like all that follow."""
    raise NotImplementedError


def decayed(lr: float, lr_decay: float, t: float) -> float:
    """`step` of AdaGrad."""
    raise NotImplementedError


def corrected(lr: float, power1: float) -> float:
    """`step` of Adam."""
    raise NotImplementedError


def corrected_root(power2: float) -> float:
    """`r` of Adam."""
    raise NotImplementedError


def corrected_both(lr: float, power1: float, power2: float) -> float:
    """`step` of Adam with `eps_hat`."""
    raise NotImplementedError


def clip_ratio(clip_norm: float, clip_eps: float, norm: float) -> float:
    """What `clip_norm` multiplies `s` by."""
    raise NotImplementedError
