# The targets that people type. The two commands work without make: ./start.sh and ./test.sh.
PY := .venv/bin/python
SCRIPTS := start.sh test.sh .ci/run $(wildcard scripts/*.sh)

.PHONY: run test check format

run:
	@./start.sh

test:
	@./test.sh

# What CI asks for after the tests. ./test.sh has installed all of it.
check:
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports
	shellcheck -x $(SCRIPTS)
	@if [ -e tests/test_docs.py ]; then $(PY) -m pytest -q tests/test_docs.py; fi

format:
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .
