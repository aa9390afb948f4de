# `make demo` and `make test` do everything on a fresh machine that has Python 3.11 to 3.13.
# Uses uv where it is installed, pip otherwise.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
# an activated environment is not needed: every command runs from $(BIN)
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DBT_SEND_ANONYMOUS_USAGE_STATS := false

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo test lint dbt-test pytest conformance audit chaos format lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "%-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## make the virtual environment and install the locked packages

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(not (3, 11) <= v < (3, 14))' || \
		{ echo "Hindcast needs Python 3.11 to 3.13; $(PYTHON) is $$($(PYTHON) -V). Say make PYTHON=python3.12"; exit 1; }
	@if command -v uv >/dev/null; then \
		uv venv --quiet --allow-existing --python $(PYTHON) $(VENV) && \
		uv pip install --python $(BIN)/python --require-hashes --no-deps -r requirements.lock && \
		uv pip install --python $(BIN)/python --no-deps --no-build-isolation -e .; \
	else \
		$(PYTHON) -m venv $(VENV) && \
		$(BIN)/python -m pip install --quiet --progress-bar on --disable-pip-version-check --require-hashes --no-deps -r requirements.lock && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .; \
	fi
	@touch $@

demo: $(READY) ## the main job: from raw files to scored flights
	hindcast run

test: lint dbt-test pytest ## everything that must pass

lint: $(READY) ## style and types of Python and SQL, and the rules for dbt models
	ruff format --check .
	ruff check .
	mypy
	dbt parse --quiet
	dbt-bouncer run --config-file dbt-bouncer.yml
	sqlfluff lint --disable-progress-bar models tests/data

dbt-test: $(READY) ## build the dbt project from the raw files, with its unit and data tests
	python -m landing
	dbt build

pytest: $(READY) ## the Python tests, with coverage
	dbt parse --quiet
	pytest -n auto --cov --cov-report=term

conformance: $(READY) ## 20,000 generated joins, and the table of what Feast's own stores get wrong
	HINDCAST_CASES=20000 pytest -q tests/offline_store/test_conformance.py
	python tests/offline_store/compare_stores.py

audit: $(READY) ## a project full of leaks, and which test catches which
	python -m benchmarks.audit

chaos: $(READY) ## the worst day: 200 ticks, and everything that can go wrong with them
	hindcast replay --faults 1

format: $(READY) ## bring Python and SQL into shape
	ruff format .
	ruff check --fix .
	sqlfluff fix --disable-progress-bar models tests/data

lock: $(READY) ## renew requirements.lock (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
		--no-emit-index-url --no-emit-find-links --no-strip-extras --extra dev -o requirements.lock pyproject.toml

clean: ## remove what the commands above made, the virtual environment excepted
	rm -rf data artifacts target logs mlruns
