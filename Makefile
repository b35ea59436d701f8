# The short names of what the README describes. Needs Python 3.11 or newer, make and git; everything else comes from pip.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
MODEL ?= smollm2:135m
PROMPT ?= Why is the sky blue?
PYTEST_FLAGS ?=
PYTHONS ?= python3.11 python3.12 python3.13
CASES ?= 10000
FUZZ_SECONDS ?= 600

# The tests start hundreds of Pythons: bytecode is kept, or each would compile everything again.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
BIN := $(VENV)/bin
# On all cores, file by file. The long files come first, so that no core is idle at the end.
PARALLEL := -n logical --dist loadfile --no-loadscope-reorder
TESTS := tests/e2e tests/contract tests/fuzz tests/attacks tests/unit tests/docs tests/architecture
# On a terminal the installer shows what it downloads (make before 4.1 cannot tell, and then it does not).
QUIET := $(if $(MAKE_TERMOUT),,--quiet)
PIP := $(BIN)/python -m pip --disable-pip-version-check
# uv installs in a sixth of pip's time. It is told the index, the wheels and the certificates that pip is set to; where it fails
# (an index that wants a login, a platform without uv), pip installs.
define install
$(PIP) install --quiet uv && UV_NATIVE_TLS=1 UV_COMPILE_BYTECODE=1 \
  UV_DEFAULT_INDEX="$${PIP_INDEX_URL:-$$($(PIP) config get global.index-url 2>/dev/null || echo https://pypi.org/simple)}" \
  UV_FIND_LINKS="$${PIP_FIND_LINKS:-}" \
  $(BIN)/uv pip install $(QUIET) --python $(BIN)/python -c constraints.txt $(1) \
|| $(PIP) install $(QUIET) -c constraints.txt $(1)
endef

# MLX needs its CPU library on Linux; on a Mac it brings Metal by itself.
ifeq ($(shell uname -s),Linux)
RUN_EXTRAS := [cpu]
TEST_EXTRAS := [cpu,llamacpp,vision,speech,dev,docs,release,clients]
else
RUN_EXTRAS :=
TEST_EXTRAS := [llamacpp,vision,speech,dev,docs,release,clients]
endif

.PHONY: help run test quick lint types imports unit fix fuzz fuzz-parsers audit docs bench pins clean dist smoke test-agents

help:  ## print this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 13

run: $(VENV)/.for-run  ## install, start what it needs, pull a small model and answer a prompt
	@$(BIN)/ollmlx run $(MODEL) "$(PROMPT)" </dev/null

test: lint types imports  ## everything: style, types, imports, and all tests with the real model
	$(BIN)/python -m pytest $(PARALLEL) $(TESTS) $(PYTEST_FLAGS)

quick: lint  ## under a minute: style and the quick unit tests, on all cores
	$(BIN)/python -m pytest $(PARALLEL) tests/architecture tests/unit -q -m "not slow and not e2e and not model and not mlx" $(PYTEST_FLAGS)

lint: $(VENV)/.for-test  ## ruff, without changing anything
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.for-test  ## mypy --strict
	$(BIN)/mypy src plugins tests release

imports: $(VENV)/.for-test  ## the import direction of docs/architecture.md
	$(BIN)/lint-imports

fix: $(VENV)/.for-test  ## let ruff repair what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

fuzz: $(VENV)/.for-test  ## 10,000 requests made from the OpenAPI description, against a daemon with fake models
	$(BIN)/python -m tests.fuzz.campaign --cases $(CASES)

fuzz-parsers: $(VENV)/.for-test  ## each parser of strangers' bytes, guided by coverage, FUZZ_SECONDS (600) each; needs atheris
	$(PIP) install $(QUIET) -c constraints.txt atheris
	$(BIN)/python -m tests.fuzz.guided --seconds $(FUZZ_SECONDS)

audit: $(VENV)/.for-test  ## the contents of the wheel, and known vulnerabilities of what it needs; needs pip-audit
	$(PIP) install $(QUIET) -c constraints.txt pip-audit
	$(BIN)/python -m tests.audit

test-agents: $(VENV)/.for-test  ## Codex, Claude Code, opencode, Qwen Code and aider, the real programs, on a model that follows a play
	TEST_AGENTS=all $(BIN)/python -m pytest $(PARALLEL) tests/e2e -m agents $(PYTEST_FLAGS)

docs: $(VENV)/.for-test  ## the documentation as a site, build/docs/site/index.html; a link that leads nowhere fails
	$(BIN)/python -m release.site build/docs

bench: $(VENV)/.for-run  ## measure a model on this machine: make bench MODEL=...
	@$(BIN)/ollmlx bench $(MODEL)

dist: $(VENV)/.for-test  ## a release in dist/: distributions, bill of materials, Homebrew's formula, Dockerfiles
	$(BIN)/python -m release page
	COLUMNS=100 $(BIN)/argparse-manpage --module ollmlx.cli.completion --function whole_parser --project-name ollmlx \
	  --prog ollmlx --manual-title ollmlx --format single-commands-section --output build/ollmlx.1
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/hatchling build
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python -m release dist

smoke: dist  ## install the wheel with pip, uv and pipx on PYTHONS, and use it; about a minute each
	$(BIN)/python -m release.smoke dist/*.whl $(PYTHONS)

pins: $(VENV)/.for-test  ## write the installed versions to constraints.txt
	{ sed -n '/^#/p' constraints.txt; $(BIN)/python -m pip freeze --exclude-editable --exclude ollmlx; } > constraints.new
	mv constraints.new constraints.txt

clean:  ## remove what was installed and built here; models stay
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; PYTHON=/path/to/python3.11 make ... chooses one" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

# Stamps: nothing is installed again until what is asked for changes.
$(VENV)/.for-run: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing ollmlx into $(VENV): a few minutes the first time ..." >&2
	@$(call install,-e ".$(RUN_EXTRAS)")
	@touch $@

$(VENV)/.for-test: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing ollmlx and what its tests need into $(VENV): a few minutes the first time ..." >&2
	@$(call install,-e ".$(TEST_EXTRAS)")
	@touch $@ $(VENV)/.for-run
