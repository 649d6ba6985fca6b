# make quickstart   install, build data, train, sample, score, report (DATA=emoji: real pictures;
#                   MINUTES=5: as many training steps as fit into 5 minutes)
# make test         everything CI runs
# make proof        make the pages of docs/ again whose sources have changed; the longest tests

PYTHON ?= python3
VENV ?= .venv
DATA ?= scenes
RUNS ?= runs
MINUTES ?= 0
# The newest jax needs a newer Python than the oldest one supported; tested where it is found.
PYTHON_NEW ?= $(shell for p in python3.13 "$$(pyenv prefix 3.13.0 2>/dev/null)/bin/python"; do \
  "$$p" -c pass 2>/dev/null && echo "$$p" && break; done)

BIN = $(VENV)/bin
# A worker that dies ends the run: replaced, it leaves the others waiting for ever.
# A file's tests stay on one worker, in the order of tests/conftest.py: the longest first.
PYTEST = python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart=0
INSTALLED = $(VENV)/.installed

.PHONY: quickstart install test lint test-new proof clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "t2i_jax needs Python >= 3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -e '.[emoji]'
	touch $@

quickstart: $(INSTALLED)
	$(BIN)/python benchmarks/quickstart.py --data=$(DATA) --runs=$(RUNS) --minutes=$(MINUTES)

$(VENV)/.tested: $(INSTALLED)
	$(BIN)/pip install -q --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install -q --disable-pip-version-check -e '.[emoji,test,tpu,parity]'
	touch $@

lint: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Types are checked while the environment of the newest jax is made: each takes a minute of a core.
# Here the comparison with diffusers fails where it would be skipped.
test: $(VENV)/.tested
	$(MAKE) -j2 lint install-new
	T2I_REQUIRE_PARITY=1 $(BIN)/$(PYTEST) --durations=40
	$(MAKE) run-test-new

# Under the newest jax the tests marked `newest`: what a new version breaks is a function.
test-new: install-new
	$(MAKE) run-test-new

.PHONY: install-new run-test-new
install-new:
ifneq ($(PYTHON_NEW),)
	[ -x $(VENV)-new/bin/python ] || $(PYTHON_NEW) -m venv $(VENV)-new
	$(VENV)-new/bin/pip install -q --disable-pip-version-check -e '.[emoji,test]'
endif

run-test-new:
ifneq ($(PYTHON_NEW),)
	$(VENV)-new/bin/$(PYTEST) -m newest
else
	@echo "no Python 3.13 here: the tests under the newest jax were left out"
endif

# The pages of docs/ whose sources have changed since they were made, and two that are quick to make.
# Pages of trained runs and of times say themselves what makes them.
proof: $(VENV)/.tested
	$(BIN)/python -m benchmarks.equations
	$(BIN)/python -m benchmarks.text_conditioning
	$(BIN)/python -m benchmarks.pages --make
	T2I_REQUIRE_PARITY=1 $(BIN)/$(PYTEST) -m proof --durations=40

clean:
	rm -rf $(VENV) $(VENV)-new build *.egg-info
