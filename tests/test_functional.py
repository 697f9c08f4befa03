"""adam_, sgd_, rmsprop_, adagrad_: the classes' results on the caller's own arrays, in place."""

import numpy as np
import pytest
from models import GRADS, NUMPY, PARAMS, Foreign, arrays, cases, grads_at, ones, overlapping
from same_bits import same_bits
from variants import VARIANTS, name

import cyopt

FUNCTIONS = {
    "sgd": cyopt.sgd_,
    "momentum": cyopt.sgd_,
    "nesterov": cyopt.sgd_,
    "adagrad": cyopt.adagrad_,
    "adam": cyopt.adam_,
    "amsgrad": cyopt.adam_,
}
# What the caller's state says by itself, or what fills it at first.
OF_STATE = ("centered", "amsgrad", "initial_accumulator_value", "initial_square_avg")


def call(opt, param, grad, state, step):
    """The function that does what `opt` does."""
    hypers = {k: v for k, v in opt.groups[0].values().items() if k not in OF_STATE}
    rule = opt.groups[0].rule
    if rule in FUNCTIONS:
        FUNCTIONS[rule](param, grad, **state, step=step, **hypers)
    else:
        cyopt.rmsprop_(param, grad, **state, **hypers)


@pytest.mark.parametrize("variant", VARIANTS, ids=name)
def test_same_bits_as_the_class(variant):
    cls, hypers = variant
    param, own = arrays()["w"], arrays()["w"]
    opt = cls({"w": param}, **hypers)
    state = {slot: array.copy() for slot, array in opt.state["w"].items()}
    for step in range(4):
        grad = grads_at(step, {"w": param})["w"]
        opt.step({"w": grad})
        call(opt, own, grad, state, step + 1)
        assert same_bits(param, own)
        assert all(same_bits(opt.state["w"][slot], state[slot]) for slot in state)


@pytest.mark.parametrize("variant", VARIANTS, ids=name)
def test_a_call_over_lists_is_a_call_for_each(variant):
    """One call for all; types and layouts may differ, None skips."""
    cls, hypers = variant
    opt = cls(**hypers)
    params = [arrays()["w"], np.ones(3), np.asfortranarray(arrays()["w"]), np.ones(2)]
    grads = [arrays()["w"], np.ones(3), arrays()["w"][:, ::-1], None]
    alone = [p.copy("K") for p in params]
    slots = cls([np.ones(1)], **hypers).state["0"]
    states = {slot: [np.zeros_like(p) for p in params] for slot in slots}
    others = {slot: [np.zeros_like(p) for p in params] for slot in slots}
    call(opt, params, tuple(grads), states, 3)
    for i, grad in enumerate(grads):
        if grad is not None:
            call(opt, alone[i], grad, {slot: others[slot][i] for slot in slots}, 3)
        assert same_bits(params[i], alone[i])
        assert all(same_bits(states[slot][i], others[slot][i]) for slot in slots)
    call(opt, [], [], {slot: [] for slot in slots}, 1)


def test_like_acts_in_functions():
    param, own = np.ones(3), np.ones(3)
    opt = cyopt.Adam.like("keras", param)
    m, v = np.zeros(3), np.zeros(3)
    for step in (1, 2, 3):
        opt.step(np.full(3, 0.5 * step))
        cyopt.adam_(own, np.full(3, 0.5 * step), m, v, step=step, like="keras")
    assert same_bits(param, own)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_host_may_give_scalars_of_its_own(dtype):
    """p - step_size*m / (sqrt(v)*denom_scale + eps), with the host's own bias corrections."""
    ours, hosts = np.ones(5, dtype), np.ones(5, dtype)
    state = [np.zeros(5, dtype) for _ in range(4)]
    for t in (1, 2, 3):
        grad = np.cos(np.arange(5, dtype=dtype) + t)
        cyopt.adam_(ours, grad, *state[:2], step=t, lr=0.1, eps=1e-3)
        b1, b2 = (cyopt.rules.power_by_squaring(b, t) for b in (0.9, 0.999))
        scalars = {"step_size": 0.1 / (1 - b1), "denom_scale": 1 / (1 - b2) ** 0.5}
        cyopt.adam_(hosts, grad, *state[2:], eps=1e-3, **scalars)
        assert same_bits(ours, hosts)
    total = np.zeros(5, dtype)
    cyopt.adagrad_(ours, grad, total, step=3, lr=0.5, lr_decay=0.5)
    cyopt.adagrad_(hosts, grad, total * 0, step_size=0.25)
    assert same_bits(ours, hosts)


