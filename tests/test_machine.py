"""Any sequence of calls: an optimizer and its twin, the same one run by cyopt/rules.py.

Each rule of the machine makes the same calls in two worlds (`worlds`) and compares all that they
left behind, bit for bit. A call that raises must raise in both, and have changed nothing.

`make test` runs the same examples each time; with CYOPT_FUZZ_SECONDS=3600 it is others for an hour.
"""

import collections
import dataclasses
import math
import os
import time

from draws import (
    BAD_NUMBERS,
    BENT,
    MISUSES,
    NUMBERS,
    SPOILED_GRADS,
    SPOILED_PARAMS,
    contents,
    dresses,
    keys,
    layouts,
    leaves,
    options,
    seeds,
    trees,
)
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from models import KINDS
from variants import VARIANTS
from worlds import COUNT, GUARD, Refused, Twins, World, later, places, plain, tree_map

import cyopt
from cyopt import _cpu

SECONDS = float(os.environ.get("CYOPT_FUZZ_SECONDS", "0"))
WAYS = ("bound", "groups", "unbound", "keyed")
# Where a gradient lies: as in the last step; in new memory; where the last one began, but in
# another layout; near that of another parameter; in any memory, also between a parameter's numbers.
WHERE = ("as before", "as before", "new", "new", "there", "near", "anywhere", "none")
COPIES = ("load", "deepcopy", "pickle")
has_stepped = precondition(lambda self: self.ours.grads is not None)


