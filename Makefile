# `make demo` shows the node at work, `make test` tests it; each sets up what it needs first.
# Needed beforehand: Python 3.11 or newer with venv, make and git. No C compiler.
PYTHON ?= python3
# TORCH=cpu takes torch's build without CUDA, where its index can be reached.
TORCH ?= default

BIN := .venv/bin
UV := $(BIN)/uv --system-certs
INSTALLED := .venv/.installed
PINS := requirements/base.txt requirements/torch.txt requirements/uv.txt pyproject.toml

.PHONY: setup demo run test check fmt bench docs pins clean

setup: $(INSTALLED)

$(INSTALLED): $(PINS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name it with PYTHON=…" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@echo "setup: libraries (about 0.6 GB)" >&2
	@$(UV) pip install -q --require-hashes --no-deps -r requirements/base.txt
ifeq ($(TORCH),cpu)
	@echo "setup: torch for the CPU (about 0.8 GB)" >&2
	@$(UV) pip install -q --torch-backend=cpu $$(grep -oE '^torch==[0-9.]+' requirements/torch.txt)
else
	@echo "setup: torch with its CUDA parts (2.9 GB to fetch, 5 GB on disk; TORCH=cpu is smaller)" >&2
	@$(UV) pip install -q --require-hashes --no-deps -r requirements/torch.txt
endif
	@# libp2p brings stubs of an old trio that hide trio's own types from mypy.
	@rm -rf .venv/lib/python3*/site-packages/trio-stubs \
	  .venv/lib/python3*/site-packages/outcome-stubs \
	  .venv/lib/python3*/site-packages/async_generator-stubs
	@$(UV) pip install -q --no-deps --no-build-isolation -e .
	@# Compiled once, here: the worker may not write, and would compile torch at each start (11 s
	@# instead of 4).  Libraries ship a few files of older Pythons, which cannot be.
	@$(BIN)/python -m compileall -q -j 0 .venv/lib/python3*/site-packages >/dev/null 2>&1 || true
	@touch $@

demo: setup
	@$(BIN)/r3mes demo

run: setup
	@$(BIN)/r3mes init --quiet
	@exec $(BIN)/r3mes run

# All but what CI runs besides: `pytest -m apart`, and tests/fuzz with FUZZ_CASES=20000.
test: setup
	@# One more than there are cores: many tests wait for processes of their own.
	@$(BIN)/python -m pytest -q -n $$(($$(nproc) + 1)) --dist loadfile --no-loadscope-reorder \
	  --ignore tests/fuzz -m 'not apart'


check: setup
	@$(BIN)/pre-commit run --all-files
	@$(BIN)/mypy
	@$(BIN)/lint-imports

fmt: setup
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: setup
	@for name in kernel store envelope p2p http faults inference exact router; do $(BIN)/python -m benchmarks.$$name --json; done

# Resolve requirements/in.txt anew; arguments of uv in ARGS, such as ARGS="--upgrade-package trio".
pins:
	@$(BIN)/python requirements/pin.py $(ARGS)

clean:
	@rm -rf .venv dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