@pytest.mark.skipif(NUMPY < (2, 2), reason="older NumPy takes DLPack arrays read-only")
def test_foreign_arrays_are_updated():
    w, m, v, twin = np.ones(3), np.zeros(3), np.zeros(3), np.ones(3)
    cyopt.adam_(Foreign(w), Foreign(np.ones(3)), Foreign(m), Foreign(v), step=1)
    cyopt.adam_(twin, np.ones(3), np.zeros(3), np.zeros(3), step=1)
    assert same_bits(w, twin)
    assert m.all()
    assert v.all()


# --- refused --------------------------------------------------------------------------------------

LENGTHS = {cyopt.sgd_: 3, cyopt.adagrad_: 3, cyopt.rmsprop_: 5, cyopt.adam_: 5}
HYPERS = {cyopt.sgd_: {"momentum": 0.9}, cyopt.rmsprop_: {"momentum": 0.9}}
every_function = pytest.mark.parametrize("function", LENGTHS)


def full(function):
    """All arrays that a function takes, and the keywords that it needs for them."""
    step = {} if function is cyopt.rmsprop_ else {"step": 2}
    good = [arrays()["w"] for _ in range(LENGTHS[function])]
    for state in good[2:]:
        np.square(state, out=state)
    return good, {**HYPERS.get(function, {}), **step}


def refused(function, bad, error, message, **hypers):
    """Nothing changes, and the good arrays work as if nothing had happened."""
    good, needed = full(function)
    given = bad(good)
    held = [*good, *(a for a in given if type(a) is np.ndarray)]
    before = [a.tobytes() for a in held]
    with pytest.raises(error, match=message):
        function(*given, **{**needed, **hypers})
    assert before == [a.tobytes() for a in held]
    fresh, _ = full(function)
    function(*good, **needed)
    function(*fresh, **needed)
    assert all(same_bits(a, b) for a, b in zip(good, fresh, strict=True))


@pytest.mark.parametrize("as_lists", [False, True])
@pytest.mark.parametrize(("spoil", "error", "cure"), cases(PARAMS))
@every_function
def test_an_unfit_parameter_or_state_is_refused(function, spoil, error, cure, as_lists):
    for place in (0, *range(2, LENGTHS[function])):

        def bad(good, place=place):
            given = [*good[:place], spoil(good[place]), *good[place + 1 :]]
            return [[a] for a in given] if as_lists else given

        if place and spoil(arrays()["w"]) is None:
            continue  # a state that is not given
        refused(function, bad, error, cure)


@pytest.mark.parametrize(("spoil", "error", "cure"), cases(GRADS))
@every_function
def test_an_unfit_gradient_is_refused(function, spoil, error, cure):
    refused(function, lambda good: [good[0], spoil(good[1]), *good[2:]], error, f"grad.*({cure})")


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda a: np.asfortranarray(a), ValueError, "strides.*zeros_like"),
        (lambda a: a.ravel(), ValueError, "shape"),
        (lambda a: a.astype(np.float64), TypeError, "float64"),
    ],
)
@every_function
def test_state_unlike_its_parameter_is_refused(function, spoil, error, message):
    refused(function, lambda good: [*good[:2], spoil(good[2]), *good[3:]], error, message)


PLACES = [(function, place) for function, n in LENGTHS.items() for place in range(1, n)]