class Machine(Twins, RuleBasedStateMachine):
    """`tree` is what the parameters are, in the structure in which gradients are given."""

    def __init__(self):
        super().__init__()
        cyopt.set_subnormals("keep")
        run_by(threads=2, isa="best", grain=1)

    def teardown(self):
        COUNT["examples"] += 1

    # --- arrays -----------------------------------------------------------------------------------

    def draw_params(self, data, tree):
        def view(leaf):
            size = math.prod(leaf.shape) + 2 * GUARD
            memory = self.allocate(leaf.dtype, size)
            self.of_params.add(memory)
            return plain(leaf, memory, data.draw(dresses))

        return tree_map(view, tree)

    def rows(self):
        """What each parameter is, and its group."""
        parts = self.tree if self.ours.way == "groups" else [self.tree]
        pairs = zip(range(len(parts)), self.ours.opt.groups, strict=True)
        return [(of[key], group) for g, group in pairs for of, key in places(parts, g)]

    def draw_grads(self, data, draw):
        """The gradients of all parameters, or of one where each has a key: each by `draw`."""
        rows = list(enumerate(self.rows()))
        keyed = self.ours.way == "keyed"
        chosen = [data.draw(st.sampled_from(rows))] if keyed else rows
        views = {i: draw(data, i, *row) for i, row in chosen}
        self.last.update({i: view for i, view in views.items() if view is not None})
        if keyed:
            tree = {list(self.tree)[i]: view for i, view in views.items()}
        else:
            each = iter(views.values())
            tree = tree_map(lambda leaf: next(each), self.tree)
            other = {dict: collections.OrderedDict, list: tuple, tuple: list}.get(type(tree))
            tree = other(tree) if other and data.draw(st.integers(0, 9)) == 9 else tree
        for world in self.worlds:
            world.grads = world.take(tree)

    def draw_grad(self, data, i, leaf, group):
        where, last = data.draw(st.sampled_from(WHERE)), self.last.get(i)
        if where == "none" and self.ours.way != "keyed":
            return None
        if where == "as before" and last:
            return last
        cast = group.cast_grads and data.draw(st.booleans())
        dtype, view = "float64" if cast else leaf.dtype, data.draw(layouts(leaf))
        if where == "there" and last:
            return self.placed(view, dtype, last.memory, last.start)
        if where == "near" and self.last:
            near = data.draw(st.sampled_from(list(self.last.values())))
            return self.placed(view, dtype, near.memory, near.start + data.draw(st.integers(-2, 9)))
        if where == "anywhere":
            memory = data.draw(st.integers(0, len(self.ours.memory) - 1))
            return self.placed(view, dtype, memory, data.draw(st.integers(0, 9)))
        return self.placed(view, dtype)

    def must_refuse(self):
        """Whether the arrays of the next step's gradients may not be read, or set to zero."""
        groups = [group for _, group in self.rows()]
        if self.ours.way == "keyed":
            groups = groups[:1]
        return self.ours.clash([group.zero_grads for group in groups])

    # --- steps ------------------------------------------------------------------------------------

    @initialize(data=st.data(), variant=st.sampled_from(VARIANTS), way=st.sampled_from(WAYS))
    def make(self, data, variant, way):
        cls, hypers = variant
        given = {"groups": st.lists(trees, min_size=1, max_size=3),
                 "keyed": st.dictionaries(keys, leaves, min_size=1, max_size=4)}  # fmt: skip
        self.tree = data.draw(given.get(way, trees))
        self.rooted = way != "groups"  # what the optimizer is given holds the first group's tree
        parts = self.tree if way == "groups" else [self.tree]
        views = [self.draw_params(data, part) for part in parts]
        own = [data.draw(options) if way == "groups" else {} for _ in parts]
        hypers = {**hypers, **data.draw(options)}
        for world in self.worlds:
            groups = [{"params": world.take(v), **o} for v, o in zip(views, own, strict=True)]
            world.make(cls, hypers, way, groups)
        self.compare()
        if data.draw(st.integers(0, 3)):
            self.step(data)

    @rule(data=st.data())
    def step(self, data):
        self.draw_grads(data, self.draw_grad)
        self.go_on(data)

    @rule(data=st.data(), apart=st.booleans())
    def step_with_woven_gradients(self, data, apart):
        """Their numbers take turns in one memory; or they begin where those would, and overlap."""
        n = len(self.rows()) if apart else 1

        def draw(data, i, leaf, group):
            view = plain(leaf, self.looms[leaf.dtype])
            steps = tuple(n if a in view.axes[-1:] else 1 for a in range(len(leaf.shape)))
            view = dataclasses.replace(view, steps=steps)
            return self.placed(view, leaf.dtype, view.memory, i)

        self.draw_grads(data, draw)
        self.go_on(data)

    def go_on(self, data):
        """Steps with the same arrays as the last one, if there was one: the compiled way."""
        if self.ours.grads is None:
            self.step(data)
        for _ in range(data.draw(st.integers(1, 3))):
            if data.draw(st.booleans()):
                self.fill(data.draw(contents), data.draw(seeds))
            norms = data.draw(st.booleans())
            self.both(lambda world, norms=norms: world.step(norms), self.must_refuse())

    # --- changes between steps --------------------------------------------------------------------

    @rule(data=st.data())
    def set_number(self, data):
        group, name = self.draw_number(data)
        value = data.draw(st.sampled_from(NUMBERS[name]))
        self.both(lambda world: setattr(world.opt.groups[group], name, value))
        self.go_on(data)

    def draw_number(self, data):
        """The number of a group, and the name of one of its hyperparameters."""
        group = data.draw(st.integers(0, len(self.ours.opt.groups) - 1))
        values = self.ours.opt.groups[group].values()
        return group, data.draw(st.sampled_from([name for name in NUMBERS if name in values]))

    @rule(data=st.data())
    def add(self, data):
        """Parameters: of another group, or of a key that was not seen."""
        way = self.ours.way
        if way == "unbound" or len(self.rows()) > 9:
            return
        if way == "keyed":
            key, leaf = data.draw(keys), data.draw(leaves)
            if key not in self.tree:
                self.tree[key], view = leaf, self.draw_params(data, leaf)
                for world in self.worlds:
                    world.params[key] = world.take(view)
            return
        tree = data.draw(trees)
        views, own = self.draw_params(data, tree), data.draw(options)
        self.both(lambda world: world.add_group({"params": world.take(views), **own}), False)
        self.tree = [*(self.tree if way == "groups" else [self.tree]), tree]
        for world in self.worlds:
            world.grads = None

    @rule(data=st.data())
    def rebind(self, data):
        """Another array of its kind in a parameter's place is the parameter from then on."""
        place = self.draw_place(data)
        if place is not None:
            view = self.draw_params(data, self.rows()[place][0])
            for world in self.worlds:
                world.put(place, world.take(view))
            self.go_on(data)

    def draw_place(self, data):
        """The number of a parameter in whose place there can be another; None if there is none."""
        found = self.ours.places()
        first = self.ours.groups[0]
        free = [i for i, (of, _) in enumerate(found)
                if not isinstance(of, tuple) and not (self.rooted and of is first)]  # fmt: skip
        return data.draw(st.sampled_from(free)) if free else None

    @rule(data=st.data(), which=st.integers(0, 1), how=st.sampled_from(COPIES))
    def go_on_with_a_copy(self, data, which, how):
        """In one of the worlds: the other one tells what it must do."""
        self.worlds[which].copied(how)
        if how != "load":  # parameters lie elsewhere now
            self.leave_memory()
        self.compare()
        self.go_on(data)

    @rule(data=st.data(), more=st.sampled_from([0, 0, 1, 1000]))
    def rewind(self, data, more):
        """Go back to a state, or to the same one after more steps; refused if it lacks some."""
        saved = later(self.ours.opt.state_dict(), more)
        if data.draw(st.booleans()):
            self.go_on(data)
        self.both(lambda world: world.opt.load_state_dict(saved))
        self.go_on(data)

    @rule(
        data=st.data(),
        threads=st.sampled_from([1, 2, 3, 5]),
        isa=st.sampled_from(_cpu.ISAS_AVAILABLE),
        grain=st.sampled_from([1, 1, 300, 2**20]),
    )
    def configure(self, data, threads, isa, grain):
        run_by(threads, isa, grain)
        self.go_on(data)

    # --- what is refused --------------------------------------------------------------------------

    @has_stepped
    @rule(name=st.sampled_from(sorted(MISUSES)))
    def misuse(self, name):
        self.both(MISUSES[name], refused=True)

    @has_stepped
    @rule(data=st.data(), bad=st.sampled_from(BAD_NUMBERS))
    def set_a_bad_number(self, data, bad):
        """It is refused at once, or by the next step, or good for some."""
        group, name = self.draw_number(data)
        good = self.ours.opt.groups[group].values()[name]
        self.both(lambda world: setattr(world.opt.groups[group], name, bad))
        self.both(World.step)
        self.both(lambda world: setattr(world.opt.groups[group], name, good), refused=False)

    def with_grads(self, change, refused=None):
        """A step with other gradients; those of the next one are the former."""
        before = [world.grads for world in self.worlds]
        for world in self.worlds:
            world.grads = change(world)
        self.both(World.step, refused)
        for world, grads in zip(self.worlds, before, strict=True):
            world.grads = grads

    @has_stepped
    @rule(name=st.sampled_from(sorted(BENT)))
    def give_a_bent_structure(self, name):
        if self.ours.way != "keyed":
            self.with_grads(lambda world: BENT[name](world.grads), refused=True)

    @has_stepped
    @rule(i=st.integers(0, 9), name=st.sampled_from(sorted(SPOILED_GRADS)))
    def give_a_spoiled_gradient(self, i, name):
        params = self.ours.stepped()
        if params:
            surely = name in KINDS and params[i % len(params)].size > 0
            spoil = SPOILED_GRADS[name]
            self.with_grads(lambda world: world.spoiled(i, spoil), refused=surely or None)

    @has_stepped
    @rule(i=st.integers(0, 9), j=st.integers(0, 9), flip=st.booleans())
    def give_what_is_written(self, i, j, flip):
        ours, theirs = (world.overlapping(i, j, flip) for world in self.worlds)
        if ours is not None and theirs is not None:
            self.with_grads(lambda world: world.overlapping(i, j, flip), refused=True)

    @has_stepped
    @rule(data=st.data(), name=st.sampled_from(sorted(SPOILED_PARAMS)))
    def put_a_spoiled_parameter(self, data, name):
        place = self.draw_place(data)
        if place not in self.ours.numbers() or not self.ours.arrays()[place].ndim:
            return
        before = [world.replace(place, SPOILED_PARAMS[name]) for world in self.worlds]
        if isinstance(self.both(World.step), Refused):
            for parent, key, param in before:
                parent[key] = param


def run_by(threads, isa, grain):
    cyopt.set_num_threads(threads)
    cyopt.set_isa(isa)
    _cpu.set_config(grain=grain)


def run(examples, **options):
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            report_multiple_bugs=False,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
            **options,
        ),
    )


def test_any_sequence_of_calls(capsys):
    COUNT.clear()
    end = time.monotonic() + SECONDS
    run(200, derandomize=True, database=None)
    while time.monotonic() < end:
        run(200, database=None)
    with capsys.disabled():
        print(f" {COUNT['examples']} sequences, {COUNT['made']} calls, {COUNT['refused']} refused")
