"""save and load: what a file gives back, what is refused, and what an interruption leaves."""

import json
import os
import pickle
import stat

import numpy as np
import pytest
from models import arrays, grads_at, train
from same_bits import same_bits, same_optimizers
from variants import FORMULAS, name

import cyopt


def fails(error):
    """Stands for a function of the system that raises."""

    def function(*_, **__):
        raise error

    return function


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.npz"


def everything(opt):
    """All that a file holds, for an exact comparison."""
    saved = opt.state_dict()
    state = [
        (key, slot, getattr(value, "dtype", None), np.shape(value), np.asarray(value).tobytes())
        for key, entry in saved.pop("state").items()
        for slot, value in entry.items()
    ]
    return saved, state


def trained(cls=cyopt.Adam, **hypers):
    train(opt := cls(params := arrays(), **hypers), params)
    return opt


def through_a_file(opt, other, path):
    cyopt.save(opt, path)
    cyopt.load(other, path)
    assert everything(other) == everything(opt)
    assert os.listdir(path.parent) == [path.name]
    return other


# --- what comes back ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("variant", FORMULAS, ids=name)
@pytest.mark.parametrize("ema", [None, 0.9])
def test_resume(variant, dtype, ema, path):
    """Parameters come by their names, in another order of keys and of elements."""
    cls, hypers = variant
    params = arrays(dtype)
    train(opt := cls(params, ema=ema, **hypers), params)
    opt.lr = 1 / 3
    others = {key: np.array(params[key], order="F") for key in reversed(params)}
    other = cls(others, ema=ema, **hypers)
    cyopt.save(opt, path)
    cyopt.load(other, path)
    assert (other.lr, other.steps) == (1 / 3, 4)
    assert (ema is None) == ("average" not in other.state["w"])
    for step in range(3):
        grads = grads_at(step, params)
        opt.step(grads)
        other.step(grads)
    for key in params:
        assert same_bits(params[key], others[key])
        for slot, array in opt.state[key].items():
            assert same_bits(array, other.state[key][slot])


def test_resume_of_groups_and_schedules(path):
    def groups(params):
        first = {"params": params["w"], "lr": cyopt.schedules.exponential(0.1, 0.5)}
        return [first, {"params": {"b": params["b"]}, "betas": (0.1, 0.2), "clip_norm": 0.3}]

    params, others = arrays(), arrays()
    opt, other = cyopt.Adam(groups(params)), cyopt.Adam(groups(others))
    opt.step([grads_at(0, params)["w"], {"b": None}])
    opt.groups[1].update({"lr": 0.1 + 0.2, "betas": (0.7, 1 / 3)})
    others["w"][...] = params["w"]
    through_a_file(opt, other, path)
    assert repr(other) == repr(opt)
    for one, own in ((opt, params), (other, others)):
        grads = grads_at(1, own)
        one.step([grads["w"], {"b": grads["b"]}])
    assert all(same_bits(params[key], others[key]) for key in params)
    same_optimizers(opt, other)
    with pytest.raises(ValueError, match=r"state\.npz.*schedules are not saved"):
        cyopt.load(cyopt.Adam([{"params": others["w"]}, groups(others)[1]]), path)


def test_state_waits_for_its_parameters(path):
    train(opt := cyopt.Adam(params := arrays()), params)
    waiting = through_a_file(through_a_file(opt, cyopt.Adam(), path), cyopt.Adam(), path)
    others = {key: param.copy() for key, param in params.items()}
    waiting.step(grads_at(9, params), others)
    opt.step(grads_at(9, params))
    assert all(same_bits(params[key], others[key]) for key in params)
    same_optimizers(opt, waiting)


@pytest.mark.parametrize("cls", [cyopt.SGD, cyopt.Adam])
def test_keys_come_back(cls, path):
    keys = ["w", "", "1", 1, -(2**80), (), ("w",), ("w", 1, ("b", ())), "a\x00b/\n.npy", "header",
            "\ud800", "\ud83d\ude00", "\U0001f600", "ä"]  # fmt: skip
    opt, grad = cls(), np.ones(2)
    for i, key in enumerate(keys):
        for _ in range(i + 1):
            opt.update(key, np.full(2, i, float), grad)
    other = through_a_file(opt, cls(), path)
    assert list(other.state_dict()["state"]) == keys
    for i, key in enumerate(keys):
        param = other.update(key, np.full(2, i, float), grad)
        assert same_bits(param, opt.update(key, np.full(2, i, float), grad))
    same_optimizers(opt, other)


@pytest.mark.parametrize(
    "key", [1.5, True, b"w", np.str_("w"), np.int64(1), ("w", 1.0), frozenset(), ("w", (None,))]
)
def test_other_keys_are_refused_before_anything_is_written(key, path):
    opt = cyopt.Adam()
    opt.update(key, np.ones(2), np.ones(2))
    path.write_text("old")
    with pytest.raises(TypeError, match=r"key .* of update .* a file keeps keys that are str"):
        cyopt.save(opt, path)
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == [path.name]


