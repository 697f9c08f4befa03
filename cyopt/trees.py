"""Parameters in any nesting of dict, list and tuple: their names, their order, their structure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

# What to do if the structure is not that of the parameters, by argument.
_CURE = {
    "grads": "; give each parameter its gradient, or None to skip it",
    "params": "; give the same parameters at each step, or make a new optimizer for others",
}

Tree = Any  # an array, or a Mapping, list or tuple of trees


class Node(NamedTuple):
    """The structure of a container: its keys in order, and the structure of each child.

    `_look.pxi` and `_plan.pxi` take the fields by their numbers.
    """

    keys: tuple[Any, ...]
    children: tuple[Node | None, ...]  # None: a leaf
    is_mapping: bool
    is_flat: bool  # whether no child is a container


def structure(tree: Tree) -> Node | None:
    """The structure of `tree`: what `leaves` needs to walk another tree of the same form."""
    try:
        return _structure(tree)
    except RecursionError:
        raise ValueError("params is nested too deeply, or a container that holds itself") from None


def _structure(tree: Tree) -> Node | None:
    if isinstance(tree, Mapping):
        keys, is_mapping = tuple(tree), True
    elif isinstance(tree, list | tuple):
        keys, is_mapping = tuple(range(len(tree))), False
    else:
        return None
    children = tuple(_structure(tree[key]) for key in keys)
    return Node(keys, children, is_mapping, all(child is None for child in children))


def names(node: Node | None, prefix: str = "") -> list[str]:
    """A path for each leaf, such as "layer1.w"; a tree that is one leaf has the name "0".

    >>> names(structure({"layer1": {"w": 1.0, "b": 2.0}, "out": [3.0]}))
    ['layer1.w', 'layer1.b', 'out.0']
    """
    if node is None:
        return [prefix or "0"]
    found = []
    for key, child in zip(node.keys, node.children, strict=True):
        found += names(child, f"{prefix}.{key}" if prefix else str(key))
    return found


def leaves(tree: Tree, node: Node | None, argument: str) -> list[Any]:
    """The leaves of `tree` in the order of `names`, if it has the structure `node`.

    Raises ValueError or TypeError, which names the place in `argument` where it does not.

    >>> node = structure({"w": 1.0, "b": [2.0, 3.0]})
    >>> leaves({"b": ["x", "y"], "w": "z"}, node, "grads")
    ['z', 'x', 'y']
    """
    if node is None:
        return [tree]
    if node.is_flat:
        return _children(tree, node, argument)
    return list(_walk(tree, node, argument))


def tree_of(node: Node | None, leaves: Iterator[Any]) -> Tree:
    """A tree of this structure, of dicts and lists.

    >>> tree_of(structure({"w": 1.0, "b": (2.0, 3.0)}), iter("xyz"))
    {'w': 'x', 'b': ['y', 'z']}
    """
    if node is None:
        return next(leaves)
    children = [tree_of(child, leaves) for child in node.children]
    return dict(zip(node.keys, children, strict=True)) if node.is_mapping else children


def _walk(tree: Tree, node: Node | None, place: str) -> Iterator[Any]:
    if node is None:
        if isinstance(tree, Mapping | list | tuple):
            raise TypeError(f"{place} is of type {type(tree).__name__}; expected one array or None")
        yield tree
        return
    children = _children(tree, node, place)
    for key, child, child_node in zip(node.keys, children, node.children, strict=True):
        yield from _walk(child, child_node, f"{place}[{key!r}]")


def _children(tree: Tree, node: Node, place: str) -> list[Any]:
    """What a container of the form `node` holds, in the order of its keys."""
    if node.is_mapping:
        if not isinstance(tree, Mapping):
            raise TypeError(
                f"{place} is of type {type(tree).__name__}; expected a mapping with the keys"
                f" {list(node.keys)!r}"
            )
        # Asking a defaultdict for a key that it lacks would add it.
        if type(tree) is dict or all(key in tree for key in node.keys):
            try:
                found = [tree[key] for key in node.keys]
                if len(tree) == len(found):
                    return found
            except KeyError:
                pass
        missing = [key for key in node.keys if key not in tree]
        extra = [key for key in tree if key not in node.keys]
        raise ValueError(
            f"{place} does not have the keys of the parameters:"
            f" missing {missing!r}, unexpected {extra!r}" + _CURE.get(place.split("[")[0], "")
        )
    if not isinstance(tree, (list, tuple)):  # in half the time of a union
        raise TypeError(
            f"{place} is of type {type(tree).__name__}; expected a list or tuple of length"
            f" {len(node.keys)}"
        )
    if len(tree) != len(node.keys):
        raise ValueError(
            f"{place} has {len(tree)} entries; expected {len(node.keys)}"
            + _CURE.get(place.split("[")[0], "")
        )
    return list(tree)  # a copy, which another thread cannot change as it can the caller's list
