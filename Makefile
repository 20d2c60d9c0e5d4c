# Everything runs in a virtual environment that is set up on first use. Type `make` for the targets.

PYTHON3 ?= python3
VENV ?= .venv
WORKERS ?= 2
# An extra package index for torch and torchvision; for CPU builds where the default ones bring CUDA along:
#     make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=

PYTHON := $(VENV)/bin/python
STAMPS := $(VENV)/.stamps
PIP_INSTALL := $(PYTHON) -m pip install -qq --disable-pip-version-check -c constraints.txt
METADATA := setup.cfg pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench bench-retention notebooks notebooks-write docs clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' Makefile

demo: $(STAMPS)/demo  ## explain a photograph with and without layer masking, into demo/
	$(PYTHON) benchmarks/demo.py --out demo

test: $(STAMPS)/test  ## run every test, the slow ones included
	@command -v chromium >/dev/null || echo "no chromium: the tests of reports in a browser are skipped; apt-get install chromium runs them"
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n $(WORKERS)

lint: $(STAMPS)/test  ## check style, imports and types
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(VENV)/bin/lint-imports --no-logo
	$(PYTHON) -m mypy

bench: $(STAMPS)/test  ## measure how fast everything is, into speed/; options in SPEED="--quick --only a,c"
	$(PYTHON) -m benchmarks.speed $(SPEED)

bench-retention: $(STAMPS)/demo  ## measure how much accuracy each way of removing pixels keeps
	$(PYTHON) benchmarks/retention.py

notebooks: $(STAMPS)/docs  ## check that notebooks equal their scripts, and run them
	@for notebook in notebooks/*.ipynb; do \
		echo "comparing $$notebook with its script"; \
		$(PYTHON) -m jupytext --quiet --to py:percent --output - "$$notebook" \
			| diff -u "$${notebook%.ipynb}.py" - || exit 1; \
	done
	$(PYTHON) -m pytest --nbmake --nbmake-timeout=600 -o filterwarnings= notebooks

notebooks-write: $(STAMPS)/docs  ## run the scripts of the notebooks and write the notebooks from them
	$(PYTHON) -m jupytext --quiet --to ipynb --update notebooks/*.py
	PYTHONWARNINGS='ignore:IProgress not found' $(PYTHON) -m nbconvert --log-level WARN --to notebook \
		--execute --inplace --ExecutePreprocessor.record_timing=False notebooks/*.ipynb

docs: $(STAMPS)/docs  ## build the documentation into docs/_build/html
	$(PYTHON) -m sphinx -W --keep-going -q docs docs/_build/html
	@echo "documentation: docs/_build/html/index.html"

clean:  ## remove everything that make has made, the default virtual environment included
	rm -rf .venv build demo docs/_build docs/notebooks *.egg-info
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Set-up. A stamp file marks a step as done; a change of the metadata repeats it.

$(PYTHON):
	@echo "setting up $(VENV)"
	@$(PYTHON3) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "constraints.txt needs Python 3.11 or later")'
	@$(PYTHON3) -m venv $(VENV)

# torch comes first and on its own, so that nothing else decides which build of it is installed.
$(STAMPS)/torch: constraints.txt | $(PYTHON)
	@mkdir -p $(STAMPS)
	@echo "installing torch"
	@$(PIP_INSTALL) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	@echo "installing torchvision"
	@$(PIP_INSTALL) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torchvision
	@$(PYTHON) -c 'import torchvision' 2>/dev/null || $(PYTHON) .ci/mend_torchvision.py
	@touch $@

$(STAMPS)/demo $(STAMPS)/test $(STAMPS)/docs: $(STAMPS)/%: $(STAMPS)/torch $(METADATA)
	@echo "installing lm_plugins[$*]"
	@$(PIP_INSTALL) -e '.[$*]'
	@# Alone: it asks for an OpenCV with windows, which would stand beside the one without.
	@$(if $(filter test,$*),$(PIP_INSTALL) --no-deps grad-cam ttach)
	@touch $@
