# README's two commands are `make demo` and `make test`; each does all of its set-up.
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check lint types imports bench wheel clean

demo: $(VENV)/.demo
	$(BIN)/trimtab demo

test: check
	$(BIN)/python -m pytest

check: $(VENV)/.dev .names/trimtab
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=.names $(BIN)/lint-imports --config pyproject.toml

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

wheel: $(VENV)/.dev
	$(BIN)/python -m build --wheel

clean:
	rm -rf $(VENV) .names build dist *.egg-info

# A fresh Debian or Ubuntu has neither ensurepip nor, at times, a new enough Python: say which in one sentence.
$(VENV)/bin/pip:
	@python=; for p in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
	  if command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	  then python=$$p; break; fi; done; \
	if [ -z "$$python" ]; then echo "trimtab needs Python 3.11 or newer: apt-get install python3 (or name one: make PYTHON=/path/to/python3.12 ...)" >&2; exit 1; fi; \
	if ! $$python -c 'import ensurepip, venv' 2>/dev/null; then \
	  echo "trimtab needs Python's venv module: apt-get install python3-venv" >&2; exit 1; fi; \
	$$python -m venv $(VENV)

# The demo needs no PyTorch; the tests do (they export models).
$(VENV)/.demo: $(VENV)/bin/pip pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[cpu,demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/bin/pip pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# The editable install maps `trimtab.drift` to `drift/` by an import hook, which type checkers do not see; they
# and the import linter see this link instead.
.names/trimtab:
	@mkdir -p .names && ln -sfn .. .names/trimtab
