"""The text of a CUDA kernel, made from the text of a rule in `cyopt.rules`.

Operators become the primitives of `cyopt.cuda.primitives`, each of which rounds once; a compiler
that may contract `a*b + c` finds none to contract. What is not an operator, a call of `sqrt`,
`maximum` or `minimum`, a flag or a plain assignment is refused: a rule has nothing else.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from cyopt import rules
from cyopt.cuda.driver import THREADS

VECTOR_BYTES = 16  # of a load or store by one thread
CHUNK = 4 * THREADS * VECTOR_BYTES  # bytes of a parameter that a block updates
# A row of the table, of 64-bit integers: the number of elements, then addresses.
SIZE, PARAM, GRAD, STATE, AVERAGE, SCALARS, COLUMNS = 0, 1, 2, 3, 6, 7, 8
_OPERATORS = {ast.Add: "add", ast.Mult: "mul", ast.Div: "div"}
_FUNCTIONS = {"sqrt", "maximum", "minimum"}


class Variant(NamedTuple):
    """Which kernel: a rule with what is done in the same pass."""

    rule: str  # of cyopt.rules.RULES
    dtype: str  # "float32" or "float64"
    coupled: bool = False  # coupled weight decay
    limited: bool = False  # clip_value
    averaged: bool = False  # ema
    zeroed: bool = False  # zero_grads
    decided: bool = False  # scalars, and whether to skip, are read from memory

    @property
    def name(self) -> str:
        """A name that is a function's as well."""
        options = [name for name in self._fields[2:] if getattr(self, name)]
        return "_".join([self.rule, self.dtype, *options])

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
        return CHUNK // self.itemsize


class Source(NamedTuple):
    """The text of a kernel, and its arguments: addresses or counts, then scalars of its dtype."""

    name: str
    dtype: str
    text: str
    addresses: tuple[str, ...]
    scalars: tuple[str, ...]


class _Rewrite(ast.NodeTransformer):
    """Statements of `cyopt.rules` in terms of primitives; `h.x` becomes `h_x`."""

    def __init__(self) -> None:
        self.scalars: list[str] = []  # in the order of their first use
        self.names: dict[str, str] = {}  # of the function in hand -> of the kernel

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        left, right = self.visit(node.left), self.visit(node.right)
        operator = type(node.op)
        if operator is ast.Sub:  # a - b is a + -b, also in its bits
            operator, right = ast.Add, ast.UnaryOp(ast.USub(), right)
        if operator not in _OPERATORS:
            raise SyntaxError(f"a rule has no such operator: {ast.unparse(node)}")
        return ast.Call(ast.Name(_OPERATORS[operator]), [left, right], [])

    def visit_Call(self, node: ast.Call) -> ast.expr:
        if not isinstance(node.func, ast.Name) or node.func.id not in _FUNCTIONS:
            raise SyntaxError(f"a rule has no such call: {ast.unparse(node)}")
        return ast.Call(node.func, list(map(self.visit, node.args)), [])

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        if node.attr != "zero" and node.attr not in self.scalars:
            self.scalars.append(node.attr)
        return ast.Name(f"h_{node.attr}")

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Name(self.names.get(node.id, node.id))

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        raise SyntaxError(f"a rule has no number of its own: {ast.unparse(node)}")

    def lines(
        self, function: Callable[..., Any], flags: Mapping[str, bool], names: Mapping[str, str]
    ) -> list[str]:
        """A function's statements with its flags decided; its result goes to its first argument,
        or to the arguments that it names."""
        tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
        assert isinstance(tree, ast.FunctionDef)
        self.names = dict(names)
        return list(self._statements(tree.body[1:], flags, tree.args.args[0].arg))

    def _statements(
        self, body: list[ast.stmt], flags: Mapping[str, bool], first: str
    ) -> Iterator[str]:
        for statement in body:
            if isinstance(statement, ast.If) and isinstance(statement.test, ast.Name):
                if flags.get(statement.test.id, False):
                    yield from self._statements(statement.body, flags, first)
            elif isinstance(statement, ast.Assign):
                yield self._assign(statement.targets[0], statement.value)
            elif not isinstance(statement, ast.Return) or statement.value is None:
                raise SyntaxError(f"a rule has no such statement: {ast.unparse(statement)}")
            elif not isinstance(statement.value, ast.Name | ast.Tuple):
                yield self._assign(ast.Name(first), statement.value)

    def _assign(self, target: ast.expr, value: ast.expr) -> str:
        return f"{ast.unparse(self.visit(target))} = {ast.unparse(self.visit(value))}"


