"""Worlds with the same arrays at other addresses: in one steps are made by C, in another by NumPy.

An array is described once, as a `View` of memory, and made in each world from that world's own.
"""

import collections
import copy
import dataclasses
import itertools
import math
import pickle
from collections.abc import Mapping

import numpy as np
from models import Foreign
from same_bits import same_bits
from test_bits import content, shifted

import cyopt
from cyopt.arrays import DTYPES
from cyopt.given import Spec
from cyopt.hyper import is_scheduled

ERRORS = (TypeError, ValueError, AttributeError, BufferError, RuntimeError)
COUNT = collections.Counter()  # of what was run, for a line at the end
GUARD = 4  # numbers on both sides of an array, which nothing may change


@dataclasses.dataclass(frozen=True)
class Leaf:
    """What a parameter is."""

    shape: tuple[int, ...]
    dtype: str
    order: str = "C"


@dataclasses.dataclass(frozen=True)
class View:
    """An array in memory number `memory`, from its number `start` on.

    `axes` go from the slowest to the fastest. A step of an axis leaves numbers out, goes back if it
    is below 0, and repeats the same ones if it is 0.
    """

    memory: int
    start: int
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    steps: tuple[int, ...]
    dress: str = ""  # what an array is handed over as

    @property
    def sizes(self):
        return [n * abs(s) if s else 1 for n, s in zip(self.shape, self.steps, strict=True)]

    @property
    def size(self):
        """The numbers of its memory that it lies in."""
        return math.prod(self.sizes)

    def of(self, memory):
        base = memory[self.start : self.start + self.size]
        base = base.reshape([self.sizes[a] for a in self.axes]).transpose(np.argsort(self.axes))
        base = base[(*(slice(None, None, s or 1) for s in self.steps), ...)]
        strides = [b if s else 0 for b, s in zip(base.strides, self.steps, strict=True)]
        array = np.lib.stride_tricks.as_strided(base, self.shape, strides)
        if self.dress == "frozen":
            array.flags.writeable = False
        if self.dress == "scalar" and not self.shape:
            return array[()]
        return Foreign(array) if self.dress == "foreign" else array


def plain(leaf, memory, dress=""):
    """The view of a parameter like `leaf` that has a memory of its own."""
    axes = tuple(range(len(leaf.shape)))[:: 1 if leaf.order == "C" else -1]
    return View(memory, GUARD, leaf.shape, axes, (1,) * len(axes), dress)


def tree_map(function, tree):
    if isinstance(tree, dict):
        return type(tree)((key, tree_map(function, child)) for key, child in tree.items())
    if isinstance(tree, list | tuple):
        return type(tree)(tree_map(function, child) for child in tree)
    return function(tree)


def places(parent, key):
    """The container and key of each leaf below `parent[key]`."""
    tree = parent[key]
    if not isinstance(tree, dict | list | tuple):
        return [(parent, key)]
    keys = tree if isinstance(tree, dict) else range(len(tree))
    return [place for child in keys for place in places(tree, child)]


def unwrap(value):
    return value.array if isinstance(value, Foreign) else value


def can_be_zeroed(grad):
    """It can be written, and no two of its numbers are one."""
    if not isinstance(grad, np.ndarray) or not grad.flags.writeable:
        return False
    sides = zip(grad.shape, grad.strides, strict=True)
    return not (grad.size and any(n > 1 and stride == 0 for n, stride in sides))


@dataclasses.dataclass(frozen=True)
class Refused:
    """What comes of a call that raises."""

    error: type
    message: str

    def __eq__(self, other):  # messages name the first of several in the order of addresses
        return isinstance(other, Refused) and self.error is other.error

    __hash__ = None


def outcome(call, world):
    try:
        return call(world)
    except ERRORS as error:
        return Refused(type(error), str(error))


