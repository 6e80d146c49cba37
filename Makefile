# A waiting thread that spins takes the core from the one it waits for: ten times slower when anything else runs.
export OMP_WAIT_POLICY := passive

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS := $(VENV)/.docs
BENCHMARKS := evidence gaussian_processes speed graphs bionets gpu mutations
# Compiled steps are kept beside the environment, so that a second run in the same clone compiles nothing.
PYTEST := TORCHINDUCTOR_CACHE_DIR=$(CURDIR)/$(VENV)/compiled OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile \
	--no-loadscope-reorder

.PHONY: install demo check quick test verify docs bench

install: $(STAMP)

# PyTorch comes first and pinned: asked for as a dependency, pip would fetch the CUDA build.
$(STAMP): constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check "$$(grep -m1 '^torch==' constraints.txt)"
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	touch $@

$(DOCS): $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	touch $@

demo: $(STAMP)
	$(BIN)/probmodel demo --out demo

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Under two minutes: rooms without samplers, for a working loop.
quick: $(STAMP)
	$(PYTEST) -q tests/protocols tests/draws tests/prediction tests/house/test_layers.py tests/house/test_minutes.py \
		tests/house/test_settings.py tests/storage/test_older_fits.py tests/tracing/test_sites.py tests/families/test_kinetics.py

# At most ten minutes on two idle cores; what takes longer is listed in tests/verify.txt.
test: check
	$(PYTEST) --hold-budget --durations 15

# Everything: long statistics, full-size samplers, notebooks, the wheel, and whether the tests see mutated code.
verify: check
	$(PYTEST) --verify --durations 30
	$(BIN)/python -m benchmarks.mutations --quick

# Guides, executed notebooks and the reference of the public names, as one site in build/docs.
docs: $(DOCS)
	$(BIN)/python -m sphinx -W --keep-going -b html -c notebooks/site notebooks build/docs

# Each prints its table even if an earlier one is outside its bounds; the exit status says whether any was.
bench: $(STAMP)
	status=0; for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name || status=1; done; exit $$status
