# Each target sets up what it needs: a virtual environment in .venv with the package, built in place.
# PYTHON chooses the interpreter that makes it.

PYTHON ?= python3
BIN := .venv/bin
SOURCES := $(wildcard src_c/* cyopt/*.pyx cyopt/*.pxi cyopt/bench/*.pyx) setup.py pyproject.toml
# Without setuptools's warning that the folder cyopt may be imported from here: that is the purpose.
INSTALL := PYTHONWARNINGS=ignore $(BIN)/pip install --quiet --disable-pip-version-check --editable

.PHONY: demo test test-all lint clean

demo: .venv/built  ## Train on handwritten digits with NumPy's Adam and with cyopt's.
	$(BIN)/python -m cyopt demo

test: .venv/built  ## The tests; a fixed sample where the whole matrix would take too long.
	$(BIN)/python -m pytest

test-all: .venv/built  ## The tests with the whole of every matrix, and the installs.
	$(BIN)/python -m pytest --full

lint: .venv/linters  ## Style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror src_c/*

.venv/built: $(SOURCES)
	@echo "Building cyopt into .venv with what the demo and the tests need: about a minute."
	@$(PYTHON) -m venv .venv
	@$(INSTALL) ".[test]"
	@touch $@

.venv/linters: .venv/built
	@$(INSTALL) ".[lint]"
	@touch $@

clean:
	rm -rf .venv build dist *.egg-info cyopt/*.so
