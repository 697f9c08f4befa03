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


def test_the_name_of_a_kept_kernel_has_its_gpu_and_changes_with_versions(monkeypatch, tmp_path):
    monkeypatch.setenv("CYOPT_CACHE_DIR", str(tmp_path))
    source = function_source(measure.decide, "float32")
    paths = [cache._path(source, capability) for capability in ((7, 5), (9, 0))]
    assert [p.name.split("-")[1] for p in paths] == ["sm_75", "sm_90"]
    monkeypatch.setattr(cache, "__version__", "0.0.0")
    paths.append(cache._path(source, (9, 0)))
    for package in cache._COMPILERS:
        monkeypatch.setattr(cache, "_version", lambda name, own=package: str(name == own))
        paths.append(cache._path(source, (9, 0)))
    assert len(set(paths)) == len(paths)


def test_a_gpu_older_than_the_compiler_knows_is_refused(monkeypatch):
    old = SimpleNamespace(compute_capability=(7, 0))
    monkeypatch.setattr(cache.driver, "device", lambda ordinal: old)
    monkeypatch.setitem(sys.modules, "cuda", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "cuda.core", SimpleNamespace(ObjectCode=None))
    source = function_source(measure.decide, "float32")
    with pytest.raises(RuntimeError, match=r"GPU 3 has compute capability 7\.0; .* for 7\.5"):
        cache.kernel.__wrapped__(source, 3)


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
