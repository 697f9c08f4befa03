"""cyopt: the optimizer step for array programs.

One call updates every parameter of a model, in place, at memory speed, with the same bits on every
machine.

>>> import numpy as np, cyopt
>>> params = {"w": np.ones(3, np.float32), "b": np.zeros(1, np.float32)}
>>> opt = cyopt.Adam(params, lr=1e-3)
>>> opt.step({"w": np.ones(3, np.float32), "b": None})
True
"""

from typing import NoReturn

from cyopt import _compiled, reference, rules, schedules  # noqa: F401  # first: see there
from cyopt._cpu import C_API as _C_API  # noqa: F401  # the capsule for compiled modules
from cyopt._version import __version__
from cyopt.files import load, save
from cyopt.functional import adagrad_, adam_, rmsprop_, sgd_
from cyopt.group import Group
from cyopt.optimizer import Optimizer
from cyopt.optimizers import ALL, SGD, AdaGrad, Adam, AdamW, Momentum, RMSProp
from cyopt.out_of_place import adagrad, adam, rmsprop, sgd
from cyopt.runtime import (
    configure,
    get_include,
    get_isa,
    get_num_threads,
    get_subnormals,
    info,
    set_isa,
    set_num_threads,
    set_subnormals,
)

__all__ = [
    "ALL",
    "SGD",
    "AdaGrad",
    "Adam",
    "AdamW",
    "Group",
    "Momentum",
    "Optimizer",
    "RMSProp",
    "__version__",
    "adagrad",
    "adagrad_",
    "adam",
    "adam_",
    "get_include",
    "get_isa",
    "get_num_threads",
    "get_subnormals",
    "info",
    "load",
    "reference",
    "rmsprop",
    "rmsprop_",
    "rules",
    "save",
    "schedules",
    "set_isa",
    "set_num_threads",
    "set_subnormals",
    "sgd",
    "sgd_",
]

configure()
del configure


def __getattr__(name: str) -> NoReturn:
    """Answer other spellings, such as RMSprop and Adagrad, with cyopt's."""
    known = {cls.__name__.lower(): cls.__name__ for cls in ALL}
    right = {**known, "adamw_": "adam_", "momentum_": "sgd_"}.get(name.lower())
    hint = f"; did you mean cyopt.{right}?" if right else ""
    raise AttributeError(f"module 'cyopt' has no attribute {name!r}{hint}")
