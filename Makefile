# `make search` and `make test` need nothing but Python 3.11+, git and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: setup search test test-quick test-long lint types contracts check clean

setup: $(VENV)/installed

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

search: setup  ## search on the embedded data; ARGS="search.trials=32" adds overrides
	$(BIN)/raudio search $(ARGS)

PYTEST := $(BIN)/python -m pytest
QUICK := $(PYTEST) -n 2 --dist loadfile -m 'not ray and not slow and not long'

# More than there are cores where each starts Ray, which waits more than it works. The benchmarks'
# tests, all in one file, share nothing.
test: setup  ## all tests that take less than minutes each, the quick ones first
	$(QUICK)
	$(PYTEST) -n 3 --dist loadfile -m '(ray or slow) and not long' --ignore tests/test_benchmarks.py
	$(PYTEST) -n 2 --dist load -m '(ray or slow) and not long' tests/test_benchmarks.py

# One at a time, as they look at how long a search waits. The autoscaler's Ray has a process of its
# own, which has known no other.
test-long: setup  ## those that take minutes each: machines that come, go and are lost
	$(PYTEST) -m long --ignore tests/test_autoscaler.py
	$(PYTEST) tests/test_autoscaler.py

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
