# make demo   draw with the models of the package, then train on handwritten digits for two minutes
# make test   run the tests except the slow ones
# make test-slow   run the tests that take longer than ten seconds
# make check  formatting, lint, types and the docs
# Each command sets up .venv first; a second call skips the set-up.

PYTHON ?=
VENV ?= .venv
RUN ?= runs/demo
BIN = $(VENV)/bin
JOBS ?= 2

PYTEST = $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -q

.PHONY: demo test test-slow check docs format clean help

demo: $(VENV)/.ready-demo
	$(BIN)/convflow demo --out $(RUN)/shipped.png
	$(BIN)/convflow demo digits --run $(RUN)

test: $(VENV)/.ready-dev
	$(PYTEST) -m 'not slow'

test-slow: $(VENV)/.ready-dev
	$(PYTEST) -m slow

check: $(VENV)/.ready-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mkdocs build --strict --quiet

format: $(VENV)/.ready-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.ready-dev
	$(BIN)/mkdocs serve

$(VENV)/.ready-%: pyproject.toml constraints.txt scripts/setup.sh
	@PYTHON="$(PYTHON)" VENV="$(VENV)" EXTRAS="$*" sh scripts/setup.sh
	@touch $@

clean:
	rm -rf $(VENV) site .pytest_cache .mypy_cache .ruff_cache

help:
	@sed -n 's/^# //p' Makefile
