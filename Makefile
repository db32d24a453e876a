# make setup: .venv with the pinned dependencies    make fit: the main job    make test: all tests    make lint
# make fit-digits: the main job of classification
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup fit fit-digits test lint lock

setup: $(VENV)/.installed

# uv installs the pinned set in seconds where pip takes minutes. Compiling the bytecode once makes every later start of
# Lightning several seconds faster, also where Python may not write it itself.
$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --requirement requirements.lock
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --editable .
	$(BIN)/python -m compileall -q -j 0 $$($(BIN)/python -c 'import site; print(site.getsitepackages()[0])') >/dev/null 2>&1 || true
	touch $@

fit: setup
	$(BIN)/python -m lit_triwave fit --config configs/x3_minus_x.yaml

fit-digits: setup
	$(BIN)/python -m lit_triwave fit --config configs/digits.yaml

# Three at a time on two cores: many wait, for SLURM or for processes that they stop.
test: setup
	$(BIN)/python -m pytest -n 3 --dist loadgroup

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lock:
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.10 \
		--no-emit-index-url --no-annotate --no-header --output-file requirements.lock
