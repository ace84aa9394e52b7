# Each target makes the part of .venv it needs; only make and a python3 (3.11 or later) are presumed.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMP := $(VENV)/.installed

# python3 where it is recent enough, else the first named interpreter that runs.
RECENT := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3 python3.12 python3.13 python3.11 python3.14; do \
	$$python -c '$(RECENT)' >/dev/null 2>&1 && echo $$python && break; done)

DEMO := --label-key domain --holdout 0.25 --max-epochs 80 --force

JOBS ?= 1
WORKERS ?= 2

.PHONY: demo test fuzz lint bench gpu docs linkcheck clean

demo: $(STAMP)-run
	mkdir -p demo
	$(BIN)/isovi simulate --kind layers --n-obs 900 --n-genes 300 --seed 0 --out demo/tissue.h5ad --force
	$(BIN)/isovi fit demo/tissue.h5ad --out demo/run $(DEMO)
	$(BIN)/isovi fit demo/tissue.h5ad --out demo/plain $(DEMO) --plain
	$(BIN)/isovi diagnose demo/run
	$(BIN)/isovi compare demo/plain demo/run --save demo/latents.png

# Several processes of one thread: the models of the tests are so small that threads only wait for each other.
test: $(STAMP)-test
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal --cov --cov-report=
	$(BIN)/python -m coverage report --include="src/*" --fail-under=90
	$(BIN)/python -m coverage report --include="bench/src/*" --fail-under=90

# The fuzzer in full, one process a job; again after an interruption, it does what is left. FUZZ=--help tells more.
fuzz: $(STAMP)-test
	PYTHONPATH=tests/fuzz OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE \
		$(BIN)/python -m isovi_fuzz --out fuzz --jobs $(JOBS) $(FUZZ)

lint: $(STAMP)-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# An hour or two; resumes if it was interrupted.
bench: $(STAMP)-bench
	$(BIN)/isovi-bench time epoch --whole 5 --out timings.json $(addprefix --section ,$(wildcard ../shared/data/dlpfc_151673.h5ad))

# At most eight minutes with one GPU; without one, the tests are skipped and the rest is run in small.
gpu: $(STAMP)-test
	$(BIN)/python -m pytest -m gpu tests
	$(BIN)/isovi-bench time device --page docs/large.md

# Tutorials are run; one thread, as for the tests.
docs: $(STAMP)-doc
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m sphinx -W --keep-going docs docs/_build/html

# Links to other sites, which take a network; those within are checked by `make docs`.
linkcheck: $(STAMP)-doc
	$(BIN)/python -m sphinx -b linkcheck -D nb_execution_mode=off docs docs/_build/linkcheck

clean:
	rm -rf $(VENV) .venv-newest demo fuzz docs/_build .coverage .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

# torch first and alone: whatever wheel the constraint finds is then kept by everything after it.
$(STAMP)-run: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "isoVI needs Python 3.11 or later: none found; set PYTHON=path/to/python3"; exit 1; }
	@echo "Setting up $(VENV): a few minutes the first time"
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade "pip>=25.1"
	$(PIP) install --quiet --constraint constraints.txt torch
	$(PIP) install --quiet --constraint constraints.txt --editable .
	@touch $@

$(STAMP)-bench: $(STAMP)-run bench/pyproject.toml
	$(PIP) install --quiet --constraint constraints.txt --editable ./bench
	@touch $@

$(STAMP)-%: $(STAMP)-bench
	$(PIP) install --quiet --constraint constraints.txt --group $*
	@touch $@
