# A waiting thread that spins takes the core from the one it waits for: ten times slower when anything else runs.
export OMP_WAIT_POLICY := passive

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCHMARKS := evidence gaussian_processes speed graphs bionets gpu mutations

.PHONY: install demo test bench check

install: $(STAMP)

# PyTorch comes first and pinned: asked for as a dependency, pip would fetch the CUDA build.
$(STAMP): constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check "$$(grep -m1 '^torch==' constraints.txt)"
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	touch $@

demo: $(STAMP)
	$(BIN)/probmodel demo --out demo

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 15

# Each prints its table even if an earlier one is outside its bounds; the exit status says whether any was.
bench: $(STAMP)
	status=0; for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name || status=1; done; exit $$status
