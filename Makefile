# Everything a bare clone needs is Python and make; each target works in its own .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint types docs benchmark clean

demo: .venv/train.stamp
	$(BIN)/episodes demo --output demo --overwrite

test: .venv/dev.stamp lint types
	$(BIN)/python -m pytest
	$(BIN)/mkdocs build --quiet --strict --site-dir site

lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev.stamp
	$(BIN)/mypy

# Every target of speed and memory with what was measured; BENCH=--quick for whether it runs at all.
benchmark: .venv/dev.stamp
	$(BIN)/python benchmarks/targets.py $(BENCH)

docs: .venv/dev.stamp
	$(BIN)/mkdocs serve

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/train.stamp: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[train]"
	touch $@

.venv/dev.stamp: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[train,dev]"
	touch $@ .venv/train.stamp

clean:
	rm -rf .venv build dist site *.egg-info
