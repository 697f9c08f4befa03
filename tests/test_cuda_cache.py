"""Compiled kernels that are kept on disk: their names, and where there is no folder for them."""

import inspect
import sys
from types import SimpleNamespace

import pytest

from cyopt.cuda import cache, compiler, layout, measure
from cyopt.cuda.source import function_source


def test_the_name_of_a_kept_kernel_changes_with_the_constants(monkeypatch, tmp_path):
    monkeypatch.setenv("CYOPT_CACHE_DIR", str(tmp_path))
    source = function_source(measure.decide, "float32")
    before = cache._path(source, (9, 0))
    monkeypatch.setattr(cache, "compiler_text", lambda: "THREADS = 256")
    assert cache._path(source, (9, 0)) != before
    monkeypatch.undo()
    for module in (layout, compiler):
        assert inspect.getsource(module) in cache.compiler_text()


def no_home(name):
    raise RuntimeError("Could not determine home directory.")


@pytest.mark.parametrize("unknown", [no_home, lambda name: f"~/.cache/{name}"])
def test_a_kernel_is_compiled_where_the_user_has_no_folder_for_it(monkeypatch, tmp_path, unknown):
    """Some containers run as a user that the system does not know."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CYOPT_CACHE_DIR", raising=False)
    monkeypatch.setitem(sys.modules, "platformdirs", SimpleNamespace(user_cache_dir=unknown))
    monkeypatch.setattr(compiler, "lto_ir", lambda source, capability: source.dtype.encode())
    monkeypatch.setattr(compiler, "link", lambda code, capability: code)
    assert cache.cubin(function_source(measure.decide, "float32"), (9, 0)) == b"float32"
    assert not list(tmp_path.iterdir())
