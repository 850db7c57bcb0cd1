# Sets up .venv on first use and hands targets to Snakemake or pytest; it hides nothing of their output.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
SNAKEMAKE := $(VENV)/bin/snakemake
# Another study, by its config: make status CONFIG=config/x.yaml. Targets come before it, or Snakemake takes them for configs.
CONFIG ?=
STUDY := $(if $(CONFIG),--configfile $(CONFIG))

# Compiled modules are kept, whatever the shell says: every job of the workflow starts a Python that imports torch.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help setup all read test lint format docs report status lock

help:
	@echo "make results/lion/pref.json   any artifact of the study, by its path"
	@echo "make all                      the whole study: every dataset's students and what they prefer"
	@echo "make read                     what can be read of the datasets without their students: every reading, its figure, a page each"
	@echo "make status                   which files of the study are present, stale and missing, and what to run next"
	@echo "make report                   the finished study as one HTML file, report.html"
	@echo "make … CONFIG=config/x.yaml   each of these for another study"
	@echo "make test                     lint, types and every test"
	@echo "make setup                    only the environment, in $(VENV)"
	@echo "make format docs              format the code; regenerate the tables of settings and of results"
	@echo "make lock                     rewrite requirements.lock from the environment"

setup: $(READY)

$(READY): pyproject.toml requirements.lock
	@echo "Installing what undertone needs into $(VENV), as it is not there or older than $(or $(?F),pyproject.toml); this takes minutes."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "undertone needs Python 3.11 or newer; $(PYTHON) is `$(PYTHON) --version`. Try: make PYTHON=python3.11 ..."; exit 1; }
	test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --constraint requirements.lock --editable '.[dev]'
	touch $@

results/%: $(READY) FORCE
	$(SNAKEMAKE) $@ $(STUDY)

all read: $(READY)
	$(SNAKEMAKE) $@ $(STUDY)

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
	$(SNAKEMAKE) all read --report report.html $(STUDY)

status: $(READY)
	$(SNAKEMAKE) all read --summary $(STUDY) | $(VENV)/bin/python -m undertone.study.status $(CONFIG)

lock: $(READY)
	$(VENV)/bin/pip freeze --exclude-editable | grep -ivE '^(nvidia|cuda|triton)' | sed 's/+cpu$$//' > requirements.lock

FORCE:
