# The targets that people type. The two commands work without make: ./start.sh and ./test.sh.
PY := .venv/bin/python
SCRIPTS := start.sh test.sh .ci/run $(wildcard scripts/*.sh)

.PHONY: run test check format test-llama-server

run:
	@./start.sh

test:
	@./test.sh

# What CI asks for after the tests. ./test.sh has installed all of it.
check: $(PY)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports
	shellcheck -x $(SCRIPTS)
	@if [ -e tests/test_docs.py ]; then $(PY) -m pytest -q tests/test_docs.py; fi

format:
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

# The engine tests against llama.cpp's own server too. Builds it once per version, six minutes, outside the tree.
test-llama-server: $(PY)
	@server=$$(scripts/build_llama_server.sh $(PY)) && WAKEGATE_TEST_LLAMA_SERVER=$$server ./test.sh -m llama_server

$(PY):
	@echo "There is no .venv yet: ./test.sh makes it"; exit 2
