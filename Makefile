# Everything a newcomer types. Each target makes its own environment in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: search test check gpu-report report clean

# The quickstart study; `make search GPU=0` runs it on a GPU, `make search ARGS="--trials 40"` passes flags on.
# --resume goes on with what an interrupted run left.
search: $(VENV)/.installed
	$(BIN)/python -m vnas.search --study quickstart --resume $(if $(GPU),--gpu $(GPU) --out reports/quickstart-gpu$(GPU)) $(ARGS)

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n auto $(ARGS)

# What .ci/run checks before the tests: style, types, import directions.
check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_imports.py

# Everything that needs a GPU, in under 9 minutes, into reports/<name of the GPU>: `make gpu-report GPU=1`. Installs
# nothing where $(PYTHON) has torch, timm, scipy and pytest, so that a machine without network can run it. Make ends with
# 2 whatever went wrong; `python -m benchmarks.gpu_report` with the code itself (1 a step failed, 3 no such GPU).
gpu-report:
	@if $(PYTHON) -c 'import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, ("torch", "timm", "scipy", "pytest"))))'; then \
		$(PYTHON) -m benchmarks.gpu_report $(if $(GPU),--gpu $(GPU)) $(ARGS); \
	else \
		$(MAKE) $(VENV)/.installed-test && $(BIN)/python -m benchmarks.gpu_report $(if $(GPU),--gpu $(GPU)) $(ARGS); \
	fi

$(BIN)/python:
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else f"vnas needs Python 3.11 to 3.13, this is {v[0]}.{v[1]}: type make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@ $(VENV)/.installed $(VENV)/.installed-test

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
