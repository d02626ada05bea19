# `make search` and `make test` need nothing but Python 3.11+, git and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: setup search test test-quick lint types contracts check clean

setup: $(VENV)/installed

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

search: setup  ## search on the embedded data; ARGS="search.trials=32" adds overrides
	$(BIN)/raudio search $(ARGS)

test: setup  ## all tests that a CPU can run
	$(BIN)/python -m pytest $(ARGS)

test-quick: setup  ## those that take seconds and start no Ray
	$(BIN)/python -m pytest -m 'not ray and not slow' $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

contracts: setup
	$(BIN)/lint-imports

check: lint types contracts

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
