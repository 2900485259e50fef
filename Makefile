# The commands of the project. `make demo` and `make test` need only Python >= 3.11 with venv, and the package index.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: help demo test drills lint types imports ci bench clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/pip install -q -e .
	@touch $@

$(VENV)/.installed-dev: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/pip install -q -e .[dev]
	@touch $@ $(VENV)/.installed

demo: $(VENV)/.installed  ## install and tell the whole story on built-in data, offline (under 6 minutes on 2 cores)
	$(BIN)/spider demo --out runs/demo

test: $(VENV)/.installed-dev  ## the laws (under 15 minutes on 2 cores)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

drills: $(VENV)/.installed-dev  ## what needs Slurm, on a real one of two nodes on this machine (as root, with slurm-wlm and munge)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/drills

lint: $(VENV)/.installed-dev  ## ruff: style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev  ## mypy, strict, on the packages
	$(BIN)/mypy

imports: $(VENV)/.installed-dev  ## the import contracts
	$(BIN)/lint-imports

ci: lint types imports test drills demo  ## everything that must pass before a change lands

bench: $(VENV)/.installed-dev  ## every benchmark; tables on the screen, JSON under runs/bench
	$(BIN)/python -m benchmarks.run --out runs/bench

clean:  ## remove what the targets made, except the environment
	rm -rf runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
