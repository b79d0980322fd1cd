PY ?= .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help install fmt lint type test slow bench demo

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: ## a virtual environment in .venv with everything for development
	python3 -m venv .venv
	$(PY) -m pip install --quiet -e '.[test]' ruff basedpyright import-linter

fmt: ## format and mend what can be mended
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

lint: ## style, layers
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	PATH="$(dir $(abspath $(PY))):$$PATH" lint-imports

type: ## strict types over package and tests
	$(PY) -m basedpyright --pythonpath $(PY)

test: ## the fast suite, about a minute
	$(PY) -m pytest -m "not slow"

slow: ## kill loops and whole datasets
	$(PY) -m pytest -m slow

bench: ## speed and memory as ratios against yardsticks of the same run
	$(PY) -m benchmarks

demo: ## two simulated models on the quickstart dialogues
	$(PY) -m convbatch run datasets/quickstart.jsonl
