# One command from a fresh clone: `make quickstart` or `make test`. Each first makes .venv, once.

# The first of these that is CPython 3.10 to 3.13; `make PYTHON=/usr/bin/python3.12 test` names one.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10 python; do \
	$$p -c $(SUPPORTED) 2>/dev/null && { echo $$p; break; }; done)
SUPPORTED := 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))'

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Stands while an installation is under way: one that was broken off is begun anew.
UNFINISHED := .venv-unfinished
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help quickstart encoder test coverage test-wheel test-lowest test-with unit lint constraints clean rehearse

help: ## show this
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

quickstart: $(READY) ## pre-train, evaluate on five tasks, print the results (about 9 minutes on 2 cores)
	$(BIN)/mae-bench run --suite quickstart --out runs/quickstart --launcher cpus

SHIPPED := backbones/checkpoints/shipped/embedded
encoder: $(READY) ## pre-train the encoder that ships (goes on where it stopped) and put it in place, with record and log
	OMP_NUM_THREADS=1 $(BIN)/mae-bench pretrain pretrain/vit_micro_patch8_embedded_pieces --out runs/embedded_encoder
	cp runs/embedded_encoder/mae.safetensors $(SHIPPED).safetensors
	cp runs/embedded_encoder/record.json $(SHIPPED).record.json
	cp runs/embedded_encoder/log.jsonl $(SHIPPED).log.jsonl

PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --durations=10

test: lint ## everything that CI checks: linter, types, all tests
	$(PYTEST)

coverage: lint ## the same, with the lines and branches that the tests reach (a fifth longer)
	$(PYTEST) --cov --cov-report=term

test-wheel: $(READY) ## the wheel in an empty environment, with all extras, runs every task (downloads some GB)
	MAE_BENCH_TEST_WHEEL=1 $(BIN)/python -m pytest tests/test_install.py -k empty_environment

# Environments of their own, made anew by uv each time: `make PYTHON=/path/to/python3.10 test-lowest` names the Python.
# The headless OpenCV needs no libGL, as below.
TRIAL := .venv-trial
TRIAL_PIP := uv pip install --quiet --python $(TRIAL)/bin/python
define try_set
	@command -v uv >/dev/null || { echo "make $@ needs uv: pip install uv" >&2; exit 1; }
	uv venv --quiet --clear --seed --python $(PYTHON) $(TRIAL)
	$(TRIAL_PIP) -e ".[all]" $(1)
	$(TRIAL_PIP) --reinstall --no-deps opencv-python-headless
	$(TRIAL)/bin/python -m tasks.detection.install
	OMP_NUM_THREADS=1 $(TRIAL)/bin/python -m pytest -m "not slow"
endef

test-lowest: ## the quick tests on the oldest releases that pyproject.toml allows (needs uv; downloads some GB)
	$(call try_set,--resolution lowest-direct)

WITH := torch==2.11.0 torchvision==0.26.0
test-with: ## the same on the newest releases but for those of WITH="torch==2.11.0 torchvision==0.26.0"
	$(call try_set,$(WITH))

unit: $(READY) ## the quick tests only
	$(BIN)/python -m pytest -m "not slow"

lint: $(READY) ## linter, formatter, type checker
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# The compiled OpenCV of opencv-python, which onedl-mmcv asks for, needs libGL. The headless one has the same files
# without it: installed last, it wins, and pip finds both of the names that packages ask for.
$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" && $(PYTHON) -c $(SUPPORTED) || { \
		echo "mae-bench needs CPython 3.10 to 3.13, '$(or $(PYTHON),python3)' is not: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
	@test ! -e $(UNFINISHED) || rm -rf $(VENV)
	@touch $(UNFINISHED) && rm -f $@
	@echo "installing the pinned set into $(VENV): some minutes, once" >&2
	@if $(PYTHON) -c 'import ensurepip' 2>/dev/null; then $(PYTHON) -m venv $(VENV); \
		else $(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; fi
	@$(PIP) install --quiet --use-pep517 -c constraints.txt -e ".[all]"
	@$(PIP) install --quiet --force-reinstall --no-deps -c constraints.txt opencv-python-headless
	@$(BIN)/python -m tasks.detection.install
	@touch $@ && rm -f $(UNFINISHED)

constraints: ## solve constraints.txt anew from pyproject.toml, pins kept where they still fit (needs uv)
	printf 'opencv-python-headless\n' | uv pip compile pyproject.toml - --universal --python-version 3.10 --all-extras \
		--no-annotate --no-header --quiet --output-file constraints.txt >/dev/null
	@{ printf '# The exact set that the tests run with, for CPython 3.10 to 3.13: `pip install -c constraints.txt -e ".[all]"`.\n'; \
		printf '# Made by `make constraints` from pyproject.toml; a pin is kept until it is taken out of this file.\n'; \
		cat constraints.txt; } > constraints.tmp && mv constraints.tmp constraints.txt

clean: ## remove caches and build products; .venv and runs stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .coverage .coverage.* .hypothesis
	find backbones mae_bench tasks tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Longer than the suite has room for: a job of its own in CI.
rehearse: $(READY) ## every shipped recipe at its true size, without a GPU (about 7 minutes on 2 cores)
	$(BIN)/python -m mae_bench rehearse --all
