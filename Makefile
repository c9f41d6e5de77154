# make demo: the main job. make test: lint and the quick tests. Both create .venv if it is missing, and only then install.
PYTHON ?= python3
BIN = .venv/bin
READY = .venv/installed
# Fails where there is no GPU instead of falling back; matmuls are counted in programs for the CPU.
ON_GPU = JAX_PLATFORMS=cuda,cpu $(BIN)/python

.PHONY: demo notebooks docs docs-serve test test-slow mutants lint benchmark-gpu

demo: $(READY)
	$(BIN)/python -m experiments.demo --workdir=runs/demo

# Installs JupyterLab and opens the notebooks in it; as root: make notebooks LAB=--allow-root
notebooks: $(READY)
	$(BIN)/python -m pip install -qq --disable-pip-version-check -e ".[notebooks]"
	$(BIN)/python -m jupyterlab $(LAB) notebooks

# The documentation, as pages that work from a folder: build/site/index.html. A warning is an error.
docs: $(READY)
	$(BIN)/python -m pip install -qq --disable-pip-version-check -e ".[docs]"
	rm -rf build/site
	$(BIN)/python -m sphinx -W --keep-going -q -b html -d build/doctrees docs build/site

docs-serve: docs
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory build/site 8000

PYTEST = $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
# With SIXTH=0 to 5, as in CI: also that sixth of the slow tests.
test: $(READY) lint
	$(PYTEST) $(if $(SIXTH),--sixth=$(SIXTH),-m "not slow")

# The slow tests, all or with SIXTH=0 to 5 a sixth of them.
test-slow: $(READY)
	$(PYTEST) -m slow $(if $(SIXTH),--sixth=$(SIXTH))

# Makes twenty small changes to losses, recipes, samplers and the step, one at a time; the quick tests must fail for each.
mutants: $(READY)
	$(BIN)/python -m experiments.mutants

# On a machine with an NVIDIA GPU: writes the costs of derivatives, methods and training steps of published size into docs/gpu.
benchmark-gpu: $(READY)
	$(BIN)/python -m pip install -qq --disable-pip-version-check -e ".[cuda]"
	$(ON_GPU) -m experiments.benchmark_training --output=docs/gpu
	$(ON_GPU) -m experiments.benchmark_jvp --width=768 --depth=12 --heads=12 --dtype=bfloat16 --output=docs/gpu --train
	$(ON_GPU) -m experiments.benchmark_jvp --width=768 --depth=2 --heads=12 --dtype=bfloat16 --tokens=4096 --output=docs/gpu/4096_tokens
	$(ON_GPU) -m experiments.benchmark_methods --output=docs/gpu

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(READY): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -qq --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install -qq --disable-pip-version-check -e ".[test]"
	@touch $(READY)
