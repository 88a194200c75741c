# `make demo` and `make test` each do all their own set-up: Python 3.11+, pip, gcc and git are enough.

PYTHON ?= python3
VENV   ?= .venv
# Installed first, by exact version: pip then takes a CPU build where one is on offer (point pip at an index or a folder
# that has one), and nothing that follows replaces it. On a machine with a GPU the plain build is the right one.
TORCH  ?= torch==2.13.0
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: install demo test lint clean

install: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	mkdir -p $(VENV)/typing && ln -sfn $(CURDIR) $(VENV)/typing/emo
	touch $(STAMP)

demo: install
	$(BIN)/emo demo demo

test: install lint
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) demo build *.egg-info