def difference(a, b, where=""):
    """Where two structures differ in a bit; empty if nowhere."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return "" if same_bits(a, b) else f"{where}: {a} and {b}"
    if isinstance(a, Mapping) and isinstance(b, Mapping) and set(a) == set(b):
        return "".join(difference(a[key], b[key], f"{where}[{key!r}]") for key in a)
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        pairs = enumerate(zip(a, b, strict=True))
        return "".join(difference(x, y, f"{where}[{i}]") for i, (x, y) in pairs)
    both_nan = isinstance(a, float) and isinstance(b, float) and a != a and b != b
    return "" if both_nan or a == b else f"{where}: {a!r} and {b!r}"


class World:
    """Memory, parameters in it, and an optimizer of theirs: bound to them, in groups, unbound, or
    used with a key for each."""

    def __init__(self, reference):
        self.reference = reference
        self.memory, self.groups = [], []
        self.grads = None

    def allocate(self, values, shift):
        """More memory, `shift` numbers past an aligned address: only where C makes the steps."""
        self.memory.append(shifted(values, 0 if self.reference else shift))

    def take(self, views):
        """The arrays that these views describe."""
        return tree_map(lambda v: v if v is None else v.of(self.memory[v.memory]), views)

    def make(self, cls, hypers, way, groups):
        self.cls, self.hypers, self.way, self.groups = cls, hypers, way, groups
        self.opt = self.new()

    def new(self):
        given = {"bound": self.params, "groups": self.groups}.get(self.way)
        made = self.cls(given, **self.hypers)
        return cyopt.reference.attach(made) if self.reference else made

    @property
    def params(self):
        return self.groups[0]["params"]

    def places(self):
        return [place for group in self.groups for place in places(group, "params")]

    def arrays(self):
        return [unwrap(parent[key]) for parent, key in self.places()]

    def step(self, norms=False):
        if self.way == "keyed":
            ((key, grad),) = self.grads.items()
            assert self.opt.update(key, self.params[key], grad) is self.params[key]
            return not self.opt.skipped
        more = [self.params] if self.way == "unbound" else []
        return self.opt.step(self.grads, *more, norms=norms)

    def numbers(self):
        """Of the parameters that a step with these gradients updates."""
        if self.way == "keyed":
            return [list(self.params).index(key) for key in self.grads]
        return range(len(self.places()))

    def stepped(self):
        """The parameters themselves."""
        arrays = self.arrays()
        return [arrays[i] for i in self.numbers()]

    def written(self):
        """All that it writes except gradients."""
        (key,) = self.grads if self.way == "keyed" else (None,)
        entries = [e for name, e in self.opt.state.items() if self.way != "keyed" or name == key]
        return self.stepped() + [array for entry in entries for array in entry.values()]

    def clash(self, zeroes):
        """Whether arrays that a step writes share memory with others that it reads or writes, or
        those that it sets to zero cannot be: as NumPy knows it, which looks at each number."""
        given = [of[key] for of, key in places([self.grads], 0)]
        rows = [(unwrap(x), zero) for x, zero in zip(given, zeroes, strict=True) if x is not None]
        if any(zero and not can_be_zeroed(x) for x, zero in rows):
            return True
        pairs = [(x, y) for x, _ in rows for y in self.written()]
        pairs += [(x, y) for (x, a), (y, b) in itertools.combinations(rows, 2) if a or b]
        return any(np.shares_memory(x, y) for x, y in pairs)

    # --- what is spoiled --------------------------------------------------------------------------

    def with_grad(self, i, grad):
        """The gradients with this one in place of number `i`."""
        counter = itertools.count()
        return tree_map(lambda old: grad if next(counter) == i else old, self.grads)

    def spoiled(self, i, spoil):
        params = self.stepped()
        i = i % len(params)
        return self.with_grad(i, spoil(np.ones_like(params[i])))

    def overlapping(self, i, j, flip):
        """The gradients, one of which is an array that the step writes; None if none can be."""
        params, written = self.stepped(), self.written()
        i = i % max(len(params), 1)
        fit = [x for x in written if params and x.size and Spec.of(x)[:2] == Spec.of(params[i])[:2]]
        if not fit:
            return None
        array = fit[j % len(fit)]
        return self.with_grad(i, np.flip(array) if flip and array.ndim else array)

    def put(self, place, param):
        parent, key = self.places()[place]
        parent[key] = param

    def replace(self, place, spoil):
        """Spoil a parameter; where it was, and what."""
        parent, key = self.places()[place]
        old = parent[key]
        with np.errstate(all="ignore"):
            parent[key] = spoil(unwrap(old))
        return parent, key, old

    def add_group(self, group):
        self.opt.add_group(group)
        self.groups, self.way = [*self.groups, group], "groups"

    def everything(self):
        """All that a step, or a call that is refused, may have changed."""
        opt = self.opt
        return {
            "memory": [x.copy() for x in self.memory if x is not None],
            "params": [
                x.copy() for x in self.arrays() if type(x) is np.ndarray and x.dtype in DTYPES
            ],
            "saved": opt.state_dict(),
            "measured": [opt.skipped, opt.grad_norm, opt.update_norm, opt.param_norm],
        }

    def copied(self, how):
        """Continue with a copy of the optimizer and, except for `how` "load", of its parameters."""
        if how == "load":
            self.opt = self.loaded()
            return
        both = (self.opt, self.groups)
        copied = copy.deepcopy(both) if how == "deepcopy" else pickle.loads(pickle.dumps(both))
        self.opt, self.groups = copied

    def loaded(self):
        """A new optimizer with the saved state of this one, and its schedules."""
        new = self.new()
        for group, old in zip(new.groups, self.opt.groups, strict=True):
            now, then = group.values(), old.values()
            either = [name for name in now if is_scheduled(now[name]) or is_scheduled(then[name])]
            group.update({name: then[name] for name in either})
        new.load_state_dict(self.opt.state_dict())
        new._measured[:] = self.opt._measured  # the one thing that is not saved
        return new


class Twins:
    """A world whose steps C makes, and one that it must be equal to."""

    def __init__(self):
        super().__init__()
        self.worlds = self.ours, self.theirs = World(reference=False), World(reference=True)
        self.last = {}  # number of a parameter -> the view that its last gradient was
        self.of_params = set()  # memory in which parameters lie
        self.looms = {dtype: self.allocate(dtype, 500) for dtype in ("float32", "float64")}

    def both(self, call, refused=None):
        """What comes of a call: the same in both worlds and, if it raises, nothing else."""
        before = self.ours.everything()
        result, twin = (outcome(call, world) for world in self.worlds)
        assert result == twin
        if isinstance(result, Refused):
            assert not difference(before, self.ours.everything())
        if refused is not None:
            assert isinstance(result, Refused) == refused, result
        self.compare()
        COUNT["refused" if isinstance(result, Refused) else "made"] += 1
        return result

    def compare(self):
        assert not difference(self.ours.everything(), self.theirs.everything())

    def allocate(self, dtype, size):
        """The number of new memory, with the same numbers in both worlds."""
        number = len(self.ours.memory)
        values = content("normal", size, dtype, np.random.default_rng(number))
        for world in self.worlds:
            world.allocate(values, number % 5)
        return number

    def fill(self, kind, seed):
        """Other numbers where gradients lie, some of this kind."""
        rng = np.random.default_rng(seed)
        for number in sorted({view.memory for view in self.last.values()} - self.of_params):
            old = self.ours.memory[number]
            values = content(rng.choice([kind, "normal"]), old.size, old.dtype.name, rng)
            for world in self.worlds:
                world.memory[number][:] = values

    def placed(self, view, dtype, memory=None, start=GUARD):
        """That view, in this memory if it fits there; else in new memory."""
        there = None if memory is None else self.ours.memory[memory]
        if there is None or there.dtype != dtype or not 0 <= start <= there.size - view.size:
            memory, start = self.allocate(dtype, 2 * view.size + 2 * GUARD), GUARD
        return dataclasses.replace(view, memory=memory, start=start)

    def leave_memory(self):
        """Parameters lie elsewhere from now on: what lay among them is of no use."""
        self.last = {i: v for i, v in self.last.items() if v.memory not in self.of_params}
        for world in self.worlds:
            world.grads = None
            for number in self.of_params:
                world.memory[number] = None
        self.of_params = set()


def later(saved, more):
    """The state_dict of an optimizer that has made so many more steps."""
    entries = saved["state"].items()
    state = {name: {**entry, "step": entry["step"] + more} for name, entry in entries}
    return {**saved, "steps": saved["steps"] + more, "state": state}
