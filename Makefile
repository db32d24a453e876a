# `make help` lists the commands.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOWEST := .venv-lowest
PYTEST := $(BIN)/python -m pytest

# If Python may not write bytecode, each of hundreds of processes compiles this repository again.
unexport PYTHONDONTWRITEBYTECODE

# `RETRY=1`: failed tests run once more alone, because a time-out on a busy machine is not an error. If pytest ended with
# an exit code other than 1 (failed tests), there is no second run, because some tests may not have run.
AGAIN = $(if $(RETRY),|| { [ $$? -eq 1 ] && $(PYTEST) --last-failed --last-failed-no-failures none; })

.PHONY: help setup fit fit-digits test test-gpu test-cluster test-browser test-lowest lint docs lock

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(VENV)/.installed ## create .venv and install the pinned dependencies

# uv installs the pinned set in seconds where pip takes minutes. Compiling the bytecode once makes every later start of
# Lightning several seconds faster, also if Python may not write bytecode itself.
$(VENV)/.installed: requirements.lock pyproject.toml
	@echo "set-up, 1 of 3: creating $(VENV)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@echo "set-up, 2 of 3: downloading and installing PyTorch and the other pinned packages, about 6 GB on disk"
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --requirement requirements.lock
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --editable .
	@echo "set-up, 3 of 3: compiling them once, so that every start is seconds faster"
	$(BIN)/python -m compileall -q -j 0 $$($(BIN)/python -c 'import site; print(site.getsitepackages()[0])') >/dev/null 2>&1 || true
	touch $@

fit: setup ## fit x³ − x with 30 seeds
	$(BIN)/python -m lit_triwave fit --config configs/x3_minus_x.yaml

fit-digits: setup ## train a classifier of handwritten digits
	$(BIN)/python -m lit_triwave fit --config configs/digits.yaml

# Four workers on two cores: some tests wait for processes that they stop, and three used 1.2 to 1.3 of the cores.
test: setup ## run all tests that need no system package
	$(PYTEST) -n 4 --dist loadgroup -m "not cluster and not browser and not gpu" $(AGAIN)

test-gpu: setup ## run the tests that need a CUDA device
	$(PYTEST) -m gpu --no-skips $(AGAIN)

test-cluster: setup ## run the tests of slurm/ on a real SLURM (root; slurm-wlm, munge, shellcheck)
	@for program in sbatch munged shellcheck; do command -v $$program >/dev/null || \
		{ echo "error: $$program is missing: apt-get install slurm-wlm munge shellcheck" >&2; exit 1; }; done
	$(PYTEST) -m cluster --no-skips $(AGAIN)

test-browser: setup ## run the tests of compare's page in Chromium (chromium, chromium-driver)
	@for program in chromium chromedriver; do command -v $$program >/dev/null || \
		{ echo "error: $$program is missing: apt-get install chromium chromium-driver" >&2; exit 1; }; done
	$(PYTEST) -m browser --no-skips $(AGAIN)

test-lowest: $(LOWEST)/.installed ## run a few tests with the lowest versions that pyproject.toml allows
	$(LOWEST)/bin/python -m pytest -n 2 -m lowest -W ignore

# Created again each time, so that no higher version remains. The set has no lock file: it follows from pyproject.toml.
$(LOWEST)/.installed: pyproject.toml | setup
	rm -rf $(LOWEST)
	$(PYTHON) -m venv --without-pip $(LOWEST)
	VIRTUAL_ENV=$(LOWEST) $(BIN)/uv pip install --quiet --resolution lowest-direct --editable '.[dev,onnx,parquet]'
	touch $@

lint: setup ## check style, types and the walls between the rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: setup ## build the documentation into site/, with warnings as errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Without the extra `benchmarks`: only one benchmark needs its packages.
lock: ## write requirements.lock; versions in it stay unless pyproject.toml forbids them
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip compile pyproject.toml --extra onnx --extra parquet --extra docs --extra dev \
		--universal --python-version 3.10 --no-emit-index-url --no-annotate --no-header --output-file requirements.lock
