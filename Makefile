# `make` lists everything. Only Python 3.11 (with venv) and make are assumed.
PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help
TYPED := chassis/src cli/src sandbox/src deploy tests $(wildcard services/*/src chassis/tests sandbox/tests services/*/tests bench)
.PHONY: help setup demo up down status test check jaeger saga format

help: ## list everything
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## virtual environment from the hashed lock file, our packages in it (every target below does it)
	@$(PYTHON) deploy/bootstrap.py

demo: setup ## start everything, place 20 orders, show expected = actual; leaves it running
	@$(BIN)/quadrille demo

up: setup ## start the whole stack and leave it running
	@$(BIN)/quadrille up --detach

down: setup ## stop it; the data stays (quadrille down --wipe removes it)
	@$(BIN)/quadrille down

status: setup ## processes with memory and CPU
	@$(BIN)/quadrille status

test: check jaeger ## every gate, then the tests on the real stack, on ports and data of their own
	@$(BIN)/python -m pytest --numprocesses 3 --dist loadgroup --no-loadscope-reorder

check: setup ## the gates: lint, types, import contracts, schemas, generated pages, sizes
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy --no-error-summary $(TYPED)
	@$(BIN)/lint-imports
	@$(BIN)/quadrille schema check
	@$(BIN)/quadrille saga --check
	@$(BIN)/python tests/architecture/sizes.py

jaeger: setup ## build the local Jaeger from its Go modules (minutes, once; needs Go)
	@$(BIN)/python -c "from quadrille.stack import jaeger; jaeger.main()"

saga: setup ## write docs/saga.md from the handlers' signatures
	@$(BIN)/quadrille saga

format: setup ## format the sources
	@$(BIN)/ruff format --quiet .
