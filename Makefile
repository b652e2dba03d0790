# Everything a person or CI does here, one target each. `make help` lists them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= python3
UV_VERSION := 0.13.9
MINUTES ?= 10
BUILDER ?= https://trainwright.dev/builders/unknown
CACHE := $(HOME)/.cache/trainwright
export UV_CACHE_DIR ?= $(CACHE)/uv

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
CLUSTER := tests/kind/cluster

.DEFAULT_GOAL := help

.PHONY: help
help: ## Explain every target
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  \033[1m%-15s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(INSTALLED): pyproject.toml constraints/dev.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	# Where PYTHONDONTWRITEBYTECODE is set, every import of torch would otherwise compile two thousand files again.
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes constraints/dev.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

.PHONY: install
install: $(INSTALLED) ## Make the virtual environment .venv with everything pinned (other targets do it by themselves)

.PHONY: demo
demo: $(INSTALLED) ## Train a CNN on real handwritten digits on this machine, no cluster needed
	$(BIN)/trainwright run manifests/examples/digits-cnn.yaml

.PHONY: check
check: $(INSTALLED) ## The fast inner loop: format, lint, types, import contracts, unit and property tests
	$(BIN)/ruff format --check --quiet
	$(BIN)/ruff check --quiet
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest --quiet --numprocesses=2 --dist=worksteal tests/unit tests/properties

.PHONY: test
test: $(INSTALLED) ## All tests: also real worker processes, and a real kind cluster, which is made if there is none (half an hour)
	$(MAKE) --jobs=2 check test-cluster
	$(BIN)/pytest --quiet --numprocesses=3 --dist=loadscope --no-loadscope-reorder --durations=20 \
		tests/kind tests/apiserver tests/local

# Bringing it up is mostly waiting, and is done by the time that the checks beside it are.
.PHONY: test-cluster
test-cluster: $(INSTALLED)
	$(CLUSTER)/up --temporary
	$(CLUSTER)/images

.PHONY: verify
verify: $(INSTALLED) ## Check that every generated file is what its source generates (part of check)
	$(BIN)/pytest --quiet -m generated tests/unit

.PHONY: generate
generate: $(INSTALLED) ## Write the generated files anew: CRD, kustomize base, API reference
	$(BIN)/python tests/generate.py

.PHONY: sbom
sbom: $(INSTALLED) ## Build the wheel into dist/, with a bill of materials for each image and a provenance statement; IMAGES="repo@sha256:..." adds pushed images
	$(BIN)/python release/statements.py --builder "$(BUILDER)" $(IMAGES)

.PHONY: record-version
record-version: $(INSTALLED) ## Before a release: record what this version stores and sends, for tests of later versions (tests/versions)
	$(BIN)/pytest --quiet tests/apiserver/record_version.py

.PHONY: kind-up
kind-up: $(INSTALLED) ## Bring up a kind cluster with both images loaded
	$(CLUSTER)/up
	$(CLUSTER)/images

.PHONY: kind-demo
kind-demo: kind-up ## On that cluster: install the chart, apply the demo job, watch it train
	$(CLUSTER)/demo

.PHONY: kind-down
kind-down: ## Delete the kind cluster
	$(CLUSTER)/down

.PHONY: bench
bench: $(INSTALLED) ## Measure training throughput against a bare PyTorch loop
	$(BIN)/python tests/bench/throughput.py

.PHONY: bench-operator
bench-operator: $(INSTALLED) ## Measure the operator on a real API server with 200 simulated nodes (10 minutes; builds KWOK once)
	$(BIN)/python tests/bench/control_plane.py

.PHONY: chaos
chaos: $(INSTALLED) ## Break everything on a kind cluster for 10 minutes, or MINUTES=60 (and 5 more to begin and end), and see that nothing is lost
	TRAINWRIGHT_CHAOS_MINUTES=$(MINUTES) $(BIN)/pytest --quiet tests/kind/alone/test_chaos.py

.PHONY: clean
clean: ## Remove what was made in this folder (caches under ~/.cache/trainwright stay)
	rm -rf $(VENV) dist runs .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
