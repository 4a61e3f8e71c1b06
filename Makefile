# `make demo` and `make test` work on a bare machine with Python 3.11 or newer, pip and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SET_UP := $(VENV)/.set-up

.DEFAULT_GOAL := help
.PHONY: help demo test lint format slow bench clean

help:  ## print this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

$(SET_UP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[prefect,train,dev]'
	touch $(SET_UP)

demo: $(SET_UP)  ## set up, then build, report and train on samples/, offline
	HF_HUB_OFFLINE=1 $(BIN)/sft-data run pipelines/quickstart.yaml

test: $(SET_UP)  ## set up, then all fast tests, in as many processes as there are cores (at most four)
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile

slow: $(SET_UP)  ## the tests that take longer than about ten seconds, in a browser, or on a Ray cluster
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[ray,interop,semantic]'
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest --durations 12 -m "(slow or browser or ray) and not gpu"

lint: $(SET_UP)  ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(SET_UP)  ## let ruff format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove the environment and what the demo wrote
	rm -rf $(VENV) store runs
