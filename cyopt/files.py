"""An optimizer's state in a file, without pickle: `save` and `load`.

The file is NumPy's .npz, a zip file whose checksums detect damage. Its array "header" is a JSON
text with everything that is not an array; "2.exp_avg" is a state array of the third parameter.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import stat
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cyopt import checkpoint
from cyopt._version import __version__
from cyopt.arrays import Array, as_array
from cyopt.given import Spec
from cyopt.optimizer import Optimizer

_FORMAT = "cyopt optimizer state"
_VERSION = 1  # changes when an older cyopt would misread the file

StrPath = str | os.PathLike[str]


def save(opt: Optimizer, path: StrPath) -> None:
    """Write an optimizer's whole state to the file `path`, replacing what was there.

    The file holds what `state_dict` gives (class, hyperparameters, steps, and the step count and
    state arrays of each parameter), and rules, dtypes and shapes. It does not hold the parameters,
    nor schedules, only that there was one. `path` is used as it is, without adding an extension;
    `numpy.load` reads the file.

    The new file is complete and on disk before it takes the name; until then the old one is
    unchanged, whatever happens. The folder must be writable; a write-protected file is replaced,
    too. Only a killed process can leave a second file beside it, which is named .cyopt-*.tmp and
    may be deleted.

    Raises TypeError, before anything is written, for a key of `update` that is not made of str, int
    and tuples; ValueError if `path` exists and is not a file; OSError if it cannot be written.

    >>> import tempfile, numpy as np, cyopt
    >>> opt = cyopt.Adam({"w": np.ones(3)})
    >>> opt.step({"w": np.ones(3)})
    True
    >>> other = cyopt.Adam({"w": np.ones(3)})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cyopt.save(opt, f"{folder}/adam.npz")
    ...     cyopt.load(other, f"{folder}/adam.npz")
    >>> other.steps
    1

    Unlike torch.save it writes no pickle, and never leaves half a file at `path`.
    """
    path = os.fsdecode(path)  # catches arguments in the wrong order
    write(path, opt._gate.look(_content, opt))


def write(path: StrPath, arrays: Mapping[str, Any]) -> None:
    """Write the arrays of a file; see `save`."""
    given = os.fsdecode(path)
    path = os.path.realpath(given)  # a link stays, as with open()
    if not os.path.basename(given) or (os.path.exists(path) and not os.path.isfile(path)):
        raise ValueError(
            f"path is {path!r}, which is not a file; give the path of one, or a new one"
        )
    _replace(path, arrays)


def load(opt: Optimizer, path: StrPath) -> None:
    """Continue from the state that `save` wrote to the file `path`, bit for bit.

    `opt` must be made as the saved one was, with the same schedules. It may be bound, unbound or
    keyed: state waits for parameters that are not there yet.

    Raises ValueError, before anything is changed, if the file is of another kind, truncated,
    damaged or of a newer format, or was saved from another class, formula or structure, or from
    parameters of other names, shapes or dtypes; OSError if it cannot be read.

    >>> import tempfile, cyopt
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cyopt.save(cyopt.SGD(lr=0.5), f"{folder}/sgd.npz")
    ...     cyopt.load(opt := cyopt.SGD(), f"{folder}/sgd.npz")
    >>> opt.lr
    0.5

    Unlike torch.load it puts the state into `opt` instead of returning it, and a file cannot run
    code.
    """
    path = os.fsdecode(path)
    saved = read(path)
    with fitting(path):
        opt._gate.run(_take_up, opt, saved)


@contextlib.contextmanager
def fitting(path: StrPath) -> Iterator[None]:
    """Name the file in an error about what does not fit."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path!r} does not fit this optimizer: {error}") from error


def _take_up(opt: Optimizer, saved: Mapping[str, Any]) -> None:
    check_made(opt, _kinds(opt), saved)
    checkpoint.load_state_dict(opt, saved)


def _content(opt: Optimizer) -> dict[str, Array]:
    return content(checkpoint.state_dict(opt), rules_of(opt), _kinds(opt))


def content(
    saved: dict[str, Any], rules: list[str], kinds: Mapping[Any, Mapping[str, Any]]
) -> dict[str, Array]:
    """The arrays of a file, made of what `state_dict` gave, which is consumed."""
    arrays, parameters = {}, []
    for i, (name, entry) in enumerate(saved.pop("state").items()):
        _check_key(name)
        step = int(entry.pop("step"))
        kind = kinds.get(name)  # None while state waits for its parameter
        parameters.append({"name": name, "step": step, "array": kind, "state": list(entry)})
        for slot, value in entry.items():
            arrays[f"{i}.{slot}"] = as_array(value, f"state[{name!r}][{slot!r}]")
    header = {
        "format": _FORMAT,
        "version": _VERSION,
        **saved,
        "rules": rules,
        "parameters": parameters,
    }
    # Floats are exact: Python writes enough digits to restore them. Text is not escaped, because
    # two surrogates would come back as one character.
    return {"header": np.array(json.dumps(header, ensure_ascii=False)), **arrays}


def rules_of(opt: Optimizer) -> list[str]:
    """The rule of each group."""
    return [group.rule for group in opt.groups]


