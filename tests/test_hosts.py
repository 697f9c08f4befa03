"""What all integrations share: extras, versions, and nothing imported that was not asked for."""

import re
from importlib import metadata
from pathlib import Path

import pytest
from run_python import run_python

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "cyopt" / "integrations"
HOSTS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem[0] != "_")
REQUIRE = re.compile(r'^require\("([\w-]+)", "([\d.]+)", "(\w+)"\)$', re.M)


def required(host):
    """Package, minimum and extra that a module asks for."""
    return REQUIRE.findall((FOLDER / f"{host}.py").read_text())


def test_the_integrations_are_these():
    assert HOSTS == ["autograd", "numba", "sklearn", "thinc", "torch"]


@pytest.mark.parametrize("host", HOSTS)
def test_extras_and_modules_ask_for_the_same(host):
    ((package, minimum, extra),) = required(host)
    assert extra == host
    project = ROOT / "pyproject.toml"
    if not project.is_file():
        pytest.skip("needs the sources, not only the package")
    assert f'\n{extra} = ["{package}>={minimum}"]\n' in project.read_text()


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("found", [None, "0.1.2"])
def test_a_host_that_is_missing_or_too_old_is_named(host, found):
    ((package, minimum, extra),) = required(host)
    code = f"""
        from importlib import metadata
        known = metadata.version

        def version(package):
            if package != {package!r}:
                return known(package)
            if {found!r} is None:
                raise metadata.PackageNotFoundError(package)
            return {found!r}

        metadata.version = version
        try:
            import cyopt.integrations.{host}
        except ImportError as error:
            print(error)
    """
    expected = f"{package} {minimum} or later is needed and {found or 'none'} is installed"
    assert run_python(code) == f"{expected}: pip install 'cyopt[{extra}]'\n"


def test_cyopt_imports_no_host():
    code = """
        import sys
        import cyopt, cyopt.integrations
        print(*sorted({name.partition(".")[0] for name in sys.modules}))
    """
    packages = {"sklearn", "numba", "llvmlite", "autograd", "thinc", "spacy", "torch", "scipy"}
    assert not packages & set(run_python(code).split())


def test_newer_versions_are_taken():
    from cyopt.integrations import require

    require("numpy", metadata.version("numpy"), "numpy")
    with pytest.raises(ImportError, match=r"numpy 1000\.0 or later"):
        require("numpy", "1000.0", "numpy")
