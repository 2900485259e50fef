# The commands of the project. `make demo` and `make test` need only Python >= 3.11 with venv, and the package index.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

LOCKED_PYTHONS := 3.11 3.12 3.13
LOCK_DATE      ?= $(shell date -u +%F)
UV             := .venv-lock/bin/uv
COMPILE         = $(UV) pip compile setup.cfg --quiet --no-annotate --no-header --no-emit-index-url --strip-extras \
                  --python-platform linux --exclude-newer $(LOCK_DATE)

.PHONY: help demo test test-oldest test-newest drills test-gpu bench-gpu bench-gpu-stylegan lint types imports ci bench lock clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Installs what the lock of this Python and platform says: its own packages, and what builds those that come as source.
# pip reads the first variable for both up to release 25.2, the second for builds from 25.3 on.
# $(1): the extras, such as [dev]
define install_locked
	@lock=constraints/$$($(BIN)/python -c 'import platform as p, sys; \
	    print(f"py{sys.version_info[0]}{sys.version_info[1]}-{sys.platform}-{p.machine()}")').txt; \
	if [ -e "$$lock" ]; then export PIP_CONSTRAINT="$$lock" PIP_BUILD_CONSTRAINT="$$lock"; \
	else echo "no $$lock: installing the newest versions, which were not tested together" >&2; fi; \
	$(BIN)/pip install -q -e .$(1)
endef

$(VENV)/.installed: setup.cfg pyproject.toml $(wildcard constraints/*.txt) | $(BIN)/python
	$(call install_locked)
	@touch $@

$(VENV)/.installed-dev: setup.cfg pyproject.toml $(wildcard constraints/*.txt) | $(BIN)/python
	$(call install_locked,[dev])
	@touch $@ $(VENV)/.installed

demo: $(VENV)/.installed  ## install and tell the whole story on built-in data, offline (under 6 minutes on 2 cores)
	$(BIN)/spider demo --out runs/demo

test: $(VENV)/.installed-dev  ## the laws (about 11 minutes on 2 idle cores)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

# One Python, since the oldest versions have wheels for few: make test-oldest OLDEST_PYTHON=...
OLDEST_PYTHON ?= python3.11
test-oldest:  ## the laws with the oldest versions that setup.cfg allows, in an environment of their own
	$(OLDEST_PYTHON) -m venv --clear .venv-oldest
	PIP_CONSTRAINT=constraints/oldest.txt PIP_BUILD_CONSTRAINT=constraints/oldest.txt .venv-oldest/bin/pip install -q -e .[test]
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest -n 2

NEWEST_PYTHON ?= $(PYTHON)
test-newest:  ## the laws with the newest versions there are, whatever pip's settings here hold back
	$(NEWEST_PYTHON) -m venv .venv-newest
	PIP_CONSTRAINT=/dev/null PIP_BUILD_CONSTRAINT=/dev/null .venv-newest/bin/pip install -q --upgrade --upgrade-strategy eager -e .[test]
	OMP_NUM_THREADS=1 .venv-newest/bin/python -m pytest -n 2

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

# On a machine with a GPU, with any Python that has the packages: nothing is installed, and no network is needed
GPU_PYTHON ?= python3
test-gpu:  ## what differs on a GPU (under 4 minutes; GPU_PYTHON=python3)
	PYTHONPATH=. $(GPU_PYTHON) -m pytest tests/gpu -p no:cacheprovider -rA --durations=5

# PEER: a checkout of github.com/NVlabs/stylegan3, to be measured beside
BENCH_STYLEGAN = PYTHONPATH=. $(GPU_PYTHON) -m benchmarks.stylegan --out runs/bench/stylegan $(if $(PEER),--peer $(PEER))
bench-gpu:  ## what an iteration costs on a GPU (under 10 minutes; GPU_PYTHON=python3, PEER=a checkout of NVlabs/stylegan3)
	PYTHONPATH=. $(GPU_PYTHON) -m benchmarks.gpu --out runs/bench/gpu.json
	$(BENCH_STYLEGAN) --minutes 4.5

bench-gpu-stylegan:  ## what bench-gpu left of StyleGAN, ten minutes of it; give it until it says that all is done
	$(BENCH_STYLEGAN) --minutes 9

bench: $(VENV)/.installed-dev  ## every benchmark; tables on the screen, JSON under runs/bench
	$(BIN)/python -m benchmarks.run --out runs/bench

$(UV):
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install -q uv

lock: $(UV)  ## renew constraints/: the newest versions up to LOCK_DATE (today) that go together, and the oldest allowed
	@set -e; for python in $(LOCKED_PYTHONS); do \
	    file=constraints/py$$(echo $$python | tr -d .)-linux-x86_64.txt; \
	    echo "# Versions for Python $$python on Linux, x86_64. Made by: make lock LOCK_DATE=$(LOCK_DATE)" > $$file.new; \
	    $(COMPILE) --extra dev --constraint constraints/held.txt --python-version $$python >> $$file.new; \
	    mv $$file.new $$file; \
	done
	@set -e; file=constraints/oldest.txt; \
	echo "# The lower bounds of setup.cfg, for Python 3.11 on Linux. Made by: make lock LOCK_DATE=$(LOCK_DATE)" > $$file.new; \
	$(COMPILE) --extra test --resolution lowest-direct --python-version 3.11 >> $$file.new; \
	mv $$file.new $$file

clean:  ## remove what the targets made, except the environment
	rm -rf runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
