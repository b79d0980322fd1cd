PY ?= .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help install fmt lint type test mutants slow torture check demo bench fuzz lock

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: ## a virtual environment in .venv with everything for development
	python3 -m venv .venv
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet --editable '.[test]' --group lint

fmt: ## format, and mend what can be mended
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

lint: ## style, and which file may import which
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -c 'from importlinter.cli import lint_imports_command as check; check()' --no-logo

type: ## strict types over package, tests and benchmarks
	$(PY) -m basedpyright --pythonpath $(PY)

test: ## the fast suite
	$(PY) -m pytest

mutants: ## thirty deliberate bugs; the tests named for each must fail
	$(PY) -m pytest -m slow tests/test_mutants.py

slow: ## the slow proofs: kill loops, whole datasets, memory
	$(PY) -m pytest -m slow

torture: fuzz ## `make fuzz`, and 10,000 runs in virtual time against every law; SEEDS=n and FIRST=n for others
	$(PY) -m tests.support.torture

check: ## what .ci/run checks, in the environment of `make install`
check: lint type test slow

demo: ## two simulated models on the quickstart dialogues, side by side
	$(PY) -m convbatch run datasets/quickstart.jsonl
	$(PY) -m convbatch table latest --wide reply

bench: ## speed, memory and start as ratios against yardsticks of the same run
	$(PY) -m benchmarks

fuzz: ## a million bent inputs for everything that reads what others wrote
	$(PY) -m tests.support.fuzz --inputs 1000000 --seed 1

lock: ## bring uv.lock up to date with pyproject.toml
	uv lock
