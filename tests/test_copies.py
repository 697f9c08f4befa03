"""copy, deepcopy and pickle: a copy is apart from its original and continues alike."""

import copy
import pickle

import numpy as np
import pytest
from models import arrays, go_on_alike, grads_at, ones, train
from same_bits import same_optimizers
from variants import FORMULAS, name

import cyopt

every_formula = pytest.mark.parametrize("variant", FORMULAS, ids=name)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@every_formula
def test_a_copy_is_apart_and_continues_alike(variant, how):
    cls, hypers = variant
    params = {"w": np.asfortranarray(arrays()["w"]), "b": arrays()["b"]}
    opt = cls(params, **{**hypers, "lr": cyopt.schedules.exponential(0.1, 0.5)})
    train(opt, params)
    other, others = how((opt, params))
    assert repr(other).split("(")[0] == cls.__name__
    assert others["w"].flags.f_contiguous
    for key, entry in other.state.items():
        assert not any(np.shares_memory(a, opt.state[key][slot]) for slot, a in entry.items())
    before = params["w"].copy()
    other.step(grads_at(9, others))
    assert np.array_equal(params["w"], before)
    opt.step(grads_at(9, params))
    go_on_alike(opt, params, other, others)


@pytest.mark.parametrize("attach", [False, True])
def test_copies_of_unbound_keyed_and_reference(attach):
    unbound, keyed, params = cyopt.Adam(), cyopt.Adam(), arrays()
    if attach:
        cyopt.reference.attach(unbound), cyopt.reference.attach(keyed)
    unbound.step(arrays(), params)
    keyed.update("w", params["w"], arrays()["w"])
    for opt in (unbound, keyed):
        same_optimizers(opt, copy.deepcopy(opt))
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            same_optimizers(opt, pickle.loads(pickle.dumps(opt, protocol)))
    others = copy.deepcopy(params)
    other = copy.deepcopy(unbound)
    unbound.step(arrays(), params)
    other.step(arrays(), others)
    assert np.array_equal(params["w"], others["w"])


class Own(cyopt.Adam):
    pass


def test_a_copy_of_a_subclass_has_its_attributes_and_convention():
    opt = Own.like("keras", [ones(2)])
    opt.tag = "own"
    assert opt.eps == 1e-7
    for copied in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        assert copied.tag == "own"
        same_optimizers(copied, opt)


class Tagged(cyopt.SGD):
    __slots__ = ("tag",)


def test_a_copy_of_a_subclass_has_what_is_in_its_slots():
    opt = Tagged([np.ones(2)])
    opt.tag = "own"
    assert copy.deepcopy(opt).tag == pickle.loads(pickle.dumps(opt)).tag == "own"
    assert not hasattr(copy.deepcopy(Tagged([np.ones(2)])), "tag")


def test_parameters_of_steps_are_not_pickled():
    opt, w = cyopt.SGD(lr=0.1), np.zeros(100_000)
    opt.step([w], [w.copy()])
    assert len(pickle.dumps(opt)) < 10_000
    opt = cyopt.SGD(lr=0.1)
    opt.update("w", w, w.copy())
    assert len(pickle.dumps(opt)) < 10_000


def test_copy_copy_is_refused():
    with pytest.raises(TypeError, match="deepcopy"):
        copy.copy(cyopt.SGD())


class WithAttributes(cyopt.Adam):
    """Which a pickle holds as well."""


class Stepping:
    """Makes a step while it is copied."""

    def __init__(self, opt):
        self.opt = opt

    def __reduce__(self):
        self.opt.step({"w": np.ones(3)})
        return bool, ()


class Looking(Stepping):
    """Saves it while it is copied."""

    def __reduce__(self):
        self.opt.state_dict()
        return bool, ()


@pytest.mark.parametrize("how", [copy.deepcopy, pickle.dumps])
def test_a_copy_while_another_thread_steps_is_refused(how):
    """Counters, parameters and state would be of different steps."""
    opt = WithAttributes({"w": np.ones(3)})
    opt.tag = Stepping(opt)
    with pytest.raises(RuntimeError, match="another thread used this optimizer"):
        how(opt)
    assert opt.steps == 1
    opt.tag = Looking(opt)
    how(opt)