def _kinds(opt: Optimizer) -> dict[Any, dict[str, Any]]:
    """Name -> dtype and shape of each known parameter when its state was made, in JSON's types."""
    lists = opt._lists.values()
    return {name: kind for each in lists for name, kind in kinds_of(each.names, each.specs).items()}


def kinds_of(names: Sequence[Any], specs: Sequence[Spec]) -> dict[Any, dict[str, Any]]:
    """The same for a list of parameters."""
    return {
        name: {"dtype": spec.dtype.name, "shape": list(spec.shape)}
        for name, spec in zip(names, specs, strict=True)
    }


def _check_key(key: object) -> None:
    """Check that a file can give back a key of `update` that equals this one."""
    if type(key) is tuple:
        for part in key:
            _check_key(part)
    elif type(key) not in (str, int):
        raise TypeError(
            f"key {key!r} of update is or contains a {type(key).__name__}; a file keeps keys that"
            " are str, int, or tuples of these: use such a key, for example str(key)"
        )


def _as_key(key: Any) -> Any:
    """A key as it was: JSON turns tuples into lists."""
    return tuple(map(_as_key, key)) if isinstance(key, list) else key


def _replace(path: str, arrays: Mapping[str, Any]) -> None:
    """Write a file to disk under another name, and then rename it: all of it or nothing."""
    folder = os.path.dirname(path)
    temporary = os.path.join(folder, f".cyopt-{os.urandom(8).hex()}.tmp")
    try:
        with open(temporary, "xb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        _keep_access(path, temporary)
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.filename == temporary:
            error.filename = path  # what the caller knows
        raise
    _sync_folder(folder)


def _keep_access(path: str, temporary: str) -> None:
    """Keep the old file's permissions and, where the system allows it, its owner."""
    with contextlib.suppress(OSError):
        before = os.stat(path)
        if hasattr(os, "chown"):
            with contextlib.suppress(OSError):
                os.chown(temporary, before.st_uid, before.st_gid)
        os.chmod(temporary, stat.S_IMODE(before.st_mode))


def _sync_folder(folder: str) -> None:
    """Bring the new name to disk if the system can: Windows does not open folders."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class _UnusableError(Exception):
    """What `read` itself finds wrong with a file."""


# What bad bytes make zipfile, NumPy and json raise, of which none documents all. Not Exception: a
# signal handler may raise one of its own meanwhile.
_OF_BAD_BYTES = (
    _UnusableError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def read(path: StrPath) -> dict[str, Any]:
    """The header of a file, with the "state" of a state_dict made of its arrays."""
    with open(path, "rb") as file:
        data = io.BytesIO(file.read())
    try:
        with np.load(data, allow_pickle=False) as archive:
            if any(part.compress_type for part in archive.zip.infolist()):
                raise _UnusableError("its arrays are compressed, which save() does not do")
            # Now: later a checksum is compared only if the array is read to its end, which its
            # header decides, and that may be what is damaged.
            if damaged := archive.zip.testzip():
                raise _UnusableError(f"the checksum of {damaged} is wrong")
            header: dict[str, Any] = json.loads(archive["header"].item())
            if header["format"] != _FORMAT:
                raise _UnusableError(f"its format is {header['format']!r}")
            if header["version"] == _VERSION:
                return {**header, "state": _state(header["parameters"], archive)}
    except TimeoutError:  # from a signal handler: the bytes are here already
        raise
    except _OF_BAD_BYTES as error:
        # Others' advice, such as NumPy's to allow pickles, does not apply here.
        reason = error if isinstance(error, _UnusableError) else type(error).__name__
        raise ValueError(
            f"{path!r} is not a whole file of cyopt.save ({reason}): it is of another kind, or was"
            " truncated or damaged; load another copy"
        ) from error
    raise ValueError(
        f"{path!r} has version {header['version']!r} of its format, of cyopt {header.get('cyopt')};"
        f" this is cyopt {__version__}, which reads version {_VERSION}: install a newer cyopt"
    )


def _state(parameters: Iterable[Mapping[str, Any]], archive: Mapping[str, Array]) -> dict[Any, Any]:
    return {
        _as_key(parameter["name"]): {
            "step": parameter["step"],
            **{slot: archive[f"{i}.{slot}"] for slot in parameter["state"]},
        }
        for i, parameter in enumerate(parameters)
    }


def check_made(
    opt: Optimizer, kinds: Mapping[Any, Mapping[str, Any]], saved: Mapping[str, Any]
) -> None:
    """Check what a state_dict does not hold: the rules, and the `kinds` of the parameters."""
    rules, own = saved["rules"], rules_of(opt)
    if (saved["optimizer"], rules) != (type(opt).__name__, own):
        raise ValueError(
            f"it is of {saved['optimizer']} with the rules {rules}; this optimizer is"
            f" {type(opt).__name__} with {own}: load it into one made as the saved one was"
        )
    for name, parameter in zip(saved["state"], saved["parameters"], strict=True):
        kind = parameter["array"]
        if kind and kind != kinds.get(name, kind):
            raise ValueError(
                f"parameter {name!r} was {kind}; in this optimizer it is {kinds[name]}: load it"
                " into one for parameters like the saved ones"
            )
