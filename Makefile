# All commands of the project; continuous integration calls them too.
#   make demo   light install without torch, classifies the sample cells, writes a contact sheet
#   make test   full development install, runs every test
PYTHON ?= python3
# TORCH may name a local wheel or an index's version, for example: make test TORCH=./torch-2.13.0+cpu.whl
TORCH ?=
VENV := .venv
DEV := .venv-dev
PIP_FLAGS ?= --disable-pip-version-check
WORKERS ?= 2
LINTED := src tests tools docs examples
# How often test-shuffled runs the quick tests, each time in another order.
TIMES ?= 3
QUICK := not slow and not browser
# One thread a process: the processes share the cores. An idle process takes tests from another.
PYTEST = OMP_NUM_THREADS=1 $(DEV)/bin/python -m pytest -n $(WORKERS) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help demo setup test test-quick test-shuffled lint words format types docs site bench bundle-check picture screenshots gallery notebooks robustness published refresh \
	load audit all clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(VENV)/.installed: pyproject.toml
	@echo "==> light install into $(VENV) (no torch, about 400 MB)"
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install $(PIP_FLAGS) --progress-bar on -e .
	@touch $@

demo: $(VENV)/.installed  ## Classify the sample cells and write demo/contact_sheet.html
	@echo "==> classifying the sample cells"
	$(VENV)/bin/leukoscope demo --out demo
	@echo "==> the command is $(VENV)/bin/leukoscope"

$(DEV)/.installed: pyproject.toml
	@echo "==> development install into $(DEV) (torch included; minutes and gigabytes on a new machine)"
	$(PYTHON) -m venv $(DEV)
	@if [ -n "$(TORCH)" ]; then $(DEV)/bin/python -m pip install $(PIP_FLAGS) --progress-bar on "$(TORCH)"; fi
	$(DEV)/bin/python -m pip install $(PIP_FLAGS) --progress-bar on -e ".[dev]"
	@touch $@

setup: $(DEV)/.installed  ## Install everything for development

test: setup  ## Run linters, types and every test
	$(MAKE) --no-print-directory lint types
	$(PYTEST) --durations 10
	@echo "==> all green. Next: make demo, or read docs/start.md"

test-quick: setup  ## Run the quick tests
	$(PYTEST) -m "$(QUICK)"

test-shuffled: setup  ## Run the quick tests TIMES times in random order; each run prints its seed
	for number in $$(seq $(TIMES)); do $(PYTEST) -m "$(QUICK)" -p randomly || exit 1; done

lint: setup  ## Format check, lint, layers, dependencies, words
	$(DEV)/bin/ruff format --check $(LINTED)
	$(DEV)/bin/ruff check $(LINTED)
	$(DEV)/bin/lint-imports
	$(DEV)/bin/deptry src
	PYTHONPATH=tools $(DEV)/bin/python -m leukoscope_tools words

words: setup  ## Write the word table of CONTRIBUTING.md and list discouraged words
	PYTHONPATH=tools $(DEV)/bin/python -m leukoscope_tools words --write

format: setup  ## Format, and fix what can be fixed
	$(DEV)/bin/ruff format $(LINTED)
	$(DEV)/bin/ruff check --fix $(LINTED)

types: setup  ## mypy, strict
	$(DEV)/bin/mypy

docs: setup  ## Write the reference pages from the code
	PYTHONPATH=tools $(DEV)/bin/python -m leukoscope_tools docs

site: setup  ## Build the documentation as a site into site/
	$(DEV)/bin/sphinx-build -c docs -b html -W --keep-going -q . site
	@echo "==> open site/README.html"

# Files that show the shipped bundle.
GALLERY := leakage reliability abstention attribution novelty
PUBLISHED := README.md docs/results.md
PICTURED := $(addprefix cells/,fold_0/all/UID_20_11_1_all.webp fold_0/all/UID_48_11_4_all.webp \
	fold_1/all/UID_34_18_13_all.webp fold_0/all/UID_11_1_2_all.webp fold_0/hem/UID_H16_28_1_hem.webp \
	fold_0/hem/UID_H19_8_1_hem.webp fold_0/hem/UID_H24_2_10_hem.webp) other/pbc/LY_57780.jpg

picture: setup  ## Draw the images of README and start page again
	$(DEV)/bin/python tools/smear_picture.py docs/images/smear.png
	cd src/leukoscope/assets && "$(CURDIR)/$(DEV)/bin/leukoscope" predict $(PICTURED) \
		--sheet "$(CURDIR)/docs/images/contact_sheet.png" --quiet || true

screenshots: setup  ## Take the screenshots of the web application again
	$(DEV)/bin/python tools/screenshots.py

gallery: setup $(addprefix gallery-,$(GALLERY))  ## Draw the images of docs/gallery.md again

gallery-%:
	$(DEV)/bin/python examples/gallery/$*.py docs/images/gallery/$*.png

notebooks: setup  ## Execute the notebooks and write them with their outputs
	$(DEV)/bin/python examples/notebooks/execute.py

# The cell table of C-NMC, as 'leukoscope data import' writes it, and the cells of each subject.
CELLS ?= cells.csv
EACH ?= 10

robustness: setup  ## Measure the shipped bundle under small changes of the cells of CELLS, and show the result
	$(DEV)/bin/leukoscope robustness "$(CELLS)" --cells-per-subject $(EACH) --out robustness
	cp robustness/robustness.json docs/reports/robustness.json
	cp robustness/robustness.png docs/images/robustness.png
	$(MAKE) --no-print-directory published

published: setup
	PYTHONPATH=tools $(DEV)/bin/python -m leukoscope_tools publish $(PUBLISHED)

refresh: published picture screenshots gallery notebooks  ## After a new bundle: update every number, image and notebook that shows it

load: setup  ## 64 clients for a minute against a local server
	$(DEV)/bin/python tools/load.py --clients 64 --seconds 60

bench: setup  ## Measure the speed of prediction and training
	PYTHONPATH=tools $(DEV)/bin/python -m leukoscope_tools benchmark predict --quick
	PYTHONPATH=tools $(DEV)/bin/python -m leukoscope_tools benchmark train --quick

bundle-check: setup  ## Verify the shipped bundle with both engines
	$(DEV)/bin/leukoscope bundle verify --engine openvino --engine onnxruntime

audit: setup  ## Known vulnerabilities of the dependencies
	$(DEV)/bin/pip-audit

all: test demo  ## Everything

clean:  ## Remove the environments and outputs
	rm -rf $(VENV) $(DEV) demo site robustness jupyter_execute
