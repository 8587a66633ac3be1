.DEFAULT_GOAL := help
.PHONY: help setup run test faults check docs bench bench-real tables clean

PYTHON := .venv/bin/python
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
ARGS ?=

# real weights and images, where they lie beside the project; tests that need them skip without
ifneq ($(wildcard ../shared/data),)
export OBLIQ_DATA ?= $(abspath ../shared/data)
endif

# images of containers set it, and then every process compiles all it imports: 13 seconds of start
unexport PYTHONDONTWRITEBYTECODE

help:   ## list the targets
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t10

setup: .venv/.done  ## make .venv with everything pinned in constraints.txt

.venv/.done: pyproject.toml constraints.txt
	@command -v uv >/dev/null || test -x .uv/bin/uv || \
	  { python3 -m venv .uv && .uv/bin/pip install --quiet uv; }
	$(UV) venv --quiet --allow-existing --python ">=3.11" .venv
	$(UV) pip install --quiet --python $(PYTHON) --constraint constraints.txt --editable ".[dev]"
	@touch $@

run: setup  ## the main job: the embedded default, or make run ARGS="experiment=cifar10_resnet20"
	@$(PYTHON) -m pipelines.run $(ARGS)

test: setup  ## all tests, in up to four processes; ARGS="-n 0 --pdb" for one
	$(PYTHON) -m pytest -n logical --maxprocesses 4 --dist loadfile $(ARGS)

faults: setup  ## kill, damage, fill the disk, run at once, at random: a table; ten minutes
	@$(PYTHON) -m tests.faults $(ARGS)

check: setup  ## lint, format and types, exactly as CI runs them
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

docs: setup  ## the documentation as a site: build/docs/index.html, which opens without a server
	$(PYTHON) -m mkdocs build --strict

bench: setup  ## quality and speed of row_parallel against OBQ, one table
	@PYTHONPATH=. $(PYTHON) tests/bench/solvers.py $(ARGS)

SWEEPS := cifar10_resnet20 cifar10_resnet56 imagenet_mobilenet_v1 obq_published coco coco_obq voc sst2

bench-real: setup  ## the accuracy tables of docs/results.md on OBLIQ_DATA: hours, but it resumes
	for name in $(SWEEPS); do $(PYTHON) -m pipelines.run sweep=$$name tracking=none $(ARGS) || exit; done
	$(PYTHON) -m pipelines.comparing.table $(SWEEPS:%=outputs/sweeps/%)

tables: bench-real  ## the same, then how docs/results.md differs from them
	$(PYTHON) -m pipelines.comparing.table $(SWEEPS:%=outputs/sweeps/%) --against docs/results.md

clean:  ## remove what setup and the tools have made (not the store, not outputs/)
	rm -rf .venv .uv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
