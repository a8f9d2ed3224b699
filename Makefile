# Two commands for a fresh machine: `make run` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
UV := $(BIN)/uv
ARGS ?=
export UV_NO_PROGRESS = 1
# Where it is set, each process compiles all that it imports: a command takes twice as long.
unexport PYTHONDONTWRITEBYTECODE

# The code generator is older than the runtimes it is used with, on purpose: see docs/adr/0004.
PROTO_TOOLS := grpcio-tools==1.76.0 protobuf==6.32.1 mypy-protobuf==5.1.0
PROTOS := $(wildcard proto/sfm/v1/*.proto)

.PHONY: help run test test-lua faults up down demo proto lint verify fix docs bench clean lock verify-proto verify-types verify-floors verify-lint baseline

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml requirements/dev.txt
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 …")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(UV) || $(BIN)/python -m pip install -q --disable-pip-version-check uv
	@$(UV) pip install -q --python $(BIN)/python --require-hashes -r requirements/dev.txt
	@$(UV) pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

run: $(READY) ## Serve the embedded default on loopback; data in ./var
	@$(BIN)/sfm serve $(ARGS)

test: $(READY) ## Every test, with the real services it needs (ARGS="-k rho" for some)
	@$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

test-lua: $(READY) ## The cache protocol's scripts on a real Redis, by themselves and with concurrent writers
	@$(BIN)/python -m pytest tests/lua $(ARGS)

faults: $(READY) ## Harm servers, Postgres and Redis under clients, and count what is lost or stale (ARGS="--kills 500 --reads 1000000 --minutes 60")
	@$(BIN)/python -m tests.faults.long $(ARGS)

up: $(READY) ## Start a Postgres and a Redis to develop with, and say what to type next; theirs is in ./var/services
	@$(BIN)/python -m tests.support.services up $(ARGS)

down: $(READY) ## Stop what `make up` started; the Postgres keeps its data, the Redis was but a cache
	@$(BIN)/python -m tests.support.services down $(ARGS)

demo: $(READY) ## The cognitive manager of examples/ against a server of its own; on Postgres if SFM_POSTGRES_URL is set
	@$(BIN)/python -m examples.cognitive_manager.demo $(ARGS)

bench: $(READY) ## Measure beside peers, as ratios of one run; JSON into benchmarks/results
	@$(UV) pip install -q --python $(BIN)/python --require-hashes -r requirements/bench.txt
	@$(BIN)/python -m benchmarks $(ARGS)

lint: verify-lint ## Format and lint, without changing anything

verify: verify-lint verify-types verify-floors verify-proto ## All that is checked without running the product

verify-lint: $(READY)
	@$(BIN)/ruff format --check -q . && $(BIN)/ruff check -q .
	@$(BIN)/buf lint && $(BIN)/buf format --diff --exit-code

verify-types: $(READY)
	@$(BIN)/mypy && $(BIN)/mypy examples/cognitive_manager

verify-floors: $(READY)
	@$(BIN)/lint-imports --no-logo --no-cache >$(VENV)/floors.txt || { cat $(VENV)/floors.txt; exit 1; }

verify-proto: $(READY)
	@$(BIN)/buf breaking --against proto/baseline.binpb
	@$(MAKE) -s proto OUT=$(VENV)/generated
	@diff -r -x __pycache__ generated $(VENV)/generated || { echo "generated/ is not what proto/ says: make proto"; exit 1; }

fix: $(READY) docs ## Format, mend what can be mended, write what is generated from the code
	@$(BIN)/ruff check -q --fix . ; $(BIN)/ruff format -q . ; $(BIN)/buf format -w

docs: $(READY) ## Write docs/CONFIGURATION.md from the settings
	@$(BIN)/python scripts/configuration_doc.py

OUT ?= generated
proto: $(READY) ## Write generated/ from proto/
	@rm -rf $(OUT) && mkdir -p $(OUT)
	@$(UV) run -q --no-project --isolated --python $(BIN)/python $(addprefix --with ,$(PROTO_TOOLS)) -- python -m grpc_tools.protoc \
	  -I proto --python_out=$(OUT) --grpc_python_out=$(OUT) --mypy_out=quiet:$(OUT) --mypy_grpc_out=quiet:$(OUT) $(PROTOS)
	@touch $(OUT)/sfm/v1/__init__.py

baseline: $(READY) ## Renew the image that `buf breaking` compares with (deliberately, until 3.0.0)
	@$(BIN)/buf build --exclude-source-info -o proto/baseline.binpb

lock: ## Renew requirements/ with the newest releases that fit; names and hashes, no addresses
	@test -x $(UV) || { $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install -q --disable-pip-version-check uv; }
	@for group in dev bench; do $(UV) pip compile -q --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
	  --no-emit-find-links --all-extras --group dev $$([ $$group = dev ] || echo --group $$group) pyproject.toml -o requirements/$$group.txt; done

clean: ## Remove what was built and the environment (./var, the data, stays)
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build
