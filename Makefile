# The targets that people type. The two commands work without make: ./start.sh and ./test.sh.
PY := .venv/bin/python
SCRIPTS := start.sh test.sh .ci/run $(wildcard scripts/*.sh deploy/*/*.sh bench/*/*.sh)

.PHONY: run test check format fuzz test-simulation nightly test-llama-server test-vllm image-test test-browser test-large test-ledger test-on-demand test-sdks bench bench-quick bench-features bench-peers

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
	.venv/bin/hadolint Dockerfile
	@if [ -e tests/test_docs.py ]; then $(PY) -m pytest -q tests/test_docs.py; fi

format:
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

# Any bytes at the reader of engines' answers, for ten minutes (or SECONDS=60); what was found is kept for the next time.
fuzz: $(PY)
	@$(PY) -m tests.fuzz.answers --seconds $(or $(SECONDS),600) --keep build/fuzz

# Ten thousand simulated worlds (or SEEDS=100000), a quarter of an hour on two cores: callers, vendors that fail, kills.
test-simulation: $(PY)
	@$(PY) -m tests.simulation --seeds $(or $(SEEDS),10000)

# Renting on real processes, also what takes minutes of real time: the budget's end, two gateways with one Redis.
test-on-demand: $(PY)
	@./test.sh -m "minutes or not minutes" tests/e2e/test_on_demand.py tests/e2e/test_on_demand_money.py \
		tests/e2e/test_on_demand_replicas.py tests/e2e/test_on_demand_vast.py

# What takes longer than anybody waits for.
nightly: test-simulation test-ledger test-on-demand fuzz

# The engine tests against llama.cpp's own server too. Builds it once per version, six minutes, outside the tree.
test-llama-server: $(PY)
	@server=$$(scripts/build_llama_server.sh $(PY)) && WAKEGATE_TEST_LLAMA_SERVER=$$server ./test.sh -m llama_server

# The gateway against a real vLLM on the CPU. Installs it once per version, some minutes and 2.6 GB, outside the tree.
test-vllm:
	@found=$$(scripts/build_vllm.sh) && WAKEGATE_TEST_VLLM=$$found ./test.sh -m vllm tests/engines/test_vllm_real.py

# Builds the container images for real (as root, minutes) and runs them: boot, health, an answer, volumes, users, signals.
image-test: $(PY)
	@scripts/build_image.sh $(PY) && ./test.sh -m image tests/deploy/test_image.py

# What web pages can do, asked of a real Chromium. Installs Debian's (as root) where there is none.
test-browser:
	@browser=$$(scripts/find_browser.sh) && WAKEGATE_TEST_BROWSER=$$browser ./test.sh -m browser tests/browser

# A gigabyte through a whole worker, each way, for callers and engines who stop reading: what its memory does meanwhile.
test-large: $(PY)
	@./test.sh -m large -s tests/e2e/test_large.py

# The ledger after a crash or an error of each system call that can be the last one, on its two kinds of volumes.
test-ledger: $(PY)
	@./test.sh -m "crashes or not crashes" tests/records/ledger/test_sqlite.py

# What callers hear while the model wakes, of libraries too. Installs LangChain and LiteLLM outside the tree, 420 MB.
test-sdks: $(PY)
	@scripts/install_sdks.sh $(PY) all && ./test.sh -m sdks tests/callers

# The gateway's cost beside nginx and other proxies that are installed, and what each feature is of it. Wants a quiet
# machine and a C compiler. Goes on where it was interrupted with: make bench RESUME=--resume
bench: $(PY)
	@$(PY) -m bench.compare $(RESUME)
	@$(PY) -m bench.features

# The same with nginx alone, under three minutes: what a change did to the ratios.
bench-quick: $(PY)
	@$(PY) -m bench.compare --quick

# What each feature of the gateway costs, alone.
bench-features: $(PY)
	@$(PY) -m bench.features

# The other proxies: from Debian (as root), from PyPI into environments of their own, and Go's, all outside the tree.
bench-peers: $(PY)
	@bench/peers/install.sh $(PY)

$(PY):
	@echo "There is no .venv yet: ./test.sh makes it"; exit 2
