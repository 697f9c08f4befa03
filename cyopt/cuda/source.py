"""The text of kernels, made from a rule of `cyopt.rules` or from a kernel written in Python.

>>> print(rule_source(Variant("sgd", "float64")).text, end="")
def sgd_float64(table, chunks, h_s, h_k, h_step):
    chunk = load_int(chunks + 8 * cuda.blockIdx.x)
    row = table + 88 * (chunk >> 32)
    first = 4096 * (chunk & 0xFFFFFFFF)
    n = min(load_int(row) - first, 4096)
    at_p = load_int(row + 8) + 8 * first
    at_g = load_int(row + 16) + 8 * first
    def update(p, g):
        g = mul(h_s, g)
        p = add(mul(h_k, p), -mul(h_step, g))
        return p
    whole = n & -2
    if (at_p | at_g) & 15 != 0:
        whole = 0
    i = 2 * cuda.threadIdx.x
    while i < whole:
        ps = load_vector(at_p + 8 * i)
        gs = load_vector(at_g + 8 * i)
        p0 = update(ps[0], gs[0])
        p1 = update(ps[1], gs[1])
        store_vector(at_p + 8 * i, (p0, p1))
        i += 1024
    i = whole + cuda.threadIdx.x
    while i < n:
        p = load(at_p + 8 * i)
        g = load(at_g + 8 * i)
        p = update(p, g)
        store(at_p + 8 * i, p)
        i += 512
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from cyopt import rules
from cyopt.cuda.layout import (
    AVERAGE,
    BEGINS,
    DECISION,
    FIRST_SCALAR,
    GRAD,
    PARAM,
    ROW_BYTES,
    SCALARS,
    SET,
    SKIPPED,
    STATE,
    THREADS,
)
from cyopt.cuda.rewrite import DoubleRewriter, RuleRewriter, parse

VECTOR_BYTES = 16  # of a load or store by one thread
CHUNK_BYTES = 4 * THREADS * VECTOR_BYTES  # of a parameter that one block updates
# Functions of `cyopt.rules` that `decide` calls.
_OF_STEPS = (
    "power_by_squaring",
    "decayed",
    "corrected",
    "corrected_root",
    "corrected_both",
    "clip_ratio",
)


class Variant(NamedTuple):
    """Which kernel: a rule with what is done in the same pass."""

    rule: str  # of cyopt.rules.RULES
    dtype: str  # "float32" or "float64"
    coupled: bool = False  # coupled weight decay
    limited: bool = False  # clip_value
    averaged: bool = False  # ema
    zeroed: bool = False  # zero_grads
    decided: bool = False  # scalars, and whether to skip, are read from memory
    sets: int = 1  # sets of scalars among the arguments, one for each group and number of steps

    @property
    def name(self) -> str:
        """A name that is valid for a function."""
        options = [name for name in self._fields[2:-1] if getattr(self, name)]
        sets = [f"{self.sets}_sets"] if self.sets > 1 else []
        return "_".join([self.rule, self.dtype, *options, *sets])

    @property
    def columns(self) -> dict[str, int]:
        """The arrays that the kernel uses, and where in a row of the table their addresses are."""
        columns = {"p": PARAM, "g": GRAD}
        columns.update({s: STATE + j for j, s in enumerate(rules.RULES[self.rule].state) if s})
        return {**columns, "average": AVERAGE} if self.averaged else columns

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return np.dtype(self.dtype).itemsize

    @property
    def chunk(self) -> int:
        """Elements that a block updates."""
        return CHUNK_BYTES // self.itemsize


class Source(NamedTuple):
    """The text of a kernel, and its arguments: addresses or counts, then scalars of its dtype.

    There may be several sets of scalars, one after another.
    """

    name: str
    dtype: str
    text: str
    addresses: tuple[str, ...]
    scalars: tuple[str, ...]
    sets: int = 1


def _rule(variant: Variant) -> tuple[list[str], list[str]]:
    """The statements for one element of each array, and the scalars that they use."""
    rule, rewriter = rules.RULES[variant.rule], RuleRewriter()
    flags = {"coupled": variant.coupled, "limited": variant.limited}
    lines = rewriter.lines(rules.prologue, flags, {})
    lines += rewriter.lines(rule.function, rule.flags, {})
    if variant.averaged:
        lines += rewriter.lines(rules.average, {}, {"a": "average"})
    if variant.averaged and variant.decided:  # else the host copies it, before the first step
        lines.insert(0, "average = p if begins else average")
    return lines, rewriter.scalars


def _update(variant: Variant, lines: Sequence[str]) -> list[str]:
    """The rule as a function of one element of each array."""
    arrays = list(variant.columns)
    written = [name for name in arrays if name != "g"]
    return [f"def update({', '.join(arrays)}):", *_indented(*lines, f"return {', '.join(written)}")]


def _decision(variant: Variant, scalars: Sequence[str]) -> list[str]:
    """Scalars from memory, instead of arguments; nothing is updated in a step that is skipped."""
    place = {name: 8 * FIRST_SCALAR + variant.itemsize * SCALARS.index(name) for name in scalars}
    clear = [
        "i = cuda.threadIdx.x",
        "while i < n:",
        *_indented(f"store(at_g + {variant.itemsize} * i, h_zero)", f"i += {THREADS}"),
    ]
    return [
        f"decision = load_int(row + {8 * DECISION})",
        *(f"h_{name} = load(decision + {place[name]})" for name in scalars),
        *[f"begins = load_int(decision + {8 * BEGINS}) != 0"] * variant.averaged,
        f"if load_int(decision + {8 * SKIPPED}) != 0:",
        *_indented(*(clear if variant.zeroed else []), "return"),
    ]


def _choice(variant: Variant, scalars: Sequence[str]) -> list[str]:
    """Choose the array's set of scalars by comparisons, because arguments have no index."""
    lines = [f"own = load_int(row + {8 * SET})"]
    for name in scalars:
        chosen = f"h0_{name}"
        for k in range(1, variant.sets):
            chosen = f"(h{k}_{name} if own == {k} else {chosen})"
        lines.append(f"h_{name} = {chosen}")
    return lines


def _arguments(variant: Variant, scalars: Sequence[str]) -> list[str]:
    if variant.decided:
        return []
    if variant.sets == 1:
        return [f"h_{name}" for name in scalars]
    return [f"h{k}_{name}" for k in range(variant.sets) for name in scalars]


def _loops(variant: Variant) -> list[str]:
    """Vectors if all arrays are aligned for them, then the rest element by element."""
    arrays, size = list(variant.columns), variant.itemsize
    written = [name for name in arrays if name != "g"]
    width = VECTOR_BYTES // size
    zeros = ", ".join(["h_zero"] * width)
    whole = [f"{name}s = load_vector(at_{name} + {size} * i)" for name in arrays]
    for lane in range(width):
        results = ", ".join(f"{name}{lane}" for name in written)
        whole.append(f"{results} = update({', '.join(f'{name}s[{lane}]' for name in arrays)})")
    for name in written:
        values = ", ".join(f"{name}{lane}" for lane in range(width))
        whole.append(f"store_vector(at_{name} + {size} * i, ({values}))")
    whole += [f"store_vector(at_g + {size} * i, ({zeros}))"] * variant.zeroed
    rest = [
        *(f"{name} = load(at_{name} + {size} * i)" for name in arrays),
        f"{', '.join(written)} = update({', '.join(arrays)})",
        *(f"store(at_{name} + {size} * i, {name})" for name in written),
        *[f"store(at_g + {size} * i, h_zero)"] * variant.zeroed,
    ]
    return [
        f"whole = n & -{width}",
        f"if ({' | '.join(f'at_{name}' for name in arrays)}) & {VECTOR_BYTES - 1} != 0:",
        *_indented("whole = 0"),
        f"i = {width} * cuda.threadIdx.x",
        "while i < whole:",
        *_indented(*whole, f"i += {width * THREADS}"),
        "i = whole + cuda.threadIdx.x",
        "while i < n:",
        *_indented(*rest, f"i += {THREADS}"),
    ]


@cache
def rule_source(variant: Variant) -> Source:
    """The kernel of a variant, in which each block updates a chunk of one array.

    An entry of `chunks` has the row of the array in its upper half, and the number of the chunk in
    the array in its lower half. `cyopt.cuda.layout` describes a row.
    """
    rule, scalars = _rule(variant)
    arguments = ["table", "chunks", *_arguments(variant, scalars)]
    body = [
        "chunk = load_int(chunks + 8 * cuda.blockIdx.x)",
        f"row = table + {ROW_BYTES} * (chunk >> 32)",
        f"first = {variant.chunk} * (chunk & 0xFFFFFFFF)",
        f"n = min(load_int(row) - first, {variant.chunk})",
        *(
            f"at_{name} = load_int(row + {8 * column}) + {variant.itemsize} * first"
            for name, column in variant.columns.items()
        ),
        *(_decision(variant, scalars) if variant.decided else []),
        *(_choice(variant, scalars) if variant.sets > 1 else []),
        *_update(variant, rule),
        *_loops(variant),
    ]
    text = "\n".join([f"def {variant.name}({', '.join(arguments)}):", *_indented(*body), ""])
    passed = () if variant.decided else tuple(scalars)
    return Source(variant.name, variant.dtype, text, ("table", "chunks"), passed, variant.sets)


@cache
def function_source(function: Callable[..., None], dtype: str) -> Source:
    """A kernel that is written in Python, such as those of `cyopt.cuda.measure`."""
    tree = parse(function)
    arguments = tuple(argument.arg for argument in tree.args.args)
    rewriter = DoubleRewriter()
    called = [f for f in _OF_STEPS if f"{f}(" in ast.unparse(tree)]
    functions = [rewriter.function(getattr(rules, f)) for f in called]
    tree.name, tree.body = f"{tree.name}_{dtype}", [*functions, *tree.body]
    text = ast.unparse(ast.fix_missing_locations(tree)) + "\n"
    return Source(tree.name, dtype, text, arguments, ())


def _indented(*lines: str) -> list[str]:
    return [f"    {line}" for line in lines]
