"""Functions of `cyopt.rules`, rewritten with the names of `cyopt.cuda.names`.

Operators become primitives, each of which rounds once; a compiler that may contract `a*b + c` finds
none to contract. Syntax that no rule needs is refused.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import Any

_OPERATORS = {ast.Add: "add", ast.Mult: "mul", ast.Div: "div"}
_FUNCTIONS = {"sqrt", "maximum", "minimum"}


def parse(function: Callable[..., Any]) -> ast.FunctionDef:
    """The definition of a function, without its docstring."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(tree, ast.FunctionDef) and ast.get_docstring(tree)
    del tree.body[0]
    return tree


def _as_addition(operator: type[ast.operator], right: ast.expr) -> tuple[Any, ast.expr]:
    """Subtraction: a - b is a + -b, also in its bits."""
    if operator is ast.Sub:
        return ast.Add, ast.UnaryOp(ast.USub(), right)
    return operator, right


class RuleRewriter(ast.NodeTransformer):
    """Statements of `cyopt.rules` in terms of primitives; `h.x` becomes `h_x`."""

    def __init__(self) -> None:
        self.scalars: list[str] = []  # in the order of their first use
        self.names: dict[str, str] = {}  # of the current function -> of the kernel

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        left, right = self.visit(node.left), self.visit(node.right)
        operator, right = _as_addition(type(node.op), right)
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
        raise SyntaxError(f"a number of a rule would have another dtype: {ast.unparse(node)}")

    def lines(
        self, function: Callable[..., Any], flags: Mapping[str, bool], names: Mapping[str, str]
    ) -> list[str]:
        """A function's statements, with its flags resolved.

        A returned expression is assigned to the first argument; returned names are already
        assigned.
        """
        tree = parse(function)
        self.names = dict(names)
        return list(self._statements(tree.body, flags, tree.args.args[0].arg))

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


class DoubleRewriter(ast.NodeTransformer):
    """A function of doubles and integers in terms of primitives."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        left, right = self.visit(node.left), self.visit(node.right)
        operator, right = _as_addition(type(node.op), right)
        if operator not in _OPERATORS:  # on integers
            return ast.BinOp(left, node.op, right)
        return ast.Call(ast.Name(f"{_OPERATORS[operator]}_double"), [left, right], [])

    def visit_Call(self, node: ast.Call) -> ast.expr:
        if ast.unparse(node.func) != "root":
            raise SyntaxError(f"the scalars have no such call: {ast.unparse(node)}")
        return ast.Call(ast.Name("sqrt_double"), [self.visit(node.args[0])], [])

    def function(self, function: Callable[..., Any]) -> ast.stmt:
        """A function without its docstring and types."""
        tree = parse(function)
        arguments = ast.arguments(
            [], [ast.arg(a.arg) for a in tree.args.args], None, [], [], None, []
        )
        body = [self.visit(statement) for statement in tree.body]
        return ast.FunctionDef(tree.name, arguments, body, [])
