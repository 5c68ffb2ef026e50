# Everything a person or a CI job calls; `make help` lists it. The first call sets itself up in .venv.
#
# Set-up speaks on stderr, so that what a target prints on stdout is its result and nothing else:
# `make demo ARGS="--exit --output json"` gives one JSON object.

MAKEFLAGS += --no-print-directory --no-builtin-rules
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
PROJECTS := $(sort $(wildcard libs/*/pyproject.toml services/*/pyproject.toml))
PACKAGES := $(patsubst %/pyproject.toml,%,$(PROJECTS))
SOURCES := $(wildcard libs services tests benchmarks tools conftest.py)

# The tests spread over the cores, a file at a time; PYTEST_ARGS="-n 0 -k name" narrows them down. The end-to-end files
# hold few tests and take longest: they start first, which xdist's own order, by the number of tests, would undo.
TESTS := tests/e2e $(filter-out tests/e2e,$(patsubst %/,%,$(wildcard tests/*/))) libs services
# Two workers more than cores: many tests wait for servers, and for processes that they started.
WORKERS := $(shell echo $$(($$(nproc 2>/dev/null || echo 2) + 2)))
PYTEST_ARGS ?= -n $(WORKERS) --maxprocesses=6 --dist=loadfile --no-loadscope-reorder $(TESTS)
# What the user may hand on: to the demo, to the stack.
ARGS ?=
PROFILES ?=
export COMPOSE_PROFILES := $(PROFILES)

say = @printf '==> %s\n' '$(1)' >&2

# ---------------------------------------------------------------------------------------------- using it

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(VENV)/.runtime ## Run the whole product against a simulated org (ARGS="--exit --output json")
	@exec $(BIN)/reclaim demo $(ARGS)

.PHONY: up
up: ## Build the images and start the container stack (PROFILES=sandbox adds the simulated org)
	@tools/stack up

.PHONY: down
down: ## Stop the container stack; its data stays (ARGS=--volumes deletes it)
	@tools/stack down $(ARGS)

# ---------------------------------------------------------------------------------------------- checking it

.PHONY: check
check: ## Lint, types, boundaries, tests; says how long each took
	@$(MAKE) $(VENV)/.installed
	@for step in lint types boundaries test; do \
	    start=$$SECONDS; $(MAKE) $$step; printf '==> %s: ok, %d s\n' $$step $$((SECONDS - start)); \
	done; printf '==> check: ok, %d s\n' $$SECONDS

.PHONY: test
test: $(VENV)/.installed ## Run every test, with a real RabbitMQ and PostgreSQL (PYTEST_ARGS="-k name")
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

.PHONY: rig
rig: $(VENV)/.installed ## Kill real services at every named point, three times, and at random (ARGS="--times 1 --kills 20")
	@$(BIN)/python -m tests.support.servers $(BIN)/python -m tests.rig $(ARGS)

.PHONY: lint
lint: $(VENV)/.installed ## Check style and formatting
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)

.PHONY: format
format: $(VENV)/.installed ## Format the code, and mend what the linter can
	@$(BIN)/ruff format $(SOURCES)
	@$(BIN)/ruff check --fix $(SOURCES)

.PHONY: types
types: $(VENV)/.installed ## Check the types
	@$(BIN)/mypy $(addsuffix /src,$(PACKAGES)) conftest.py tests/support/*.py tests/containers/stack.py

.PHONY: boundaries
boundaries: $(VENV)/.installed ## Check which package may import which
	@$(BIN)/lint-imports

.PHONY: simulate
simulate: $(VENV)/.installed ## Play histories with every kind of fault (SEEDS=10000), or one again (SEED=123 TRACE=1)
	@$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED) $(if $(TRACE),--trace),--seeds $(or $(SEEDS),1000) --first $(or $(FIRST),0))

.PHONY: fuzz
fuzz: $(VENV)/.installed ## Alter a million webhooks in process, 20,000 over TCP; none may be accepted (ARGS="--requests 10000")
	@$(BIN)/python -m tests.fuzz $(ARGS)

.PHONY: test-long
test-long: $(VENV)/.installed ## Play 10,000 more histories, 100 on both databases, and look for each planted bug (an hour)
	@$(BIN)/python -m pytest -m long $(PYTEST_ARGS)

.PHONY: test-node
test-node: $(VENV)/.scimmy ## Hold the SCIM connector to a second server, in JavaScript (needs Node.js and npm)
	@RECLAIM_TEST_SCIMMY=$(CURDIR)/$(VENV)/scimmy \
	    $(BIN)/python -m pytest libs/connectors/tests/test_connectors_seats_contract.py -m node $(PYTEST_ARGS)

.PHONY: test-browser
test-browser: $(VENV)/.installed ## Use the scanner's and the desks' pages in Chromium, on a phone, by keyboard, without scripts (needs Chromium)
	@$(BIN)/python -m pytest tests/browser -m browser

.PHONY: test-containers
test-containers: $(VENV)/.installed ## Run the story against the running container stack (after: make up PROFILES=sandbox)
	@RECLAIM_STACK_URL=$${RECLAIM_STACK_URL:-http://127.0.0.1:8080} \
	    $(BIN)/python -m pytest tests/containers -m containers

.PHONY: bench
bench: $(VENV)/.installed ## Run the benchmarks, or one (BENCH=hop); each prints a ratio against its ceiling
	@for bench in $(or $(BENCH:%=benchmarks/%.py),$(filter-out benchmarks/_%,$(sort $(wildcard benchmarks/*.py)))); do \
	    printf '==> %s\n' "$$bench" >&2; \
	    $(BIN)/python -m tests.support.servers $(BIN)/python "$$bench" $(ARGS); \
	done

# ---------------------------------------------------------------------------------------------- setting it up

.PHONY: lock
lock: $(VENV)/.runtime ## Resolve the dependencies again into requirements/*.txt
	@$(BIN)/pip install --quiet uv >&2
	@$(BIN)/uv lock --upgrade
	@$(BIN)/uv export --quiet --all-packages --no-emit-workspace --no-header --no-annotate --no-dev -o requirements/runtime.txt
	@$(BIN)/uv export --quiet --all-packages --no-emit-workspace --no-header --no-annotate -o requirements/dev.txt

.PHONY: clean
clean: ## Remove caches and what the demo left; the environment stays
	@find . -path ./$(VENV) -prune -o -type d \( -name __pycache__ -o -name .mypy_cache -o -name .ruff_cache \
	    -o -name .pytest_cache -o -name .hypothesis -o -name .import_linter_cache \) -print0 | xargs -0 rm -rf
	@rm -rf var

.PHONY: distclean
distclean: clean ## Remove the environment as well
	@rm -rf $(VENV)

$(BIN)/python:
	@tools/make-venv $(VENV)

# The SCIM server of `make test-node`: what its lock file names, checked against its hashes.
$(VENV)/.scimmy: $(wildcard libs/connectors/tests/scimmy/*) $(VENV)/.installed
	@command -v npm >/dev/null || { echo "make test-node needs Node.js 20 or newer, with npm" >&2; exit 1; }
	@mkdir -p $(VENV)/scimmy && cp libs/connectors/tests/scimmy/* $(VENV)/scimmy/
	@npm ci --prefix $(VENV)/scimmy --ignore-scripts --no-audit --no-fund >&2
	@touch $@

# What the product needs, and its own packages in place.
$(VENV)/.runtime: requirements/runtime.txt $(PROJECTS) | $(BIN)/python
	$(call say,installing the locked packages of requirements/runtime.txt)
	@$(BIN)/python -m pip install --disable-pip-version-check --require-hashes -r requirements/runtime.txt >&2
	$(call say,installing $(PACKAGES))
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation $(PACKAGES:%=-e %) >&2
	@touch $@

# The same, and what the checks need.
$(VENV)/.installed: requirements/dev.txt pyproject.toml $(VENV)/.runtime
	$(call say,installing the locked packages of requirements/dev.txt)
	@$(BIN)/python -m pip install --disable-pip-version-check --require-hashes -r requirements/dev.txt >&2
	@touch $@
