# make demo: the main job.  make test: all tests but the slow ones.  Both set up .venv from nothing; a second call installs nothing.
PYTHON ?= python3
BIN = .venv/bin
READY = .venv/installed

.PHONY: demo test test-slow lint

demo: $(READY)
	$(BIN)/python -m experiments.demo --workdir=runs/demo

test: $(READY) lint
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

$(READY): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -qq --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install -qq --disable-pip-version-check -e ".[test]"
	@touch $(READY)
