# Everything runs in a virtual environment of its own, made on first use; only Python 3.11+ and make are needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test heavy cluster lint bench performance clean

$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[service]'
	@touch $@

$(VENV)/ready-dev: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(VENV)/ready  ## two weeks of a small synthetic country, end to end; on a terminal, then to be asked for
	$(BIN)/travelcard demo $$(test -t 1 && echo --serve)

test: $(VENV)/ready-dev  ## what every change must pass
	$(BIN)/python -m pytest -n auto --dist loadfile

heavy: $(VENV)/ready-dev  ## the minutes-long checks
	$(BIN)/python -m pytest -n auto --dist worksteal -m heavy

cluster: $(VENV)/ready-dev  ## the tests on Apache Spark, which needs Java 17
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[spark]'
	$(BIN)/python -m pytest -m "" tests/test_spark.py

lint: $(VENV)/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/ready-dev  ## how fast this machine is, beside other engines
	$(BIN)/travelcard bench

performance: $(VENV)/ready-dev  ## docs/performance.md from what is on record
	$(BIN)/python -m benchmarks.plots

clean:
	rm -rf $(VENV) build dist demo
