# `make help` lists the commands. `make lab` and `make test` each set everything up by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# A folder of wheels that pip is told of is shown to uv too.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
export JUPYTER_PLATFORM_DIRS := 1
# Waiting threads sleep: spinning ones slow everything down when cores are shared.
export OMP_WAIT_POLICY := PASSIVE
UV := uv==0.13.9
# These limits end what hangs; a machine ten times as busy stays within them.
NBVAL := --nbval --nbval-current-env --nbval-sanitize-with tests/nbval.cfg --nbval-cell-timeout 3000 \
	--timeout 9000 -p no:cacheprovider -n 0
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup lab fresh test check lint unit nbval course run site e2e chromium lock clean

help:            ## list the commands
	@grep -E '^[a-z0-9]+: .*##' $(MAKEFILE_LIST) | sed -E 's/: [^#]*## /\t/' | expand -t 12

setup: $(STAMP)  ## create .venv and install the locked packages
$(STAMP): requirements.lock pyproject.toml tools/doctor.py tools/lab-settings.json
	@$(PYTHON) tools/doctor.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check $(UV)
	$(BIN)/uv pip install -q --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install -q --python $(BIN)/python --no-deps -e .
	mkdir -p $(VENV)/share/jupyter/lab/settings
	cp tools/lab-settings.json $(VENV)/share/jupyter/lab/settings/overrides.json
	@touch $@

lab: setup       ## open JupyterLab on your own copy of the chapters (prints the URL where there is no browser)
	@$(BIN)/python tools/desk.py lab

fresh: setup     ## put a fresh copy of a chapter beside yours: make fresh CHAPTER=02
	@$(BIN)/python tools/desk.py fresh $(CHAPTER)

test: setup      ## everything that CI runs: lint, unit tests, notebooks, website, browser
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory unit
	@$(MAKE) --no-print-directory nbval
	@$(MAKE) --no-print-directory e2e

check: setup     ## the fast gate, under three minutes
	@$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest -q -n 2 -m "not slow" --ignore tests/e2e tests

lint: setup      ## format, lint, types, notebooks in step with their text
	$(BIN)/ruff check -q .
	$(BIN)/ruff format -q --check .
	$(BIN)/mypy --no-error-summary
	$(BIN)/python tools/nb.py check

unit: setup      ## unit, property and invariant tests
	$(BIN)/python -m pytest -q -n 2 --ignore tests/e2e tests

nbval: setup     ## execute every chapter again and compare each stored output
	$(BIN)/python -m pytest -q $(NBVAL) chapters

run: setup       ## execute the chapters whose text changed
	$(BIN)/python tools/nb.py run

course: setup    ## execute every chapter from its text and build the website
	$(BIN)/python tools/nb.py run --all
	@$(MAKE) --no-print-directory site

book/_vendor/.done: package-lock.json tools/vendor.py $(STAMP)
	$(BIN)/npm ci --ignore-scripts --no-audit --no-fund --loglevel error
	$(BIN)/python tools/vendor.py
	@touch $@

site: setup book/_vendor/.done  ## build the website from the stored outputs into _build/html
	$(BIN)/python tools/pages.py
	rm -rf _build/.doctrees
	$(BIN)/jupyter-book build . --config book/_config.yml --toc book/_toc.yml --path-output . \
		-W --keep-going -q

chromium:
	@command -v chromium >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; } || true

e2e: site chromium  ## website and JupyterLab, driven in a real browser
	$(BIN)/python -m pytest -q -n 0 tests/e2e

lock:            ## resolve requirements.in anew
	UV_FIND_LINKS= $(BIN)/uv pip compile -q --universal --python-version 3.11 \
		--custom-compile-command "make lock" requirements.in -o requirements.lock

clean:           ## remove what was built, not the environment
	rm -rf _build node_modules book/_vendor