def test_no_pickle_is_written(path):
    """State that waits for its parameter is of numbers as well."""
    opt, saved = cyopt.Adam(), trained().state_dict()
    saved["state"]["w"]["exp_avg"] = np.array([{}])
    with pytest.raises(TypeError, match=r"state\['w'\]\['exp_avg'\] has dtype object"):
        opt.load_state_dict(saved)
    cyopt.save(opt, path)
    assert everything(opt) == everything(cyopt.Adam())


@pytest.mark.parametrize("use", [cyopt.save, cyopt.load])
def test_a_step_is_not_saved_half_way(use, path):
    cyopt.save(cyopt.Adam(lr=lambda steps: 0.1), path)
    opt = cyopt.Adam(lr=lambda steps: use(opt, path))
    with pytest.raises(RuntimeError, match="in a step already"):
        opt.step(arrays(), arrays())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (6,), (2, 3), (1, 2, 3)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_number_and_shape_comes_back(dtype, shape, order, path):
    opt, other = (cyopt.Adam({"x": np.ones(shape, dtype, o)}) for o in (order, "C"))
    for array in opt.state["x"].values():
        array[...] = np.resize(np.array([np.nan, np.inf, -np.inf, -0.0, 1e-40, 0.1], dtype), shape)
    through_a_file(opt, other, path)
    through_a_file(opt, cyopt.Adam(), path)


def test_what_a_path_may_be(path, monkeypatch):
    opt = trained()
    monkeypatch.chdir(path.parent)
    for form in ("state", str(path), os.fsencode(path), path):
        cyopt.save(opt, form)
        cyopt.load(other := cyopt.Adam(arrays()), form)
        same_optimizers(opt, other)
    assert sorted(os.listdir()) == ["state", "state.npz"]
    with pytest.raises(TypeError, match="not Adam"):
        cyopt.save(path, opt)
    with pytest.raises(TypeError, match="not Adam"):
        cyopt.load(path, opt)


def test_the_file_has_the_rights_of_open_and_a_link_stays(path):
    os.symlink("elsewhere", path)
    before = os.umask(0o027)
    try:
        cyopt.save(trained(), path)
        path.with_suffix(".plain").touch()
    finally:
        os.umask(before)
    assert path.is_symlink()
    mode = path.with_name("elsewhere").stat().st_mode
    assert mode == path.with_suffix(".plain").stat().st_mode


@pytest.mark.skipif(os.name == "nt", reason="no permissions of this kind")
def test_saving_again_keeps_the_permissions(tmp_path):
    path = tmp_path / "sgd.npz"
    cyopt.save(cyopt.SGD(), path)
    path.chmod(0o600)
    cyopt.save(cyopt.SGD(lr=0.5), path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="root alone gives away")
def test_saving_again_keeps_the_owner(tmp_path):
    path = tmp_path / "opt.npz"
    cyopt.save(cyopt.Adam(), path)
    os.chown(path, 65534, 65534)
    os.chmod(path, 0o640)
    cyopt.save(cyopt.Adam(), path)
    kept = path.stat()
    assert (kept.st_uid, kept.st_gid, kept.st_mode & 0o777) == (65534, 65534, 0o640)


def test_the_file_is_plain_numpy(path):
    cyopt.save(trained(cyopt.SGD, momentum=0.9, ema=0.5), path)
    with np.load(path, allow_pickle=False) as archive:
        header = json.loads(archive["header"].item())
        stored = {key: archive[key] for key in archive.files if key != "header"}
    assert header["format"] == "cyopt optimizer state"
    assert (header["version"], header["cyopt"]) == (1, cyopt.__version__)
    assert (header["optimizer"], header["rules"], header["steps"]) == ("SGD", ["momentum"], 4)
    assert header["groups"][0]["momentum"] == 0.9
    assert header["parameters"][1] == {
        "name": "b",
        "step": 4,
        "array": {"dtype": "float32", "shape": [3]},
        "state": ["momentum_buffer", "average"],
    }
    slots = ("momentum_buffer", "average")
    assert list(stored) == [f"{i}.{slot}" for i in (0, 1) for slot in slots]


# --- what is refused ------------------------------------------------------------------------------


def refuses(opt, path, message, error=ValueError):
    before, report = everything(opt), repr(opt)
    with pytest.raises(error, match=message):
        cyopt.load(opt, path)
    assert (everything(opt), repr(opt)) == (before, report)


def shaped(cls, shape, dtype="f4"):
    return lambda: cls({"w": np.ones(shape, dtype), "b": np.ones(3, dtype)})


def grouped(cls):
    return cls([{"params": [param]} for param in arrays().values()])


