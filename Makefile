# `make` lists the targets. On a fresh machine `make sweep` and `make test` need Python 3.11+ only.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
STORE ?= sqlite:///mlflow.db
PORT ?= 5000
STUDY ?= outputs/tuning/tune_higgs
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup sweep report ui dashboard test test-fast lint bench clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

setup: $(STAMP)  ## make .venv and install from the pinned constraints

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "fedprivacy needs Python 3.11 or newer; set PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[ray,postgresql,dashboard,dev]'
	touch $@

sweep: setup  ## run the demonstration grid and write its report
	$(BIN)/fedprivacy run +sweeps=demo

report: setup  ## write the demonstration sweep's report again
	$(BIN)/fedprivacy report outputs/demo

ui: setup  ## open the MLflow UI on the results (PORT=5000)
	$(BIN)/mlflow ui --backend-store-uri $(STORE) --host 127.0.0.1 --port $(PORT) --workers 1

dashboard: setup  ## watch a study in the browser (STUDY=outputs/tuning/tune_higgs or STORAGE=URL)
	$(BIN)/optuna-dashboard "$(or $(STORAGE),$(STUDY)/study.log)" --port $(PORT)

test: setup  ## run the whole test suite, as CI does
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-fast: setup  ## run the tests that take seconds
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not slow'

lint: setup  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup  ## rerun the benchmarks and write their result files; fails if one missed its target
	missed=; for script in benchmarks/*.py; do name=$$(basename $$script .py); \
	$(BIN)/python $$script --json benchmarks/results/$$name.json || missed="$$missed $$name"; done; \
	test -z "$$missed" || { echo "not as asked for:$$missed"; exit 1; }

clean:  ## remove the environment, results and generated data
	rm -rf $(VENV) outputs data mlflow.db* mlartifacts .pytest_cache .mypy_cache .ruff_cache
