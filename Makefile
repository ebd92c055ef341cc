# Everything needs only Python 3.11 or newer and make; `make help` lists the targets.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# two workers of one thread each; fixtures that train are shared by both
PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal
LABEL_VENV ?= .venv-label
LABEL_BIN := $(LABEL_VENV)/bin
# modules that only .venv-label can import; label-test runs their examples
LABEL_ONLY := app datastore infer strategies train
DEMO ?= demo
DATA ?=
# ONNX Runtime for browsers, which npm fetches from the registry it is set to
ORT_WEB_VERSION := 1.30.0
ORT_WEB := build/onnxruntime-web-$(ORT_WEB_VERSION)
WEB_DEMO ?= build/web-demo

.DEFAULT_GOAL := help
.PHONY: help install label-env label-test demo test lint types floors unit realdata slow long browser tutorials docs ort-web web-demo wheel-test benchmark clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sort | awk 'BEGIN {FS = ":.*## "} {printf "  %-12s %s\n", $$1, $$2}'

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,tracking]'
	@touch $@

install: $(VENV)/.installed  ## Set up .venv with everything

# MONAI Label's own requirements would bring SAM 2 and another torch, which nothing here loads. Where what
# its stock app loads besides cannot be had, the tests of that app are skipped and say so
$(LABEL_VENV)/.installed: pyproject.toml constraints-label.txt
	$(PYTHON) -m venv $(LABEL_VENV)
	$(LABEL_BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints-label.txt -e '.[label]' pytest pytest-xdist
	-$(LABEL_BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints-label.txt expiring-dict scikit-image shapely sortedcontainers
	-$(LABEL_BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints-label.txt --no-deps torchvision
	$(LABEL_BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps monailabel==0.8.5
	@touch $@

label-env: $(LABEL_VENV)/.installed  ## Set up .venv-label with MONAI Label

demo: install  ## Run the main job on phantoms, or on DATA=/path/to/Dataset_BUSI_with_GT
	$(BIN)/python scripts/demo.py --out $(DEMO) $(if $(DATA),--data "$(DATA)")

test: lint types floors unit  ## Lint, types, floors, tests with their coverage, docstrings' examples

lint: install  ## Check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install  ## Check types
	$(BIN)/mypy

floors: install  ## Check that each floor imports only from floors below it
	$(BIN)/lint-imports

unit: install  ## Run the fast tests with coverage, and the examples in the docstrings
	$(PYTEST) --cov --cov-report=term:skip-covered --cov-fail-under=90 --doctest-modules $(patsubst %,--ignore=busi_monai/label_app/%.py,$(LABEL_ONLY)) tests busi_monai

realdata: install  ## Run the tests on the real datasets beside the checkout
	$(PYTEST) -m realdata

slow: install  ## Run the long tests
	$(PYTEST) -m slow

long: install  ## Run the long tests, and those on the real datasets, side by side
	$(PYTEST) -m "slow or realdata"

label-test:  ## Run the tests of the MONAI Label app, a real server included, in .venv-label
	$(PYTHON) scripts/label_tests.py --venv $(LABEL_VENV)

browser: install  ## Run the tests of the page in Chromium
	$(PYTEST) -n0 -m browser

tutorials: install  ## Run the notebooks and keep their outputs in them
	$(BIN)/python scripts/run_tutorials.py

docs: install  ## Build the documentation site in build/site; a broken link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

$(ORT_WEB):
	mkdir -p build
	npm pack --silent --pack-destination build onnxruntime-web@$(ORT_WEB_VERSION)
	rm -rf build/package
	tar -xzf $(ORT_WEB).tgz -C build
	mv build/package $@

ort-web: $(ORT_WEB)  ## Fetch ONNX Runtime for browsers with npm
	@echo $(ORT_WEB)

web-demo: install $(ORT_WEB)  ## Make the page that predicts in the browser, in WEB_DEMO
	$(BIN)/busi-monai export --format web --runtime $(ORT_WEB) --out $(WEB_DEMO) --overwrite

wheel-test: install  ## Install wheel and sdist alone, each in a fresh environment, and use them
	$(BIN)/python scripts/wheel_test.py

benchmark: install  ## Measure training and prediction speed
	$(BIN)/python scripts/benchmark_training.py

clean:  ## Remove what the targets made, apart from the environment
	rm -rf $(DEMO) build dist .pytest_cache .mypy_cache .ruff_cache .coverage*