def rule_lines(variant: Variant) -> tuple[list[str], list[str]]:
    """What is done with one element of each array, and the scalars that it takes."""
    rule, rewrite = rules.RULES[variant.rule], _Rewrite()
    flags = {"coupled": variant.coupled, "limited": variant.limited}
    lines = rewrite.lines(rules.prologue, flags, {})
    lines += rewrite.lines(rule.function, rule.flags, {})
    if variant.averaged:
        lines += rewrite.lines(rules.average, {}, {"a": "average"})
    return lines, rewrite.scalars


_KERNEL = """\
def {name}(table, chunks, {arguments}):
    def update({arrays}):
        {rule}
        return {results}

    chunk = load_int(chunks + 8 * cuda.blockIdx.x)
    row = table + {row_bytes} * (chunk >> 32)
    first = {chunk} * (chunk & 0xFFFFFFFF)
    n = min(load_int(row) - first, {chunk})
    {addresses}
    whole = n & -{width}
    if ({all_addresses}) & 15 != 0:
        whole = 0
    i = {width} * cuda.threadIdx.x
    while i < whole:
        {load_vectors}
        {update_vectors}
        {store_vectors}
        i += {stride}
    i = whole + cuda.threadIdx.x
    while i < n:
        {load}
        {update}
        {store}
        i += {threads}
"""


@cache
def kernel(variant: Variant) -> Source:
    """The kernel of a variant. Each block takes a chunk of one array: the row of that array in the
    table, of its size and the addresses, and the place of the chunk, both in a number of `chunks`.
    """
    rule, scalars = rule_lines(variant)
    columns, itemsize = variant.columns, variant.itemsize
    arrays = list(columns)
    written = [name for name in arrays if name != "g"]
    width = VECTOR_BYTES // itemsize
    lanes = range(width)

    def of_lane(names: list[str], lane: int) -> str:
        return ", ".join(f"{name}{lane}" for name in names)

    def lines(*parts: list[str], indent: int = 8) -> str:
        return f"\n{' ' * indent}".join(line for part in parts for line in part)

    text = _KERNEL.format(
        name=variant.name,
        arguments=", ".join(f"h_{name}" for name in scalars),
        arrays=", ".join(arrays),
        rule=lines(rule),
        results=", ".join(written),
        row_bytes=8 * COLUMNS,
        chunk=variant.chunk,
        addresses=lines(
            [
                f"at_{name} = load_int(row + {8 * column}) + {itemsize} * first"
                for name, column in columns.items()
            ],
            indent=4,
        ),
        width=width,
        all_addresses=" | ".join(f"at_{name}" for name in arrays),
        load_vectors=lines(
            [f"{name}s = load_vector(at_{name} + {itemsize} * i)" for name in arrays]
        ),
        update_vectors=lines(
            [
                f"{of_lane(written, lane)} = update("
                + ", ".join(f"{name}s[{lane}]" for name in arrays)
                + ")"
                for lane in lanes
            ]
        ),
        store_vectors=lines(
            [
                f"store_vector(at_{name} + {itemsize} * i, ("
                + ", ".join(f"{name}{lane}" for lane in lanes)
                + "))"
                for name in written
            ],
            [f"store_vector(at_g + {itemsize} * i, ({'h_zero, ' * width}))"] * variant.zeroed,
        ),
        stride=width * THREADS,
        threads=THREADS,
        load=lines([f"{name} = load(at_{name} + {itemsize} * i)" for name in arrays]),
        update=f"{', '.join(written)} = update({', '.join(arrays)})",
        store=lines(
            [f"store(at_{name} + {itemsize} * i, {name})" for name in written],
            [f"store(at_g + {itemsize} * i, h_zero)"] * variant.zeroed,
        ),
    )
    return Source(variant.name, variant.dtype, text, ("table", "chunks"), tuple(scalars))
