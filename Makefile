# make quickstart   set everything up, then raw text to a trained model in a few minutes
# make test         set everything up, then lint, types and every fast test
# make test-slow    the tests marked slow as well (crashes, statistics at length)
# make gpu-bench    correctness and speed on the graphics card at hand

PYTHON ?= python3
VENV := .venv
BIN := $(abspath $(VENV))/bin
RUNTIME := $(VENV)/.runtime-installed
TESTING := $(VENV)/.test-installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: quickstart test lint test-fast test-slow gpu-bench clean

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@echo "setting up $(VENV)"
	@$(PYTHON) -m venv $(VENV)

# torch goes first: with it there, no dependency asks for another build of it.
$(RUNTIME): $(VENV)/pyvenv.cfg pyproject.toml constraints.txt
	@echo "installing the project and what it needs (a few minutes on a new machine)"
	@$(PIP) torch
	@$(PIP) --editable .
	@touch $@

$(TESTING): $(RUNTIME)
	@echo "installing what the tests need"
	@$(PIP) --editable '.[test]'
	@touch $@

quickstart: $(RUNTIME)
	@PATH="$(BIN):$$PATH" sh quickstart.sh

test: lint test-fast

lint: $(TESTING)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test-fast: $(TESTING)
	$(BIN)/python -m pytest --quiet --numprocesses 2 --dist loadfile

test-slow: $(TESTING)
	$(BIN)/python -m pytest --quiet --numprocesses 2 --dist loadfile -m "not gpu"

gpu-bench:
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m benchmarks gpu; else $(PYTHON) -m benchmarks gpu; fi

clean:
	rm -rf $(VENV) build dist *.egg-info quickstart .pytest_cache .mypy_cache .ruff_cache
