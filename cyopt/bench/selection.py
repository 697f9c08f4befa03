"""What to measure: the words of `--only`, and what is measured without them."""

from __future__ import annotations

import difflib
import re
from argparse import ArgumentTypeError
from collections.abc import Sequence
from typing import Any, NamedTuple

import cyopt
from cyopt.bench.cases import RULES, Rule
from cyopt.bench.workloads import MODELS, SIZES, Workload, model, one_array

DTYPES = ("float32", "float64")

# Each default is written as the words that ask for it.
FULL_CHOICE = ["sgd", "momentum", "adagrad", "rmsprop", "adam", *map(str, SIZES), *MODELS]
QUICK_CHOICE = ["sgd", "adam", "1k", "100k", "10M", "digits", "mnist"]
# On a GPU, quick and full: one thread launches.
GPU_CHOICES = (
    ["sgd", "adam", "1k", "1M", "64M", "mnist", "1t"],
    [*FULL_CHOICE, "64M", "256M", "1t"],
)

_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,6})?(?:e\d{1,2})?)([km]?)")
_UNIT = {"": 1, "k": 1_000, "m": 1_000_000}


class Term(NamedTuple):
    """A word of `--only`: what it restricts, and to what."""

    category: str  # a field of Selection
    value: Any


class Selection(NamedTuple):
    """Every combination of these is measured."""

    rules: list[Rule]
    dtypes: list[str]
    workloads: list[Workload]
    threads: list[int]

    def as_dict(self) -> dict[str, list[Any]]:
        """The names, for JSON."""
        names = {key: [each.name for each in getattr(self, key)] for key in ("rules", "workloads")}
        return {**self._asdict(), **names}


def select(only: Sequence[Term], default: Sequence[str]) -> Selection:
    """What `only` asks for, and the default for each category that it does not restrict."""
    usual = [*map(term, default), *(Term("dtypes", dtype) for dtype in DTYPES)]
    if not any(each.category == "threads" for each in usual):
        usual += [term("1t"), term("all")]
    chosen = []
    for category in Selection._fields:
        values = [t.value for t in only if t.category == category]
        values = values or [t.value for t in usual if t.category == category]
        chosen.append([v for i, v in enumerate(values) if v not in values[:i]])
    selection = Selection(*chosen)
    selection.workloads.sort(key=lambda each: (each.is_model, each.elements))
    selection.threads.sort()
    return selection


def term(text: str) -> Term:
    """What a word stands for; the type of an argument, so that argparse reports what is unknown.

    >>> term("float32"), term("1t")
    (Term(category='dtypes', value='float32'), Term(category='threads', value=1))
    >>> term("3M").value, term("1e6").value.name
    (Workload(name='3M', shapes=[(3000000,)]), '1M')
    """
    word = text.lower()
    if word in RULES:
        return Term("rules", RULES[word])
    if word in DTYPES:
        return Term("dtypes", word)
    if word in MODELS:
        return Term("workloads", model(word))
    if (n := _size(word)) is not None:
        return Term("workloads", one_array(n))
    if word in _threads():
        return Term("threads", _threads()[word])
    raise ArgumentTypeError(f"{text!r} is unknown{_nearest(word)}; {vocabulary()}")


def vocabulary() -> str:
    """The words that `term` knows."""
    return (
        f"rules: {', '.join(RULES)}; dtypes: {', '.join(DTYPES)}; sizes such as 100, 10k, 2.5M,"
        f" 1e6; models: {', '.join(MODELS)}; threads: 1t to {max(_threads().values())}t, all"
    )


def _size(word: str) -> int | None:
    """A number of elements: 100, 10k, 2.5m, 1e6."""
    match = _SIZE.fullmatch(word)
    if match is None:
        return None
    n = float(match[1]) * _UNIT[match[2]]
    return int(n) if n >= 1 and n.is_integer() else None


def _threads() -> dict[str, int]:
    most = cyopt.get_num_threads()
    return {**{f"{n}t": n for n in range(1, most + 1)}, "all": most}


def _nearest(word: str) -> str:
    near = difflib.get_close_matches(word, [*RULES, *DTYPES, *MODELS, *_threads()], 1)
    return f" (nearest: {near[0]})" if near else ""
