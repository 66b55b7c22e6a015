# Two commands do everything: `make serve` and `make test`. Both set up what they need (Python 3.11+, nothing else).
PYTHON ?= python3
BIN := .venv/bin

.PHONY: serve test check

serve: .venv/.runtime
	$(BIN)/pocketpaw serve

test: .venv/.development
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: .venv/.development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

# pip checks hashes for the whole of one call or for none of it, so the project itself comes in a second one.
.venv/.runtime: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

.venv/.development: requirements-dev.lock .venv/.runtime
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-dev.lock
	mkdir -p .venv/typing && ln -sfn ../.. .venv/typing/pocketpaw
	touch $@
