# Everything sets itself up: `make demo` and `make test` need nothing but Python 3.11 or 3.12, pip and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Without any extra: what the package is where only the fake engine can run.
VENV_CORE := .venv-core
READY_CORE := $(VENV_CORE)/.ready

.PHONY: help demo test test-core check lint types imports format clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    caption a dozen rendered clips with the built-in model"
	@echo "make test    run all tests"
	@echo "make check   what CI runs: lint, types, imports, all tests with coverage, and tests without any extra"

$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(READY_CORE): pyproject.toml
	$(PYTHON) -m venv $(VENV_CORE)
	$(VENV_CORE)/bin/pip install --quiet --disable-pip-version-check --editable . pytest
	@touch $@

demo: $(READY)
	$(BIN)/reelscribe demo

test: $(READY)
	$(BIN)/pytest $(PYTEST_ARGS)

test-core: $(READY_CORE)
	$(VENV_CORE)/bin/pytest -m "not transformers"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

imports: $(READY)
	$(BIN)/lint-imports

check: lint types imports
	$(MAKE) test PYTEST_ARGS="--cov --cov-report=term"
	$(MAKE) test-core

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(VENV_CORE) reelscribe-demo .coverage .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
