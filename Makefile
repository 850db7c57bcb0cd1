# Sets up .venv on first use and hands targets to Snakemake or pytest; it hides nothing of their output.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
SNAKEMAKE := $(VENV)/bin/snakemake

# Compiled modules are kept, whatever the shell says: every job of the workflow starts a Python that imports torch.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help setup test lint format docs report status lock

help:
	@echo "make results/lion/pref.json   any artifact of the study, by its path"
	@echo "make test                     lint, types and every test"
	@echo "make setup                    only the environment, in $(VENV)"
	@echo "make status                   which files of the study are present, stale and missing, by dataset and by rule"
	@echo "make report                   the finished study as one HTML file, report.html"
	@echo "make format docs              format the code; regenerate the tables of settings and of results"
	@echo "make lock                     rewrite requirements.lock from the environment"

setup: $(READY)

$(READY): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "undertone needs Python 3.11 or newer; $(PYTHON) is `$(PYTHON) --version`. Try: make PYTHON=python3.11 ..."; exit 1; }
	test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --constraint requirements.lock --editable '.[dev]'
	touch $@

results/%: $(READY) FORCE
	$(SNAKEMAKE) $@

test: $(READY) lint
	$(VENV)/bin/pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/snakefmt --check Snakefile workflow/rules
	$(VENV)/bin/codespell
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-cache
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet

format: $(READY)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	$(VENV)/bin/snakefmt Snakefile workflow/rules

docs: $(READY)
	$(VENV)/bin/python -m undertone.study.documentation
	$(VENV)/bin/python docs/scripts/results.py

report: $(READY)
	$(SNAKEMAKE) all read --report report.html

status: $(READY)
	$(SNAKEMAKE) all read --summary | $(VENV)/bin/python -m undertone.study.status

lock: $(READY)
	$(VENV)/bin/pip freeze --exclude-editable | grep -ivE '^(nvidia|cuda|triton)' | sed 's/+cpu$$//' > requirements.lock

FORCE:
