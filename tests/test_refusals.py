"""Which arrays and structures are refused, saying what, and with no byte or counter changed."""

import numpy as np
import pytest
from models import GRADS, NUMPY, PARAMS, Foreign, Model, arrays, cases, ones, overlapping

import cyopt

every_class = pytest.mark.parametrize("cls", cyopt.ALL)
each_param = pytest.mark.parametrize(("spoil", "error", "cure"), cases(PARAMS))
each_grad = pytest.mark.parametrize(("spoil", "error", "cure"), cases(GRADS))


# --- arrays ---------------------------------------------------------------------------------------


@each_grad
@every_class
@pytest.mark.parametrize("steps", [0, 2])
def test_an_unfit_gradient_is_refused(cls, steps, spoil, error, cure):
    model = Model(cls, steps)
    bad = {"b": model.grads["b"], "w": spoil(model.grads["w"])}
    model.refuses(lambda: model.opt.step(bad), error, f"(?s)grad.*w.*({cure})")


@each_param
@every_class
def test_an_unfit_parameter_is_refused_at_construction(cls, spoil, error, cure):
    params = arrays()
    params["w"] = spoil(params["w"])
    with pytest.raises(error, match=f"(?s)w.*({cure})" if cure != "." else None):
        cls(params)


@pytest.mark.skipif(NUMPY < (2, 0), reason="NumPy 1 has no StringDType")
def test_an_array_of_strings_is_refused():
    with pytest.raises(TypeError, match="parameter '0' has dtype StringDType"):
        cyopt.SGD([np.array(["a"], np.dtypes.StringDType())])


def test_a_dtype_with_fields_is_refused():
    both = np.dtype((np.float64, [("re", np.float64)]))
    with pytest.raises(TypeError, match="expected float32 or float64"):
        cyopt.SGD([np.zeros(2, both)])


@each_param
@every_class
def test_an_unfit_parameter_that_is_rebound_is_refused(cls, spoil, error, cure):
    model = Model(cls, 2)
    model.params["w"] = spoil(model.params["w"])
    message = f"(?s)param.*w.*({cure})" if cure != "." else "."
    model.refuses(lambda: model.opt.step(model.grads), error, message)


@pytest.mark.parametrize("of", [iter, dict.values, lambda params: (p for p in params.values())])
def test_parameters_that_can_be_read_only_once_are_refused(of):
    with pytest.raises(TypeError, match=r"parameter '0' is a .*; .* pass list\(it\)"):
        cyopt.Adam(of(arrays()))


def test_a_container_that_returns_copies_is_refused(tmp_path):
    np.savez(tmp_path / "p.npz", w=ones(3))
    with np.load(tmp_path / "p.npz") as params:
        with pytest.raises(TypeError, match=r"dict\(params\)"):
            cyopt.SGD(params)
        with pytest.raises(TypeError, match=r"dict\(params\)"):
            cyopt.SGD().step({"w": ones(3)}, params)


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
def test_a_parameter_rebound_to_another_kind_is_refused(other):
    model = Model(cyopt.Adam, 2)
    model.params["w"] = other(model.params["w"])
    model.refuses(lambda: model.opt.step(model.grads), ValueError, "'w'.*was.*new optimizer")


@each_param
def test_an_unfit_parameter_is_refused_unbound_and_keyed(spoil, error, cure):
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


@pytest.mark.parametrize("offset", [0, 1, 2])
@every_class
def test_parameters_that_share_memory_are_refused(cls, offset):
    with pytest.raises(ValueError, match=r"'b'.*shares memory.*'a'.*once.*copy"):
        cls(dict(zip("ab", overlapping(0, offset), strict=True)))
    model = Model(cls)
    base = np.zeros(8, np.float32)
    model.params["w"], model.params["b"] = base[:6].reshape(2, 3), base[offset : offset + 3]
    model.refuses(lambda: model.opt.step(model.grads), ValueError, "shares memory")


def test_parameters_may_lie_side_by_side():
    a, b = overlapping(0, 3)
    assert cyopt.SGD([a, b], lr=1.0).step([np.ones(3, np.float32)] * 2)
    assert np.array_equal([a, b], -np.ones((2, 3)))


@pytest.mark.parametrize("steps", [0, 2])
@every_class
def test_a_gradient_that_shares_memory_with_what_is_written_is_refused(cls, steps):
    model = Model(cls, steps)
    written = {"w": model.params["w"], "b": model.params["w"][1]}
    written |= {f"s{i}": s for i, s in enumerate(model.opt.state["w"].values())}
    for array in written.values():
        name = "w" if array.shape == (2, 3) else "b"
        grads = {**model.grads, name: array}
        model.refuses(lambda g=grads: model.opt.step(g), ValueError, f"gradient of '{name}'.*copy")


def test_a_parameter_may_lie_between_the_elements_of_its_gradient():
    """Extents overlap, elements do not."""
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
def test_gradients_of_another_structure_are_refused(spoil, error, message, steps):
    model = Model(cyopt.Adam, steps)
    model.refuses(lambda: model.opt.step(spoil(**model.grads)), error, message)


def test_a_list_that_holds_itself_is_refused():
    endless = [np.ones(2)]
    endless.append(endless)
    with pytest.raises(ValueError, match="params is nested too deeply, or"):
        cyopt.SGD(endless)


