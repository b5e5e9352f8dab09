# Every target does its own set-up; `make` alone lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PARTS := -p cutpoint.calibration -p cutpoint.calibrate -p cutpoint.report -m cutpoint.estimator -p cutpoint.bundle -p cutpoint.wire -p cutpoint.client -p cutpoint.server \
	-p cutpoint.trainer -p cutpoint.demo -p cutpoint.importer -p cutpoint.signals -p cutpoint.tune -p cutpoint.watch -m cutpoint.terminal -m cutpoint.cli -m cutpoint.dataset -m cutpoint.errors -m cutpoint.validation
# What `make runtime` installs, and where: the steps of the Dockerfile, so that they are run here too.
EXTRA ?= server
RUNTIME ?= dist/runtime
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help install demo show test lint format proto dashboards wheel runtime check-runtime clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(READY) ## set up .venv with everything
demo: $(READY) ## the main job on simulated bearings: train, export, calibrate, serve, score, watch
	$(BIN)/cutpoint demo --out demo-out

show: $(READY) ## the alert on real ECG recordings, DATA=MITBIH.npz: before a release; six minutes; fails unless it fires when it should
	@test -f "$(DATA)" || { echo "make show DATA=MITBIH.npz: see examples/mitbih/prepare.py for what it holds"; exit 1; }
	$(BIN)/python examples/mitbih/run.py $(DATA) show-out examples/mitbih/monitor.yaml
	$(BIN)/python examples/mitbih/monitor.py show-out

test: $(READY) ## run all tests
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

lint: $(READY) ## check format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy $(PARTS)
	MYPYPATH=deploy/grafana:deploy/prometheus:examples/mitbih $(BIN)/mypy deploy/grafana/build.py examples/mitbih/monitor.py examples/mitbih/run.py

format: $(READY) ## format the code and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

proto: $(READY) ## regenerate the protobuf code
	$(BIN)/python proto/generate.py

dashboards: $(READY) ## regenerate the Grafana dashboards
	$(BIN)/python deploy/grafana/build.py

wheel: .python-checked ## build the wheel into dist/
	$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir dist .

runtime: wheel ## install the wheel with EXTRA (server, gpu, or nothing for the client) into RUNTIME
	rm -rf $(RUNTIME)
	$(PYTHON) -m venv $(RUNTIME)
	$(RUNTIME)/bin/python -m pip install --quiet -c constraints.txt "$$(ls -t dist/cutpoint-*.whl | head -1)$(if $(EXTRA),[$(EXTRA)])"

check-runtime: $(READY) ## install client and server as a user does, and score with what came out
	$(MAKE) runtime EXTRA= RUNTIME=dist/client
	$(MAKE) runtime EXTRA=server RUNTIME=dist/server
	$(BIN)/python tests/check_runtime.py dist/client dist/server

bench-%: $(READY) ## measure beside what it is compared with: calibration, losses, training, detection DATA=FOLDER, ... (see bench/)
	$(BIN)/python bench/$*.py $(DATA)

clean: ## remove what the targets made
	rm -rf $(VENV) dist demo-out show-out .pytest_cache .hypothesis .mypy_cache .ruff_cache

$(READY): pyproject.toml constraints.txt | .python-checked
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	@touch $@

# Says the one line that mends it instead of letting venv fail with a page.
.PHONY: .python-checked
.python-checked:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		|| { echo "Python 3.11 or newer is needed: install it and run make PYTHON=python3.11 ..."; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip, pip' 2>/dev/null \
		|| { echo "python3 lacks venv or pip; on Debian and Ubuntu: sudo apt-get install -y python3-venv python3-pip"; exit 1; }
