"""What tests/test_machine.py draws from: structures, layouts, hyperparameters; what is wrong."""

import copy
import math

import numpy as np
from hypothesis import strategies as st
from models import GRADS, NUMPY, PARAMS
from test_bits import CONTENTS
from worlds import Leaf, View

import cyopt

FALLING = cyopt.schedules.time_based(0.5, 0.1)  # which never reaches 0
# What numbers may be changed to; a group may still refuse one beside others.
NUMBERS = {
    "lr": (0.0, 1e-3, 0.05, 1.0, 1e-40, FALLING),
    "weight_decay": (0.0, 0.1, FALLING),
    "grad_scale": (1.0, 3.0, 0.125, 1e30),
    "clip_norm": (None, 0.5, 1e-3, 1e30, FALLING),
    "clip_eps": (0.0, 1e-6, 1.0),
    "clip_value": (None, 0.3, 1e-5, 1e30),
    "ema": (0.0, 0.5, 0.9, cyopt.schedules.ema_warmup(), None),
    "momentum": (0.0, 0.5, 0.9, FALLING),
    "dampening": (0.0, 0.5, 1.0),
    "alpha": (0.0, 0.5, 0.99),
    "betas": ((0.9, 0.999), (0.0, 0.5), (FALLING, 0.999)),
    "eps": (0.0, 1e-8, 1e-3),
    "lr_decay": (0.0, 0.1, FALLING),
}
SWITCHES = {
    "clip_scope": ("all", "array"),
    "skip_nonfinite": (False, True),
    "zero_grads": (False, True),
    "cast_grads": (False, True),
    "maximize": (False, True),
    "ema_init": ("params", "zeros"),
}
# What every class has, and in any company.
COMMON = ("lr", "grad_scale", "clip_norm", "clip_eps", "clip_value", "ema")
OPTIONS = {**{name: NUMBERS[name] for name in COMMON}, **SWITCHES}
BAD_NUMBERS = (float("nan"), float("inf"), -1.0, "0.1", True, 1e39, lambda t: math.nan, lambda: 0.5)
ODD_SHAPES = ((), (0,), (1,), (3, 0), (17,), (4097,), (9001,), (3, 1400), (2, 3, 800))

seeds = st.integers(0, 99)
contents = st.sampled_from(["normal"] * 4 + list(CONTENTS))
FOREIGN = ["foreign"] * (NUMPY >= (2, 2))  # older NumPy cannot write them
dresses = st.sampled_from([""] * 15 + FOREIGN)
shapes = st.lists(st.integers(1, 5), max_size=3).map(tuple) | st.sampled_from(ODD_SHAPES)
leaves = st.builds(Leaf, shapes, st.sampled_from(["float32", "float64"]), st.sampled_from("CF"))
keys = st.sampled_from(["a", "b", "c", 7, ("d", 1)])
trees = st.recursive(
    leaves,
    lambda tree: (
        st.lists(tree, max_size=3)
        | st.lists(tree, max_size=2).map(tuple)
        | st.dictionaries(keys, tree, max_size=3)
    ),
    max_leaves=4,
)


def _with_an_average(drawn):
    """Without one, nothing says where it begins."""
    return drawn if drawn.get("ema") is not None else {**drawn, "ema_init": "params"}


options = st.fixed_dictionaries(
    {}, optional={name: st.sampled_from(values) for name, values in OPTIONS.items()}
).map(_with_an_average)


@st.composite
def layouts(draw, leaf):
    """A view of the shape of `leaf`, wherever it will lie."""
    axes = tuple(range(len(leaf.shape)))
    order = draw(st.sampled_from(["C", "C", "F", "any"]))
    steps = (1,) * len(axes)
    if order == "any":
        axes = tuple(draw(st.permutations(axes)))
        steps = tuple(draw(st.sampled_from([1, 2, -1, -2, 3, 0])) for _ in axes)
    dress = draw(st.sampled_from([""] * 15 + ["frozen", "scalar", *FOREIGN]))
    return View(0, 0, leaf.shape, axes[::-1] if order == "F" else axes, steps, dress)


# --- what is wrong --------------------------------------------------------------------------------

# What is no gradient, or no parameter, made of a good one; also of its own memory.
SPOILED_GRADS = {name: row[0] for name, row in GRADS.items() if name != "matrix"}
SPOILED_PARAMS = {name: row[0] for name, row in PARAMS.items() if name != "matrix"}
SPOILED_PARAMS |= {
    "reordered": lambda a: a.ravel("K").reshape(a.shape, order="FC"[a.flags.f_contiguous]),
    "flattened": lambda a: a.ravel("K"),
    "frozen": lambda a: np.lib.stride_tricks.as_strided(a, writeable=False),
    "shorter": lambda a: a[:-1],
}
# A structure of gradients that is none, made of a good one.
BENT = {
    "text": lambda tree: "grads",
    "number": lambda tree: 1.0,
    "nested": lambda tree: [[tree]],
    "generator": lambda tree: (x for x in [tree]),
    "more": lambda tree: {**tree, "z": None} if isinstance(tree, dict) else [tree, *[None] * 3],
}
# Calls that every optimizer refuses.
MISUSES = {
    "lr": lambda w: setattr(w.opt.groups[0], "lr", math.nan),
    "flag": lambda w: setattr(w.opt.groups[0], "maximize", not w.opt.groups[0].maximize),
    "one of two": lambda w: w.opt.groups[0].update({"lr": 9.0, "weight_decay": -1.0}),
    "unknown": lambda w: setattr(w.opt, "learning_rate", 0.1),
    "nothing": lambda w: w.opt.load_state_dict({}),
    "class": lambda w: w.opt.load_state_dict({**w.opt.state_dict(), "optimizer": "Lion"}),
    "steps": lambda w: w.opt.load_state_dict({**w.opt.state_dict(), "steps": -1}),
    "way": lambda w: w.opt.step(w.grads, w.params if w.way in ("bound", "groups") else None),
    "float16": lambda w: w.opt.add_group({"params": [np.ones(2), np.ones(2, np.float16)]}),
    "twice": lambda w: w.opt.add_group({"params": [np.ones(2)] * 2}),
    "copy": lambda w: copy.copy(w.opt),
}
