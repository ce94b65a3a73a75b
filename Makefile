# Targets that people, the hosted CI and .ci/run share. `make help` lists them.
#
#   PYTHON=python3.12 make venv     build the virtual environment with another interpreter
#   PYTEST_ARGS="-k mixture"        passed on to pytest
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu    take torch's CPU build (pip reads this variable)

VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-from-lock
# Tests hide CUDA, except in a session of the GPU tests alone; 5 is pytest's "none selected".
GPU_TESTS = if $(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then \
	$(BIN)/python -m pytest tests/gpu $(PYTEST_ARGS) || test $$? = 5; fi
PYTEST_ARGS ?=
RESOLUTION ?= lowest-direct
# Whatever brings the engine up, here or in a process it starts, or reads the engine's source.
ENGINE_TESTS := $(patsubst %,tests/unit/test_%.py,arithmetic attention benchmarks config_pipeline engine engine_face \
	engine_translation gradient_reduction gradients memory model_twin regional_compile step_log step_waits token_mean \
	training_agreement training_loop training_parts training_reports training_requests training_saving training_snapshot \
	training_trainer training_watchdog) \
	$(patsubst %,tests/integration/test_%.py,convert demo engine_main fast_paths faults_loading faults_ranks faults_saving \
	faults_stopping launching reference_run resume topologies train_command uneven_masks validation)
SLURM_PACKAGES := slurmctld slurmd slurm-client munge

# The first interpreter that runs and that requirements.lock has wheels for (fasttext-numpy2-wheel ends at 3.12);
# `make PYTHON=…` overrides it.
IS_COVERED := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))
PYTHON ?= $(shell for candidate in python3.11 python3.12 python3 python; do \
	$$candidate -c '$(IS_COVERED)' 2>/dev/null && echo $$candidate && break; done)

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-main test-versions soak lint format lock slurm-packages clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(STAMP)  ## Create .venv from requirements.lock and install the project into it

$(STAMP): requirements.lock setup.py pyproject.toml
	@$(BIN)/python -c '' 2>/dev/null || { test -n "$(PYTHON)" && $(PYTHON) -c '$(IS_COVERED)' 2>/dev/null; } || { \
	  echo "make: $(or $(PYTHON),no interpreter found) is not Python 3.11 or 3.12, for which requirements.lock has wheels;" \
	  "give one: make PYTHON=/path/to/python3.11 venv. On a later Python, install without the lock: pip install '.[eval,fast,plots,dev]'" >&2; exit 1; }
	@command -v nvidia-smi >/dev/null || test -n "$$PIP_EXTRA_INDEX_URL$$PIP_INDEX_URL" || echo "make: no nvidia-smi here;" \
	  "torch's CPU build is much smaller: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make venv"
	$(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

demo: $(STAMP)  ## Text to evaluated model in a few minutes on a CPU; everything lands in demo_output/
	$(BIN)/python -m examples.demo.run_demo

test: $(STAMP) lint  ## Format check, lint, types and every test that this machine can run
	$(BIN)/python -m pytest $(PYTEST_ARGS)
	@$(GPU_TESTS)

test-main: $(STAMP)  ## The tests that train, on upstream main: make test-main NANOTRON_SRC=<checkout of huggingface/nanotron>
	@test -d "$(NANOTRON_SRC)/src/nanotron" || { echo "make: NANOTRON_SRC is '$(NANOTRON_SRC)', which holds no src/nanotron;" \
	  "give it a checkout of huggingface/nanotron (2411b022 is the commit studied)" >&2; exit 2; }
	NANOTRON_SRC="$(abspath $(NANOTRON_SRC))" $(BIN)/python -m pytest $(ENGINE_TESTS) $(PYTEST_ARGS)
	@export NANOTRON_SRC="$(abspath $(NANOTRON_SRC))"; $(GPU_TESTS)

# uv resolves and installs; what it needs of the machine (an index, a mirror) it reads from UV_* variables.
test-versions:  ## Every test with the oldest libraries that setup.py allows, in .venv-lowest-direct (RESOLUTION=highest: the newest)
	@test -n "$(PYTHON)" && $(PYTHON) -c '$(IS_COVERED)' || { echo "make: give Python 3.11 or 3.12: make test-versions PYTHON=…" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv-$(RESOLUTION)
	.venv-$(RESOLUTION)/bin/python -m pip install --quiet uv setuptools wheel
	.venv-$(RESOLUTION)/bin/uv pip install --quiet --python .venv-$(RESOLUTION)/bin/python --resolution $(RESOLUTION) \
	  ".[eval,fast,plots,gguf,tensorboard,dev]"
	.venv-$(RESOLUTION)/bin/python -m pip install --quiet --no-deps --no-build-isolation -e .
	PATH="$(CURDIR)/.venv-$(RESOLUTION)/bin:$$PATH" .venv-$(RESOLUTION)/bin/python -m pytest $(PYTEST_ARGS)

soak: $(STAMP)  ## Kill a tiny training run at random moments 50 times and compare its end with an untouched run (~10 min)
	$(BIN)/python -m benchmarks.soak

lint: $(STAMP)  ## Format check, lint and types alone
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP)  ## Rewrite the code as the format check wants it
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock:  ## Write requirements.lock from what .venv holds (after installing what changed)
	@{ sed -n '/^#/p' requirements.lock; \
	   $(BIN)/python -m pip freeze --all --exclude-editable --exclude pip --exclude nanotron-zagreus | sed 's/^torch==\([0-9.]*\)+.*/torch==\1/'; } > requirements.lock.new
	@mv requirements.lock.new requirements.lock

slurm-packages:  ## Debian's Slurm, for the tests that start a real cluster on this host (needs root)
	@missing=; for package in $(SLURM_PACKAGES); do dpkg -s $$package >/dev/null 2>&1 || missing="$$missing $$package"; done; \
	if [ -z "$$missing" ]; then echo "slurm-packages: already installed"; \
	elif ! command -v apt-get >/dev/null; then echo "slurm-packages: skipped, no apt-get here; the Slurm tests will be skipped"; \
	elif [ "$$(id -u)" != 0 ]; then echo "slurm-packages: skipped, not root; run: sudo make slurm-packages"; \
	else apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null \
	  && echo "slurm-packages: installed$$missing"; fi

clean:  ## Remove what the targets above made, .venv excepted
	rm -rf demo_output build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