@pytest.mark.parametrize(("function", "place"), PLACES)
def test_a_parameter_as_its_own_gradient_or_state_is_refused(function, place):
    refused(function, lambda g: [*g[:place], g[0], *g[place + 1 :]], ValueError, "shares memory")


def test_parameters_that_overlap_are_refused():
    a, b = overlapping(0, 2)
    with pytest.raises(ValueError, match=r"shares memory.*copy"):
        cyopt.sgd_([a, b], [np.ones(3, np.float32)] * 2)
    assert not a.any()


def test_lists_of_other_lengths_are_refused():
    w, m, v = ([np.ones(2), np.ones(2)] for _ in range(3))
    for given in ((w, w[:1], m, v), (w, m, m[:1], v), (w, m[0], m, v), (w, m, m, v[0])):
        with pytest.raises(TypeError, match=r"list of 2.*grad and each state"):
            cyopt.adam_(*given, step=1)
    assert np.array_equal(w, np.ones((2, 2)))


W = np.ones(2, np.float32)
ADAM = {"step": 1}
KEYWORDS = {
    "no step": (cyopt.adam_, {}, "step.*integer"),
    "no step of AdaGrad": (cyopt.adagrad_, {}, "step.*integer"),
    "step 0": (cyopt.adam_, {"step": 0}, "step.*from 1"),
    "step 1.0": (cyopt.adam_, {"step": 1.0}, "step.*integer"),
    "step True": (cyopt.adam_, {"step": True}, "step.*integer"),
    "lr": (cyopt.adam_, {**ADAM, "lr": -1}, "lr.*at least 0"),
    "lr None": (cyopt.adam_, {**ADAM, "lr": None}, "lr"),
    "schedule": (cyopt.adam_, {**ADAM, "lr": lambda steps: 0.1}, "lr is a schedule"),
    "small eps": (cyopt.adam_, {**ADAM, "eps": 1e-50}, "eps.*float32"),
    "beta": (cyopt.adam_, {**ADAM, "betas": (0.9, 1 - 1e-9)}, r"betas\[1\].*float32"),
    "alpha": (cyopt.rmsprop_, {"alpha": 1 - 1e-9}, "alpha.*float32"),
    "unknown": (cyopt.adam_, {**ADAM, "weight_deacy": 0.1}, "weight_deacy"),
    "like": (cyopt.adam_, {**ADAM, "like": "kears"}, "'keras'"),
    "initial": (cyopt.adagrad_, {**ADAM, "initial_accumulator_value": 1.0}, "fill it"),
    "both steps": (cyopt.adam_, {**ADAM, "step_size": 0.1}, "step_size replaces step"),
    "lr and step_size": (cyopt.adam_, {"lr": 0.1, "step_size": 0.1}, "step_size replaces lr"),
    "only denom_scale": (cyopt.adam_, {**ADAM, "denom_scale": 1.0}, "without step_size"),
    "large step_size": (cyopt.adam_, {"step_size": 1e39}, "step_size.*float32"),
    "large denom_scale": (cyopt.adam_, {"step_size": 1, "denom_scale": 1e39}, "denom.*float32"),
    "NaN step_size": (cyopt.adam_, {"step_size": float("nan")}, "step_size.*finite"),
    # Accepted and ignored otherwise:
    "stream": (
        cyopt.adam_,
        {**ADAM, "stream": 1},
        "stream is given, but the arrays are on the CPU",
    ),
    "amsgrad": (cyopt.adam_, {**ADAM, "amsgrad": True}, "max_exp_avg_sq"),
    "centered": (cyopt.rmsprop_, {"centered": True}, "grad_avg"),
    "eps_hat": (cyopt.adam_, {"step_size": 0.1, "eps_hat": True}, "step_size replaces eps_hat"),
    "correction": (cyopt.adam_, {"step_size": 0.1, "bias_correction": False}, "step_size"),
    "dampening": (cyopt.sgd_, {"momentum": 0.9, "dampening": 0.5}, "step"),
    "sgd step_size": (cyopt.sgd_, {"step_size": 0.1, "momentum": 0.9}, "step_size"),
    "sgd denom_scale": (cyopt.sgd_, {"denom_scale": 2.0, "momentum": 0.9}, "denom_scale"),
    "adagrad denom_scale": (cyopt.adagrad_, {**ADAM, "denom_scale": 2.0}, "denom_scale"),
    "rmsprop denom_scale": (cyopt.rmsprop_, {"denom_scale": 2.0}, "denom_scale"),
}


