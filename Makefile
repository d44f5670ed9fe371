# For a person and for CI alike. Every target can be run at any time, again and again.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup python check test proto lock demo demo-down cluster cluster-down bench
# The targets share one virtual environment, one Docker and the terminal.
.NOTPARALLEL:

BIN := .venv/bin
# Most tests wait for etcd and Docker; a module's tests stay together, because they share what they start. Their order
# is tests/conftest.py's.
WORKERS := --numprocesses 3 --dist loadfile --no-loadscope-reorder
SCRIPTS = .ci/run $(sort $(shell find deploy -name '*.sh'))

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what is missing: system packages, a Docker Engine that answers, .venv
	@deploy/setup.sh

# Only .venv, for the targets that need neither Docker nor etcd.
python:
	@deploy/setup.sh python

check: python ## Check style, types, layers, generated code, pinned versions, shell scripts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	deploy/proto.sh --check
	$(BIN)/python -m pytest -q tests/unit/project
	@for script in $(SCRIPTS); do bash -n "$$script" || exit 1; done
	@if command -v shellcheck >/dev/null; then shellcheck -x $(SCRIPTS); else echo "shellcheck is not installed: scripts only parsed"; fi

test: setup ## Run every test, with a real etcd and a real Docker Engine; ARGS="-k word" goes to pytest
	$(BIN)/python -m pytest $(WORKERS) $(ARGS)

proto: python ## Generate the code of the messages in proto/
	deploy/proto.sh

lock: ## Renew constraints.txt, the versions that setup installs
	@deploy/lock.sh

demo: setup ## Start a local cluster, deploy examples/shop with Redis and memcached, show its page
	@deploy/demo.sh up

demo-down: ## Stop what the demo started; PURGE=1 also forgets its data and images
	@deploy/demo.sh down $(if $(PURGE),--purge)

cluster: setup ## Start three hosts, a three-member etcd and two controllers on this machine; ARGS="--hosts 5" for more
	@deploy/cluster.sh up $(ARGS)

cluster-down: ## End and forget what cluster started
	@deploy/cluster.sh down

bench: setup ## Measure against docker run, Docker's own restarts and plain etcd; ARGS="--only scale --runs 5" goes to the benchmark
	$(BIN)/python -m bench $(ARGS)