MISMATCHED = {
    "class": (cyopt.Adam, lambda: cyopt.AdamW(arrays()), "of Adam .* this optimizer is AdamW"),
    "rule": (cyopt.Adam, lambda: cyopt.Adam(arrays(), amsgrad=True), r"\['adam'\].*\['amsgrad'\]"),
    "groups": (cyopt.Adam, lambda: grouped(cyopt.Adam), r"\['adam'\].*\['adam', 'adam'\]"),
    "flag": (cyopt.Adam, lambda: cyopt.Adam(arrays(), maximize=True), "maximize=False.*has True"),
    "average": (cyopt.Adam, lambda: cyopt.Adam(arrays(), ema=0.9), "ema|average"),
    "name": (cyopt.Adam, lambda: cyopt.Adam({"w": np.ones((2, 3), "f4")}), r"has \['b'\]"),
    "shape": (cyopt.Adam, shaped(cyopt.Adam, (3, 2)), r"'w' was .*\[2, 3\].* is .*\[3, 2\]"),
    "dtype": (cyopt.Adam, shaped(cyopt.Adam, (2, 3), "f8"), "'w' was .*float32.* is .*float64"),
    "shape without state": (cyopt.SGD, shaped(cyopt.SGD, (3, 2)), r"'w' was .*\[2, 3\]"),
    "dtype without state": (cyopt.SGD, shaped(cyopt.SGD, (2, 3), "f8"), "'w' was .*float32"),
    "rule without state": (cyopt.SGD, lambda: cyopt.SGD(momentum=0.9), r"\['sgd'\].*\['mom"),
}


@pytest.mark.parametrize(("cls", "opt_of", "message"), MISMATCHED.values(), ids=MISMATCHED)
def test_a_mismatched_file_changes_nothing(cls, opt_of, message, path):
    cyopt.save(trained(cls), path)
    refuses(opt_of(), path, f"(?s)state.npz' does not fit this optimizer: .*{message}")


@pytest.mark.parametrize(
    ("shape", "dtype", "message"), [((3, 2), "f4", "shape"), ((2, 3), "f8", "dtype")]
)
def test_state_that_waited_must_fit_too(shape, dtype, message, path):
    """The file does not know the parameter of such state, but its arrays."""
    cyopt.save(through_a_file(trained(), cyopt.Adam(), path), path)
    refuses(shaped(cyopt.Adam, shape, dtype)(), path, message)


def rewritten(path, **changes):
    """A file with another header, `...` to delete, and checksums that are right."""
    with np.load(path) as archive:
        stored = dict(archive)
    header = {**json.loads(stored["header"].item()), **changes}
    header = {key: value for key, value in header.items() if value is not ...}
    np.savez(path, **{**stored, "header": np.array(json.dumps(header))})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2, "cyopt": "9.1"}, "version 2 .*cyopt 9.1; this is cyopt .*install a newer"),
        ({"version": "1"}, "version '1'"),
        ({"format": "weights"}, "format is 'weights'.*another kind"),
        ({"parameters": None}, "another kind"),
        ({"steps": -1}, "steps"),
        ({"rules": None}, "rules None"),
        ({"rules": ...}, "rules"),
    ],
)
def test_another_header_is_refused(changes, message, path):
    cyopt.save(trained(), path)
    rewritten(path, **changes)
    refuses(cyopt.Adam(arrays()), path, f"state.npz.*{message}")


class Code(str):
    """Makes a folder of its name when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, (str(self),)


FOREIGN = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("epoch 3"),
    "pickle": lambda path: path.write_bytes(pickle.dumps(Code(f"{path}.ran"))),
    "array": lambda path: (np.save(f"{path}.npy", np.ones(3)), os.replace(f"{path}.npy", path)),
    "archive": lambda path: np.savez(path, w=np.ones(3)),
    "other header": lambda path: np.savez(path, header=np.ones(3)),
    "objects": lambda path: np.savez(path, header=np.array(Code(f"{path}.ran"), object)),
    "empty archive": lambda path: np.savez(path),
}


@pytest.mark.parametrize("write", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_file_is_refused(write, path):
    write(path)
    # The brackets hold no advice of NumPy's, such as to allow pickles.
    why = r"npz' is not a whole file of cyopt.save \((\w+|its .*)\): it is of another kind"
    refuses(cyopt.Adam(arrays()), path, why)
    assert os.listdir(path.parent) == [path.name]


def test_errors_of_the_system_pass_through(path, monkeypatch):
    refuses(cyopt.Adam(), path, "state.npz", FileNotFoundError)
    refuses(cyopt.Adam(), path.parent, "directory", IsADirectoryError)
    with pytest.raises(FileNotFoundError):
        cyopt.save(cyopt.Adam(), path / "no" / "folder")
    assert os.listdir(path.parent) == []
    cyopt.save(trained(), path)
    monkeypatch.setattr(np, "load", fails(MemoryError("made up")))
    refuses(cyopt.Adam(), path, "made up", MemoryError)


def test_an_error_names_a_folder_that_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no/sgd\.npz"):
        cyopt.save(cyopt.SGD(), tmp_path / "no" / "sgd.npz")


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_only_a_file_is_replaced(make, path):
    make(path)
    with pytest.raises(ValueError, match=r"state\.npz', which is not a file"):
        cyopt.save(cyopt.Adam(), path)
    assert path.is_dir() or path.is_fifo()


def test_a_folder_that_is_not_there_is_no_file(tmp_path):
    with pytest.raises(ValueError, match=r"runs', which is not a file"):
        cyopt.save(cyopt.Adam(), f"{tmp_path}/runs/")
    assert not list(tmp_path.iterdir())
