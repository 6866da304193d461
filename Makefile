# Two commands, each doing all of its own set-up: make train, make test.
CONFIG ?= sac/quickstart
VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || echo python3)
BIN = $(VENV)/bin
SETTINGS ?=

.PHONY: train test lint types clean

train: $(VENV)/.train
	$(BIN)/rlsuite train $(CONFIG) --video $(SETTINGS)

test: lint types $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

$(VENV)/bin/python:
	@echo "setting up $(VENV): a minute or two, once"
	$(PYTHON) -m venv $(VENV)

# torch first and by version: what is asked for as a dependency could be a GPU build of gigabytes.
$(VENV)/.torch: constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install -qq --disable-pip-version-check $$(grep '^torch==' constraints.txt)
	@touch $@

$(VENV)/.train: pyproject.toml $(VENV)/.torch
	$(BIN)/pip install -qq --disable-pip-version-check -c constraints.txt -e '.[mujoco,report]'
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.torch
	$(BIN)/pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.train

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
