# For people and CI. Every target can be run at any time and repeated.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup python check test proto lock demo demo-down cluster cluster-down bench soak bundle
# The targets share one virtual environment, one Docker and the terminal.
.NOTPARALLEL:

BIN := .venv/bin
# Most tests wait for etcd and Docker, so more workers than processors. A module's tests stay together, because they share
# what they start. tests/conftest.py orders the modules.
WORKERS := --numprocesses 3 --dist loadfile --no-loadscope-reorder
SCRIPTS = .ci/run $(sort $(shell find deploy -name '*.sh'))

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install missing system packages, a running Docker Engine, .venv
	@deploy/setup.sh

# Install only .venv, for targets without Docker and etcd.
python:
	@deploy/setup.sh python

check: python ## Check style, types, layers, words, generated code, pinned versions, shell scripts
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

soak: setup ## Run the property tests with random examples, upgrade a cluster of an earlier revision, then play 300 random schedules of faults and deploys; SEEDS=1000 for more
	$(BIN)/python -m pytest -q --hypothesis-profile=random -m hypothesis tests/unit
	$(BIN)/python -m tests.upgrade
	SCHEDULES="$$(seq $(or $(SEEDS),300))" $(BIN)/python -m pytest -q tests/schedules $(ARGS)

proto: python ## Generate Python code from the messages in proto/
	deploy/proto.sh

lock: ## Update constraints.txt, the pinned versions for setup
	@deploy/lock.sh

demo: setup ## Start a local cluster, deploy examples/shop with Redis and memcached, show its page
	@deploy/demo.sh up

demo-down: ## Stop the demo; PURGE=1 also removes its data and images
	@deploy/demo.sh down $(if $(PURGE),--purge)

cluster: setup ## Start three hosts, a three-member etcd and two controllers on this machine; ARGS="--hosts 5" for more
	@deploy/cluster.sh up $(ARGS)

cluster-down: ## Stop and remove the test cluster
	@deploy/cluster.sh down

bench: setup ## Measure against docker run, Docker's own restarts and plain etcd; ARGS="--only scale --runs 5" goes to the benchmark
	$(BIN)/python -m bench $(ARGS)

# Python alone is needed: apt resolves and downloads packages, and installs none.
bundle: python ## Build dist/devopsellence-<version>-<architecture>.tar.xz, all that a machine of a cluster runs; ARGS="--etcd FOLDER" for another etcd
	$(BIN)/python -m deploy.bundle $(ARGS)
