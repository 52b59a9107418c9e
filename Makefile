# `make` lists everything. Only Python 3.11 (with venv) and make are assumed.
PYTHON ?= python3
# Never by the scripts beside it, whose first line cannot name every path; isolated from the shell's Python settings.
RUN := "$${QUADRILLE_VENV:-.venv}/bin/python" -I -X utf8
.DEFAULT_GOAL := help
TYPED := chassis/src cli/src console/src sandbox/src why/src auditor/src deploy tests $(wildcard services/*/src sandbox/tests console/tests why/tests services/*/tests bench)
PROFILE ?= ci
SEED ?= 14
.PHONY: help setup demo up down status test test-all check bench jaeger promtool saga format

help: ## list everything
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## virtual environment from the hashed lock file, our packages in it (every target below does it)
	@$(PYTHON) -I deploy/bootstrap.py

demo: setup ## start everything, place 20 orders, show expected = actual; leaves it running
	@$(RUN) -m quadrille_cli demo

up: setup ## start the whole stack and leave it running
	@$(RUN) -m quadrille_cli up --detach

down: setup ## stop it; the data stays (quadrille down --wipe removes it)
	@$(RUN) -m quadrille_cli down

status: setup ## how every process stands, what flows, and what to do now
	@$(RUN) -m quadrille_cli status

test: check jaeger promtool ## every gate, then the tests on the real stack, on ports and data of their own
	@"$${QUADRILLE_VENV:-.venv}/bin/python" -m pytest --numprocesses 3 --dist loadgroup --no-loadscope-reorder

test-all: test ## the same, then what takes long: every pair of faults, every crash point five times, ten minutes of chaos, twenty clean runs
	@$(RUN) -m quadrille_cli chaos --for 10m --seed "$(SEED)" --rate 10
	@"$${QUADRILLE_VENV:-.venv}/bin/python" -m tests.faults "$(SEED)" 0
	@"$${QUADRILLE_VENV:-.venv}/bin/python" -m tests.audit "$(SEED)" 20
	@"$${QUADRILLE_VENV:-.venv}/bin/python" -m tests.crash "$(SEED)" 5
	@"$${QUADRILLE_VENV:-.venv}/bin/python" -m tests.crash --recovery 5

check: setup ## the gates: lint, types, import contracts, schemas, generated pages, sizes
	@$(RUN) -m ruff check --quiet .
	@$(RUN) -m ruff format --check --quiet .
	@$(RUN) -m mypy --no-error-summary $(TYPED)
	@$(RUN) -c "from importlinter.cli import lint_imports_command as run; run()"
	@$(RUN) -m quadrille_cli schema check
	@$(RUN) -m quadrille_cli saga --check
	@$(RUN) tests/architecture/sizes.py

bench: setup ## measure against peers and floors: PROFILE=ci|full, CASE=relay_drain, FORCE=1 on a busy machine
	@"$${QUADRILLE_VENV:-.venv}/bin/python" -X utf8 -m bench --profile "$(PROFILE)" --case "$(CASE)" $(if $(FORCE),--force) $(if $(BASELINE),--baseline)

jaeger: setup ## build the local Jaeger from its Go modules (minutes, once; needs Go)
	@$(RUN) -c "from quadrille_cli.stack.servers import jaeger; jaeger.main()"

promtool: setup ## build Prometheus' promtool from its Go modules, for the tests of the alerts (minutes, once; needs Go)
	@$(RUN) -c "from quadrille_cli.stack.servers import promtool; promtool.main()"

saga: setup ## write the generated pages: saga, proofs, metrics, AsyncAPI
	@$(RUN) -m quadrille_cli saga

format: setup ## format the sources
	@$(RUN) -m ruff format --quiet .