@pytest.mark.parametrize(("function", "keywords", "message"), KEYWORDS.values(), ids=KEYWORDS)
def test_wrong_keywords_are_refused(function, keywords, message):
    count = {cyopt.adam_: 4}.get(function, 3)
    given = [W.copy() for _ in range(count)]
    with pytest.raises((TypeError, ValueError), match=message):
        function(*given, **keywords)
    assert all(same_bits(a, W) for a in given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"params": [np.ones(2)]}, "params is given"),
        ({"betas": (lambda steps: 0.9, 0.9)}, "betas is a schedule"),
        ({"framework": "keras"}, "framework"),
        ({"step": 2**63}, "step"),
    ],
)
def test_keywords_that_are_not_for_functions_are_refused(given, message):
    arrays = [np.ones(2) for _ in range(4)]
    with pytest.raises(TypeError, match=message):
        cyopt.adam_(*arrays, **{"step": 1, **given})
    assert all(same_bits(array, np.ones(2)) for array in arrays)


@pytest.mark.parametrize(
    ("function", "count", "hypers", "message"),
    [
        (cyopt.sgd_, 2, {"momentum": 0.9}, "momentum_buffer is needed"),
        (cyopt.sgd_, 3, {}, "momentum_buffer is given but not used"),
        (cyopt.rmsprop_, 3, {"momentum": 0.9}, "momentum_buffer is needed"),
        (cyopt.rmsprop_, 5, {}, "momentum_buffer is given but not used"),
        (cyopt.rmsprop_, 2, {}, "square_avg"),
        (cyopt.adam_, 3, {"step": 1}, "exp_avg_sq"),
    ],
)
def test_missing_or_unused_state_is_refused(function, count, hypers, message):
    given = [W.copy() for _ in range(count)]
    with pytest.raises(TypeError, match=message):
        function(*given, **hypers)
    assert all(same_bits(a, W) for a in given)


def test_options_act_in_lists_too():
    """Clipping is of all arrays together, and casting of each."""
    rng = np.random.default_rng(7)
    params = [rng.normal(size=n).astype(np.float32) for n in (3, 50)]
    grads = [rng.normal(size=n) for n in (3, 50)]  # float64
    copies = [param.copy() for param in params]
    opt = cyopt.SGD(copies, lr=0.5, clip_norm=0.25, cast_grads=True)
    opt.step(grads)
    cyopt.sgd_(params, grads, lr=0.5, clip_norm=0.25, cast_grads=True)
    for param, copy in zip(params, copies, strict=True):
        assert same_bits(param, copy)
    change = np.sqrt(sum(np.square(g, dtype=np.float64).sum() for g in grads))
    assert change > 0.25  # so that clipping acted


@pytest.mark.parametrize(("like", "decay"), [("keras", {}), ("torch", {"decoupled": True})])
def test_decoupled_decay_beside_step_size_needs_lr(like, decay):
    def adam(**more):
        x, others = ones(2), [np.zeros(2, np.float32) for _ in range(3)]
        kwargs = {"decoupled_weight_decay": True} if decay else {}
        cyopt.adam_(x, *others, step_size=0.1, weight_decay=0.5, like=like, **kwargs, **more)
        return x

    with pytest.raises(TypeError, match="lr is missing"):
        adam()
    assert np.array_equal(adam(lr=0.5), [0.75, 0.75])