def test_a_key_that_has_no_hash_is_refused():
    with pytest.raises(TypeError, match=r"key is \[1\]: unhashable.*expected a key such as a name"):
        cyopt.SGD(lr=0.1).update([1], np.ones(2), np.ones(2))


def test_nan_is_refused_as_a_key():
    with pytest.raises(TypeError, match="nan"):
        cyopt.SGD().update(float("nan"), ones(2), ones(2))


def test_a_key_that_holds_nan_is_refused():
    opt, w = cyopt.SGD(), np.ones(2)
    for key in ((float("nan"),), (1, (float("nan"), 2))):
        with pytest.raises(TypeError, match="does not equal itself"):
            opt.update(key, w, w.copy())
    assert opt.update((1, ("a", 2.5)), w, w.copy()) is w


def test_a_key_that_is_an_array_is_answered_with_the_order_of_arguments():
    w = np.ones(2)
    with pytest.raises(TypeError, match=r"first argument of update\(key, param, grad\)"):
        cyopt.SGD().update(w, w, "w")


@pytest.mark.parametrize("count", [0, 1, 3])
def test_lists_of_another_length_are_refused(count):
    grad, params = np.ones(2, np.float32), [np.ones(2, np.float32), np.ones(2, np.float32)]
    opt = cyopt.SGD(params)
    with pytest.raises(ValueError, match=f"grads has {count} entries; expected 2"):
        opt.step([grad] * count)
    with pytest.raises(ValueError, match=r"grads\['x'\] has|grads.* has"):
        cyopt.SGD({"x": params, "y": [np.ones(1)]}).step({"x": [grad] * count, "y": [None]})
    assert opt.steps == 0
    assert np.array_equal(params, np.ones((2, 2)))


def test_parameters_added_or_removed_later_are_refused():
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
def test_two_parameters_of_one_name_are_refused(params):
    with pytest.raises(ValueError, match=r"two parameters have the name.*rename"):
        cyopt.SGD(params)


@pytest.mark.skipif(NUMPY >= (2, 2), reason="newer NumPy takes them writable")
def test_a_foreign_parameter_is_refused_with_an_older_numpy():
    with pytest.raises(ValueError, match=r"parameter '0' is read-only.*2\.2"):
        cyopt.SGD([Foreign(np.ones(2))])


def test_a_refused_load_changes_nothing():
    model = Model(cyopt.Adam, 3)
    other = cyopt.Adam(arrays(np.float64)).state_dict()
    model.refuses(lambda: model.opt.load_state_dict(other), TypeError, "float64.*float32")


COMPLEX = [
    (np.complex64, "float32"),
    (np.complex128, "float64"),
]


@pytest.mark.parametrize(("dtype", "real"), COMPLEX)
def test_the_cure_for_complex_numbers_steps_their_parts(dtype, real):
    z = np.array([1 + 2j, 3 - 1j], dtype)
    with pytest.raises(TypeError, match=rf"pass its \.view\(np\.{real}\)"):
        cyopt.SGD([z])
    parts, grad = z.view(getattr(np, real)), np.array([0.5 + 0.5j, 1], dtype)
    cyopt.SGD([parts], lr=0.5).step([grad.view(getattr(np, real))])
    assert np.array_equal(z, np.array([0.75 + 1.75j, 2.5 - 1j], dtype))


@pytest.mark.parametrize("dtype", [np.int64, np.float16, np.longdouble, ">f8", ">f4"])
@pytest.mark.parametrize("of_param", ["float32", "float64"])
def test_the_cure_for_a_gradients_dtype_is_its_parameters(of_param, dtype):
    opt, grad = cyopt.SGD([np.zeros(3, of_param)], lr=1.0), np.ones(3, dtype)
    message = rf"expected {of_param}, as its parameter; .* \.?.*\.astype\(np\.{of_param}\)"
    with pytest.raises(TypeError, match=message):
        opt.step([grad])
    opt.step([grad.astype(of_param)])


@pytest.mark.parametrize("dtype", [">c8", np.complex128, np.clongdouble])
def test_the_cure_for_complex_gradients_is_of_their_parameters_dtype(dtype):
    w = np.zeros(2, np.float32)
    opt, grad = cyopt.SGD([w], lr=1.0), np.array([0.5 + 0.25j], dtype)
    with pytest.raises(
        TypeError, match=r"astype\(np\.complex64\), and pass its \.view\(np\.float32"
    ):
        opt.step([grad])
    opt.step([grad.astype(np.complex64).view(np.float32)])
    assert np.array_equal(w, np.array([-0.5, -0.25], np.float32))


def test_state_that_waits_is_told_what_any_state_may_be():
    opt = cyopt.Adam()
    opt.update("w", np.ones(3), np.ones(3))
    saved = opt.state_dict()
    saved["state"]["w"]["exp_avg"] = np.ones(3, int)
    with pytest.raises(TypeError, match="has dtype int64; expected float32 or float64"):
        cyopt.Adam().load_state_dict(saved)


def test_an_old_exporter_of_dlpack_is_no_parameter():
    """Before DLPack 1.0 there was no `copy=False`, so that memory could not be written safely."""

    class Old:
        def __init__(self, array):
            self.array = array

        def __dlpack_device__(self):
            return self.array.__dlpack_device__()

        def __dlpack__(self, stream=None):
            return self.array.__dlpack__()

    with pytest.raises((TypeError, ValueError), match="parameter '0'"):
        cyopt.SGD([Old(np.ones(3))])
