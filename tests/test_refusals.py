"""What is refused: by which error, saying what, and with no byte and no counter changed."""

import numpy as np
import pytest

import cyopt

NUMPY = tuple(map(int, np.__version__.split(".")[:2]))


class Subclass(np.ndarray):
    pass


class Foreign:
    """Another library's array: the memory of an ndarray, known by DLPack only."""

    def __init__(self, array, device=(1, 0), requires_grad=False):
        self.array, self.device, self.requires_grad = array, device, requires_grad

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.device


class OnCuda:
    __cuda_array_interface__ = {"shape": (2, 3), "typestr": "<f4", "data": (0, False)}  # noqa: RUF012


class Sparse:
    """No array interface of any kind, as scipy.sparse."""

    shape, dtype = (2, 3), np.dtype(np.float32)


def unaligned(a):
    raw = np.zeros(a.nbytes + 1, np.uint8)[1:]
    moved = raw.view(a.dtype).reshape(a.shape)
    moved[...] = a
    return moved


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


# What is no array that a step reads or writes: what makes it, the error, what its message says.
KINDS = {
    "subclass": (lambda a: a.view(Subclass), TypeError, "np.asarray"),
    "matrix": (lambda a: np.array(a, ndmin=2).view(np.matrix), TypeError, "np.asarray"),
    "masked": (np.ma.masked_array, TypeError, r"\.data"),
    "list": (lambda a: a.tolist(), TypeError, "expected|numpy.ndarray"),
    "number": (lambda a: 1.0, TypeError, "numpy.ndarray"),
    "sparse": (lambda a: Sparse(), TypeError, "numpy.ndarray"),
    "object": (lambda a: a.astype(object), TypeError, "astype"),
    "complex": (lambda a: a.astype(np.complex64), TypeError, r"\.view\(float\)"),
    "float16": (lambda a: a.astype(np.float16), TypeError, "astype"),
    "longdouble": (lambda a: a.astype(np.longdouble), TypeError, "astype"),
    "int": (lambda a: a.astype(np.int32), TypeError, "astype"),
    "bool": (lambda a: a.astype(bool), TypeError, "astype"),
    "other-endian": (lambda a: a.astype(a.dtype.newbyteorder()), TypeError, "byte order"),
    "unaligned": (unaligned, ValueError, "copy"),
    "cuda": (lambda a: OnCuda(), TypeError, "copy it to the host"),
    "dlpack-device": (lambda a: Foreign(a, device=(2, 0)), TypeError, "CPU"),
    "dlpack-grad": (lambda a: Foreign(a, requires_grad=True), TypeError, "detach"),
}
PARAMS = KINDS | {
    "None": (lambda a: None, TypeError, "numpy.ndarray"),
    "read-only": (read_only, ValueError, "writable"),
    "strided": (lambda a: np.repeat(a, 2, axis=-1)[..., ::2], ValueError, "ascontiguousarray"),
    "negative": (lambda a: a.copy()[::-1], ValueError, "ascontiguousarray"),
    "dlpack-read-only": (lambda a: Foreign(read_only(a)), (ValueError, BufferError), "."),
}
GRADS = KINDS | {
    "shape": (lambda a: np.ones(a.size + 1, a.dtype), ValueError, r"expected \(2, 3\)"),
    "flat": (lambda a: a.ravel(), ValueError, r"expected \(2, 3\)"),
    "column": (lambda a: np.ones((2, 1), a.dtype), ValueError, r"expected \(2, 3\)"),
    "float64": (lambda a: a.astype(np.float64), TypeError, "np.float64 scalar"),
}


def cases(table):
    return [pytest.param(*row, id=name) for name, row in table.items()]


every_class = pytest.mark.parametrize("cls", cyopt.ALL)
each_param = pytest.mark.parametrize(("spoil", "error", "cure"), cases(PARAMS))
each_grad = pytest.mark.parametrize(("spoil", "error", "cure"), cases(GRADS))


def arrays(dtype=np.float32):
    return {"w": np.linspace(-1, 1, 6, dtype=dtype).reshape(2, 3), "b": np.ones(3, dtype)}


class Model:
    """An optimizer, and a twin that never sees what is refused."""

    def __init__(self, opt_of, steps=1, dtype=np.float32):
        self.params, self.grads = arrays(dtype), arrays(dtype)
        self.originals = list(self.params.values())
        self.opt = opt_of(self.params)
        self.twin_params = arrays(dtype)
        self.twin = opt_of(self.twin_params)
        for _ in range(steps):
            self.step()

    def step(self):
        assert self.opt.step(self.grads) is True
        assert self.twin.step(self.grads) is True
        for param, twin in zip(self.originals, self.twin_params.values(), strict=True):
            assert np.array_equal(param, twin)

    def everything(self):
        saved = self.opt.state_dict()["state"].values()
        held = [*self.originals, *self.grads.values()]
        return (
            [a.tobytes() for a in held],
            [np.asarray(value).tobytes() for entry in saved for value in entry.values()],
            repr(self.opt),  # steps and all hyperparameters
        )

    def refuses(self, call, error, message):
        before = self.everything()
        with pytest.raises(error, match=message):
            call()
        assert self.everything() == before
        self.params.update(zip(("w", "b"), self.originals, strict=True))
        self.step()


# --- arrays ---------------------------------------------------------------------------------------


@each_grad
@every_class
@pytest.mark.parametrize("steps", [0, 2])
def test_gradient(cls, steps, spoil, error, cure):
    model = Model(cls, steps)
    bad = {"b": model.grads["b"], "w": spoil(model.grads["w"])}
    model.refuses(lambda: model.opt.step(bad), error, f"(?s)grad.*w.*({cure})")


@each_param
@every_class
def test_parameter_at_construction(cls, spoil, error, cure):
    params = arrays()
    params["w"] = spoil(params["w"])
    with pytest.raises(error, match=f"(?s)w.*({cure})" if cure != "." else None):
        cls(params)


@each_param
@every_class
def test_parameter_rebound(cls, spoil, error, cure):
    model = Model(cls, 2)
    model.params["w"] = spoil(model.params["w"])
    message = f"(?s)param.*w.*({cure})" if cure != "." else "."
    model.refuses(lambda: model.opt.step(model.grads), error, message)


@pytest.mark.parametrize(
    "other",
    [
        lambda a: np.ones((3, 2), np.float32),
        lambda a: np.ones(6, np.float32),
        lambda a: a.astype(np.float64),
        lambda a: np.asfortranarray(a),
        lambda a: a.reshape(6),  # the same memory
        lambda a: a.reshape(3, 2),
    ],
)
def test_parameter_rebound_to_another_kind(other):
    model = Model(cyopt.Adam, 2)
    model.params["w"] = other(model.params["w"])
    model.refuses(lambda: model.opt.step(model.grads), ValueError, "'w'.*was.*new optimizer")


@each_param
def test_parameter_unbound_and_keyed(spoil, error, cure):
    params, grads, opt, keyed = arrays(), arrays(), cyopt.Adam(), cyopt.Adam()
    bad = {**params, "w": spoil(params["w"])}
    with pytest.raises(error):
        opt.step(grads, bad)
    with pytest.raises(error):
        keyed.update("w", bad["w"], grads["w"])
    assert opt.steps == keyed.steps == len(opt.state) == len(keyed.state) == 0
    opt.step(grads, params)
    keyed.update("w", other := arrays()["w"], grads["w"])
    assert np.array_equal(other, params["w"])


def overlapping(a, b):
    """Two arrays of three elements that begin at elements `a` and `b` of one memory."""
    base = np.zeros(8, np.float32)
    return base[a : a + 3], base[b : b + 3]


@pytest.mark.parametrize("offset", [0, 1, 2])
@every_class
def test_parameters_sharing_memory(cls, offset):
    with pytest.raises(ValueError, match=r"'b'.*shares memory.*'a'.*once.*copy"):
        cls(dict(zip("ab", overlapping(0, offset), strict=True)))
    model = Model(cls)
    base = np.zeros(8, np.float32)
    model.params["w"], model.params["b"] = base[:6].reshape(2, 3), base[offset : offset + 3]
    model.refuses(lambda: model.opt.step(model.grads), ValueError, "shares memory")


def test_parameters_side_by_side():
    a, b = overlapping(0, 3)
    assert cyopt.SGD([a, b], lr=1.0).step([np.ones(3, np.float32)] * 2)
    assert np.array_equal([a, b], -np.ones((2, 3)))


