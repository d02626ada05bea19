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

QUICK := $(BIN)/python -m pytest -n 2 --dist loadfile -m 'not ray and not slow'

test: setup  ## all tests that a CPU can run: the quick ones on two cores, then those that need both
	$(QUICK)
	$(BIN)/python -m pytest -m 'ray or slow'

test-quick: setup  ## those that take seconds and start no Ray
	$(QUICK) $(ARGS)

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
