# `make help` lists the targets. The first one that needs Python makes .venv and installs every pinned package into it.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# LiteLLM's proxy wants older versions than ours of what both use, so it has an environment of its own, and the tests of its
# hooks the files of the versions that they are held against.
LITELLM          := .venv-litellm
LITELLM_READY    := $(LITELLM)/.ready
LITELLM_VERSIONS := 1.106.12 1.108.7 1.110.2
# The generator of OpenAPI clients wants an older typer than ours. Mermaid draws the documentation's diagrams.
OPENAPI       := .venv-openapi
OPENAPI_READY := $(OPENAPI)/.ready
MERMAID       := .cache/mermaid/mermaid.min.js
# DATA: one or more logs (files or folders). TEST: a held-out log. LOG: one for the notebooks. ARGS: any other option.
DATA   ?=
TEST   ?=
ARGS   ?=
LOG    ?=
STORE  ?=
HOST   ?= 127.0.0.1
PORT   ?= 8080
BUNDLE ?= models/current
PINNED := --constraint constraints.txt --editable '.[train,notebooks,docs,dev]'

.DEFAULT_GOAL := help
.PHONY: help setup train serve test check notebooks docs pictures benchmark bench-serve bench-gateway bench-scale mlflow clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(READY) ## Make .venv and install everything, pinned

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; ok = (3, 11) <= v <= (3, 13); ok or sys.exit(f"Python 3.11 to 3.13 is needed, {sys.executable} is {v[0]}.{v[1]}: make PYTHON=/path/to/python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	# torch by itself first: asked for by another package, an unpinned torch brings gigabytes of CUDA with it
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt torch==2.13.0 uv
	# the rest by uv, in a fifth of the time; where it finds no package index (it does not read pip's configuration), by pip
	$(BIN)/uv pip install --quiet --python $(BIN)/python $(PINNED) || $(BIN)/python -m pip install --quiet $(PINNED)
	@touch $@

$(LITELLM_READY): constraints-litellm.txt | $(READY)
	$(BIN)/python -m venv --clear $(LITELLM)
	@($(BIN)/uv pip install --quiet --python $(LITELLM)/bin/python --requirement constraints-litellm.txt || \
	  $(LITELLM)/bin/python -m pip install --quiet --requirement constraints-litellm.txt) && \
	for version in $(LITELLM_VERSIONS); do \
	  $(BIN)/python -m pip download --quiet --no-deps --dest $(LITELLM)/wheels litellm==$$version || exit 1; \
	done && touch $@ || echo "LiteLLM's proxy could not be installed: its tests will be skipped" >&2

$(OPENAPI_READY): constraints-openapi.txt | $(READY)
	$(BIN)/python -m venv --clear $(OPENAPI)
	@($(BIN)/uv pip install --quiet --python $(OPENAPI)/bin/python --requirement constraints-openapi.txt || \
	  $(OPENAPI)/bin/python -m pip install --quiet --requirement constraints-openapi.txt) && touch $@ || \
	  echo "the generator of OpenAPI clients could not be installed: its test will be skipped" >&2

$(MERMAID):
	@mkdir -p $(@D) && cd $(@D) && npm pack mermaid@11.17.2 --silent >/dev/null && \
	  tar xzOf mermaid-11.17.2.tgz package/dist/mermaid.min.js > part && mv part mermaid.min.js && rm -f mermaid-*.tgz || \
	  { rm -f part; echo "npm could not fetch Mermaid: diagrams are shown as their text" >&2; }

train: $(READY) ## Train a router and write models/current (DATA=path for your own log, else a simulated one)
	$(BIN)/router-train run $(foreach path,$(DATA),--data $(path)) $(foreach path,$(TEST),--test $(path)) $(ARGS)

serve: $(READY) ## Serve models/current on http://127.0.0.1:8080 (trains first if there is no bundle)
	@if [ ! -e $(BUNDLE) ] && [ "$(BUNDLE)" = models/current ]; then $(MAKE) --no-print-directory train; fi
	$(BIN)/router-serve --bundle $(BUNDLE) --host $(HOST) --port $(PORT)

test: $(READY) $(LITELLM_READY) $(OPENAPI_READY) ## Run the tests, a worker for each processor up to four (ARGS="-n 0 -k name" for some of them in one process)
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadgroup --no-loadscope-reorder --durations 15 $(ARGS)

check: $(READY) ## Lint and type-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

notebooks: $(READY) ## Run the notebooks on a bundle and a log, top to bottom, into out/ as HTML (BUNDLE=folder, LOG=path, STORE=decisions)
	@if [ ! -e $(BUNDLE) ] && [ "$(BUNDLE)" = models/current ]; then $(MAKE) --no-print-directory train; fi
	BUNDLE=$(abspath $(BUNDLE)) LOG=$(if $(LOG),$(abspath $(LOG))) STORE=$(STORE) $(BIN)/jupyter-nbconvert --execute --to html --output-dir out notebooks/*.ipynb

docs: $(READY) $(MERMAID) ## Build the documentation into site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

pictures: $(READY) ## Take the pictures of the page and the frontier that README.md shows (needs Chromium)
	$(BIN)/python -m docs.pictures

mlflow: $(READY) ## Open MLflow's pages on http://127.0.0.1:5000
	$(BIN)/mlflow ui --backend-store-uri sqlite:///mlruns/mlflow.db --host 127.0.0.1 --port 5000

benchmark: $(READY) ## Measure on five seeds and write docs/benchmarks.md (BENCH_DATA=folder of public outcomes)
	$(BIN)/python -m benchmarks.routing.run $(ARGS)

bench-serve: $(READY) ## Measure serving with wrk and write docs/bench-serve.json (ARGS="--soak-minutes 10" for a long load)
	$(BIN)/python -m benchmarks.serving.run $(ARGS)

bench-gateway: $(READY) $(LITELLM_READY) ## Measure LiteLLM's proxy with the plug-in (ARGS="--requests 500 --calls 200 --no-loop" for less)
	$(BIN)/python -m benchmarks.gateway.run $(ARGS)

bench-scale: $(READY) ## Measure how training, serving and the store grow and write docs/scale.json (ARGS="--only NAME" for a part)
	$(BIN)/python -m benchmarks.scale.run $(ARGS)

clean: ## Remove what was installed, cached and trained
	rm -rf $(VENV) $(LITELLM) $(OPENAPI) .cache mlruns out site $(filter-out models/README.md,$(wildcard models/*))