@pytest.mark.parametrize("steps", [0, 2])
@every_class
def test_gradient_sharing_memory_with_what_is_written(cls, steps):
    model = Model(cls, steps)
    written = {"w": model.params["w"], "b": model.params["w"][1]}
    written |= {f"s{i}": s for i, s in enumerate(model.opt.state["w"].values())}
    for array in written.values():
        name = "w" if array.shape == (2, 3) else "b"
        grads = {**model.grads, name: array}
        model.refuses(lambda g=grads: model.opt.step(g), ValueError, f"gradient of '{name}'.*copy")


def test_gradient_between_the_elements_of_what_is_written():
    """Extents overlap, elements do not: that is no reason to refuse."""
    base = np.zeros(16, np.float32)
    opt = cyopt.SGD(base[4:6], lr=1.0)
    base[0:16:8] = 1, 2
    assert opt.step(base[0:16:8])
    assert base[4:6].tolist() == [-1, -2]
    with pytest.raises(ValueError, match="gradient of '0' shares memory"):
        opt.step(base[0:6:5])


# --- structure ------------------------------------------------------------------------------------


class Defaulting(dict):
    def __missing__(self, key):
        self[key] = None
        return None


STRUCTURES = {
    "missing": (lambda w, b: {"w": w}, ValueError, "grads.*missing.*'b'.*None"),
    "extra": (lambda w, b: {"w": w, "b": b, "c": b}, ValueError, "grads.*'c'"),
    "renamed": (lambda w, b: {"w": w, "bias": b}, ValueError, "grads.*'b'.*'bias'"),
    "list": (lambda w, b: [w, b], TypeError, "grads.*list.*keys"),
    "array": (lambda w, b: w, TypeError, "grads.*ndarray.*keys"),
    "None": (lambda w, b: None, TypeError, "grads.*keys"),
    "nested": (lambda w, b: {"w": {"w": w}, "b": b}, TypeError, "grad.*w.*expected"),
    "generator": (lambda w, b: (g for g in (w, b)), TypeError, "grads.*generator"),
    "default": (lambda w, b: Defaulting(w=w, bias=b), ValueError, "grads.*'b'.*'bias'"),
}


@pytest.mark.parametrize(("spoil", "error", "message"), cases(STRUCTURES))
@pytest.mark.parametrize("steps", [0, 2])
def test_structure(spoil, error, message, steps):
    model = Model(cyopt.Adam, steps)
    model.refuses(lambda: model.opt.step(spoil(**model.grads)), error, message)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_length(count):
    grad, params = np.ones(2, np.float32), [np.ones(2, np.float32), np.ones(2, np.float32)]
    opt = cyopt.SGD(params)
    with pytest.raises(ValueError, match=f"grads has {count} entries; expected 2"):
        opt.step([grad] * count)
    with pytest.raises(ValueError, match=r"grads\['x'\] has|grads.* has"):
        cyopt.SGD({"x": params, "y": [np.ones(1)]}).step({"x": [grad] * count, "y": [None]})
    assert opt.steps == 0
    assert np.array_equal(params, np.ones((2, 2)))


def test_structure_of_params_changed():
    model = Model(cyopt.Adam, 2)
    model.params["c"] = np.ones(1)
    with pytest.raises(ValueError, match=r"params.*'c'"):
        model.opt.step(model.grads)
    del model.params["c"], model.params["b"]
    model.refuses(lambda: model.opt.step(model.grads), ValueError, "params.*'b'")


@pytest.mark.parametrize(
    "params",
    [
        {"a.b": np.ones(1), "a": {"b": np.ones(1)}},
        {"0": np.ones(1), 0: np.ones(1)},
    ],
)
def test_two_parameters_of_one_name(params):
    with pytest.raises(ValueError, match=r"two parameters have the name.*rename"):
        cyopt.SGD(params)


@pytest.mark.skipif(NUMPY >= (2, 2), reason="newer NumPy takes them writable")
def test_foreign_parameter_of_older_numpy():
    with pytest.raises(ValueError, match=r"parameter '0' is read-only.*2\.2"):
        cyopt.SGD([Foreign(np.ones(2))])


# --- hyperparameters ------------------------------------------------------------------------------

NUMBERS = {
    "lr": (-1e-3,),
    "weight_decay": (-0.1,),
    "grad_scale": (0, -2.0),
    "momentum": (1.0, -0.1),
    "dampening": (1.5, -0.1),
    "lr_decay": (-1,),
    "alpha": (1.0, -0.1),
    "eps": (-1e-8,),
}
NOT_FINITE = (float("nan"), float("inf"), -float("inf"))
NO_NUMBER = ("0.1", None, True, 1j, np.ones(1))
OTHERS = [
    ("betas", (0.9, 1.0), ValueError, r"betas\[1\].*below 1"),
    ("betas", (-0.1, 0.9), ValueError, r"betas\[0\].*at least 0"),
    ("betas", (0.9, float("nan")), ValueError, r"betas\[1\].*finite"),
    ("betas", (0.9, "0.9"), TypeError, r"betas\[1\].*number"),
    ("betas", (0.9,), TypeError, "betas.*two numbers"),
    ("betas", 0.9, TypeError, "betas.*two numbers"),
    ("initial_accumulator_value", -1, ValueError, "at least 0"),
    ("initial_accumulator_value", lambda steps: 1.0, TypeError, "expected a number"),
    ("initial_square_avg", lambda steps: 1.0, TypeError, "expected a number"),
    ("momentum_form", "lr_middle", ValueError, "lr_outside"),
    ("weight_decay_order", "between", ValueError, "'before' or 'after'"),
    ("weight_decay_order", "after", ValueError, "pass decoupled_weight_decay=True"),
    *((flag, 1, TypeError, "True or False") for flag in ("nesterov", "centered", "amsgrad")),
    *((flag, "no", TypeError, "True or False") for flag in ("maximize", "eps_hat")),
]
BAD = [
    *((n, x, ValueError, f"{n}.*expected") for n, bad in NUMBERS.items() for x in bad),
    *((n, x, ValueError, f"{n}.*expected.*finite") for n in NUMBERS for x in NOT_FINITE),
    *((n, x, TypeError, f"{n}.*expected a number") for n in NUMBERS for x in NO_NUMBER),
]
BASE = {cyopt.SGD: {"momentum": 0.5}, cyopt.RMSProp: {"momentum": 0.5}, cyopt.AdamW: {}}


def classes_with(name):
    return [c for c in cyopt.ALL if hasattr(c, name) and not (c is cyopt.AdamW and "decay" in name)]


HYPERS = [(c, *row) for row in [*BAD, *OTHERS] for c in classes_with(row[0])]


@pytest.mark.parametrize(("cls", "name", "value", "error", "message"), HYPERS)
def test_hyperparameter(cls, name, value, error, message):
    with pytest.raises(error, match=message):
        cls(arrays(), **{name: value})
    with pytest.raises(error, match=message):
        cls([{"params": arrays(), name: value}])
    model = Model(lambda params: cls(params, **BASE.get(cls, {})))
    if name.startswith("initial") and callable(value):
        return
    # A flag that is fixed may say that first.
    model.refuses(lambda: setattr(model.opt, name, value), (error, ValueError), name)
    model.refuses(lambda: model.opt.groups[0].update({"lr": 9, name: value}), Exception, name)


def test_number_larger_than_any_float():
    with pytest.raises(ValueError, match=r"lr.*expected.*finite"):
        cyopt.SGD(arrays(), lr=10**400)


@pytest.mark.parametrize(
    ("cls", "name", "value"), [(c, n, x) for c, n, x, *_ in HYPERS if n in NUMBERS]
)
def test_value_of_a_schedule(cls, name, value):
    good = getattr(cls(**BASE.get(cls, {})), name)

    hypers = {**BASE.get(cls, {}), name: lambda steps: good}
    model = Model(lambda params: cls(params, **hypers), steps=2)
    setattr(model.opt, name, lambda steps: value)
    before = model.everything()
    with pytest.raises((TypeError, ValueError), match=f"{name}.*expected"):
        model.opt.step(model.grads)
    assert model.everything() == before
    setattr(model.opt, name, lambda steps: good)
    model.step()


ROUNDED = [
    ("lr", 1e39),
    ("weight_decay", 1e39),
    ("grad_scale", 1e39),
    ("grad_scale", 1e-40),
    ("momentum", 1 - 1e-9),
    ("alpha", 1 - 1e-9),
    ("betas", (1 - 1e-9, 0.999)),
    ("betas", (0.9, 1 - 1e-9)),
    ("eps", 1e-50),
    ("initial_accumulator_value", 1e39),
    ("initial_square_avg", 1e39),
]


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize(
    ("cls", "name", "value"), [(c, *r) for r in ROUNDED for c in classes_with(r[0])]
)
def test_out_of_range_when_rounded(cls, name, value):
    assert cls(arrays(np.float64), **{name: value}).step(arrays(np.float64))
    with pytest.raises(ValueError, match=f"{name}.*float32.*float64 parameters"):
        cls(arrays(), **{name: value})
    if name.startswith("initial"):
        return
    model = Model(lambda params: cls(params, **BASE.get(cls, {})))
    good = getattr(model.opt, name)
    for bad in (
        value,
        tuple(lambda steps, x=x: x for x in value) if name == "betas" else lambda steps: value,
    ):
        setattr(model.opt, name, bad)  # a group does not know what types its parameters have
        before = model.everything()
        with pytest.raises(ValueError, match=f"{name}.*float32"):
            model.opt.step(model.grads)
        assert model.everything() == before
        setattr(model.opt, name, good)
        model.step()


@pytest.mark.parametrize(
    ("cls", "hypers", "name"),
    [
        (cyopt.Adam, {"lr": 1e38}, "lr"),  # lr / (1 - beta1) is infinite
        (cyopt.AdamW, {"lr": 1e30, "weight_decay": 1e30}, "lr|weight_decay"),
    ],
)
def test_out_of_range_when_prepared(cls, hypers, name):
    """The scalars of section 2 are what is rounded."""
    model = Model(cls)
    for key, value in hypers.items():
        setattr(model.opt, key, value)
    before = model.everything()
    with pytest.raises(ValueError, match=f"({name}).*float32"):
        model.opt.step(model.grads)
    assert model.everything() == before


@every_class
def test_unknown_name(cls):
    with pytest.raises(TypeError, match="weight_deacy"):
        cls(arrays(), weight_deacy=0.1)
    with pytest.raises(TypeError, match="'weight_deacy'; did you mean 'weight_decay'"):
        cls([{"params": arrays(), "weight_deacy": 0.1}])
    model = Model(cls)
    for call in (
        lambda: setattr(model.opt.groups[0], "weight_deacy", 0.1),
        lambda: model.opt.groups[0].update({"lr": 0.5, "weight_deacy": 0.1}),
        lambda: model.opt.groups[0].weight_deacy,
    ):
        model.refuses(call, AttributeError, "'weight_deacy'; did you mean 'weight_decay'")


@pytest.mark.parametrize(
    ("cls", "hypers", "changes", "cure"),
    [
        (cyopt.SGD, {"momentum": 0.0}, {"momentum": 0.9}, "new optimizer"),
        (cyopt.RMSProp, {}, {"centered": True}, "new optimizer"),
        (cyopt.Adam, {}, {"amsgrad": True}, "new optimizer"),
        (cyopt.Adam, {}, {"lr": 0.5, "eps_hat": True}, "new optimizer"),
        (cyopt.AdaGrad, {}, {"initial_accumulator_value": 1.0}, "new optimizer"),
        (cyopt.Momentum, {"nesterov": True}, {"momentum": 0.0}, "nesterov.*momentum above 0"),
        (cyopt.Momentum, {"nesterov": True}, {"dampening": 0.5}, "dampening 0"),
        (cyopt.Momentum, {"momentum_form": "average"}, {"dampening": 0.5}, "'lr_outside'"),
    ],
)
def test_what_decides_the_formula_is_fixed(cls, hypers, changes, cure):
    model = Model(lambda params: cls(params, **hypers))
    model.refuses(lambda: model.opt.groups[0].update(changes), ValueError, cure)


@pytest.mark.parametrize(
    ("cls", "hypers", "cure"),
    [
        (cyopt.SGD, {"nesterov": True}, "momentum above 0"),
        (cyopt.SGD, {"dampening": 0.5}, "momentum above 0"),
        (cyopt.Momentum, {"nesterov": True, "dampening": 0.5}, "dampening 0"),
        (cyopt.Momentum, {"dampening": 0.5, "momentum_form": "lr_inside"}, "'lr_outside'"),
        (cyopt.RMSProp, {"momentum": 0.9, "momentum_form": "average"}, "'lr_inside'"),
        (cyopt.Adam, {"weight_decay_order": "after"}, "decoupled_weight_decay=True"),
    ],
)
def test_what_has_no_meaning_together(cls, hypers, cure):
    with pytest.raises(ValueError, match=cure):
        cls(arrays(), **hypers)
