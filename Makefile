# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
#
#   make demo     install into $(VENV) and learn real tasks with the embedded default backbone
#   make test     all tests
#   make check    format, lint, types, import layers, tests: what CI runs
#   make bench    the speed figures of benchmarks/
#   make format   rewrite the files as `make check` wants them
#   make clean    remove the virtual environment and all caches
#
# Another interpreter: `make demo PYTHON=python3.12`. Some tests only: `make test ARGS="tests/unit -k csv"`.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=

BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint check bench format clean
.NOTPARALLEL:

demo: $(VENV)/.installed-demo
	$(BIN)/handful demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports --no-cache

check: lint test

bench: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/run.py $(ARGS)

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .benchmarks .hypothesis .pytest_cache .ruff_cache dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed-demo: $(VENV)/.made pyproject.toml constraints.txt
	$(INSTALL) -e '.[minilm,demo]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.made pyproject.toml constraints.txt
	$(INSTALL) -e '.[dev]'
	@touch $@ $(VENV)/.installed-demo

$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null || { echo "handful needs Python 3.11 or newer, but there is no '$(PYTHON)'. Name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "handful needs Python 3.11 or newer, but $(PYTHON) is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	@touch $@
