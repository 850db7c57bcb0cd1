# Sets up .venv on first use and passes targets to Snakemake or pytest; it hides none of their output.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
SNAKEMAKE := $(VENV)/bin/snakemake
# Choose another study by its config: make status CONFIG=config/x.yaml. On Snakemake's command line, targets come before the
# configs, or Snakemake takes them for configs.
CONFIG ?=
STUDY := $(if $(CONFIG),--configfile $(CONFIG))

# Keep compiled modules, whatever the shell says: every job of the workflow starts a Python that imports torch.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help setup all read detection verdict test coverage lint format docs report status lock

help:
	@echo "make results/lion/pref.json   any artifact of the study, by its path"
	@echo "make all                      the whole study: every dataset's students and what they prefer"
	@echo "make read                     what can be read of the datasets, with one student of each: every reading, its figure, a page each"
	@echo "make verdict FILE=mine.jsonl  whether something is hidden in a file of prompts and completions: a sentence and a page"
	@echo "make detection                the same of every dataset of the study, and how often it is right"
	@echo "make status                   which files of the study are present, stale and missing, and what to run next"
	@echo "make report                   the finished study as one HTML file, report.html"
	@echo "make … CONFIG=config/x.yaml   each of these for another study"
	@echo "make test                     lint, types and every test"
	@echo "make setup                    only the environment, in $(VENV)"
	@echo "make format docs              format the code; regenerate the tables of settings and of results"
	@echo "make coverage                 every test, and which lines of the library none of them reaches"
	@echo "make lock                     renew requirements.lock from pyproject.toml"

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

all read detection: $(READY)
	$(SNAKEMAKE) $@ $(STUDY)

# The file becomes a dataset of the study that CONFIG names, under the file's own name or NAME.
FILE ?=
NAME ?= $(basename $(notdir $(FILE)))
verdict: $(READY)
	@test -f "$(FILE)" || { echo "make verdict FILE=PATH: expected a .jsonl, .csv or .parquet file, found '$(FILE)'"; exit 1; }
	@case "$(NAME)" in *[!A-Za-z0-9_-]*) echo "make verdict: '$(NAME)' cannot name a dataset; add NAME=…, of letters, digits, - and _"; exit 1;; esac
	$(SNAKEMAKE) "$$($(VENV)/bin/python -m undertone.study.root $(CONFIG))/$(NAME)/verdict.html" $(STUDY) \
		--config 'datasets={"$(NAME)": {file: "$(FILE)"}}'

test: $(READY) lint
	$(VENV)/bin/pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# Coverage of the library by what the tests run in their own process; most of a workflow's jobs run in others. It is separate from
# `test`: on Python 3.11, which lacks coverage's faster core (sysmon), it took 26 to 34 % more CPU time on test_losses,
# test_frequencies, test_training.
coverage: $(READY)
	COVERAGE_CORE=sysmon $(VENV)/bin/pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder \
		--cov --cov-report=term-missing:skip-covered

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

# One lock for every supported Python and system. Versions that still fit are kept; `make lock UPGRADE=--upgrade` renews them all.
# CUDA's libraries are left out, because each build of torch names its own, and a build without CUDA names none.
lock: $(READY)
	$(VENV)/bin/pip install --quiet uv
	UV_CUSTOM_COMPILE_COMMAND='make lock' $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --extra dev \
		--no-annotate $(UPGRADE) --output-file requirements.lock pyproject.toml
	sed -i.all -E '/^(nvidia|cuda|triton)/d' requirements.lock && rm requirements.lock.all

FORCE:
