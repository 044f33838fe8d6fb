# Everything happens in .venv: nothing is installed outside this folder.
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin

# The first of these that is Python 3.11 or newer. Another one: make PYTHON=/path/to/python
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3.14 python3; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$name; break; }; done)

# The servers of `make test-services`, and what starts them where they are missing.
TEST_DATABASE_URL ?= postgres://postgres@127.0.0.1:5432/postgres
TEST_REDIS_URL ?= redis://127.0.0.1:6379/5
# The suite itself runs on them, and so does what its tests start.
SERVICES = DATABASE_URL="$(TEST_DATABASE_URL)" REDIS_URL="$(TEST_REDIS_URL)" \
	TEST_DATABASE_URL="$(TEST_DATABASE_URL)" TEST_REDIS_URL="$(TEST_REDIS_URL)"

# What production looks like, for the checks.
PRODUCTION := DEBUG=false HTTPS=true DOTENV=/dev/null SECRET_KEY=a-key-for-the-deployment-check-0123456789-abcdefghijklmnop \
	FIELD_ENCRYPTION_KEYS=b25lLWtleS1mb3ItdGVzdHMtYW5kLW5vdGhpbmctMDE= ALLOWED_HOSTS=tradehub.example

.PHONY: help demo test test-services test-browser check bench bench-queue bench-streams chaos clean requirements format

help:
	@echo "make demo           run everything here, against a simulated exchange"
	@echo "make test           run the tests"
	@echo "make test-services  run them on PostgreSQL and Redis, and those that need both"
	@echo "make test-browser   run those that need Chromium"
	@echo "make check          format, lint, types, layers, migrations, deployment"
	@echo "make bench          measure the way from webhook to exchange (PostgreSQL)"
	@echo "make bench-queue    measure what a rebalance costs beside long queues (PostgreSQL)"
	@echo "make chaos          break the whole system at random and compare (RUNS=25 SEED=1; PostgreSQL, Redis of its own)"
	@echo "make bench-streams  measure what following 200 accounts costs (PostgreSQL, Redis)"
	@echo "make requirements   resolve requirements*.in into pinned, hashed requirements*.txt"
	@echo "make clean          remove everything that these commands made"

# --- the environment ------------------------------------------------------------------------------

# A stamp per list: what changed is installed again, nothing else.
$(VENV)/runtime: requirements.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed (or name one: make PYTHON=...)"; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) cannot make a virtual environment. On Debian: apt-get install python3-venv"; exit 1; }
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@touch $@

$(VENV)/development: requirements-dev.txt $(VENV)/runtime
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@

# --- running ----------------------------------------------------------------------------------------

demo: $(VENV)/runtime
	@$(BIN)/python demo/run.py

# --- testing ----------------------------------------------------------------------------------------

# Those that start processes run one after the other (tests/side_by_side.py).
PYTEST := $(BIN)/python -m pytest -p tests.side_by_side -p tests.emptying --dist loadgroup $(ARGS)
# What knows no database, or has one of its own as the demo, runs once, in `make test`: the import contracts keep
# Django out of simulator and adapters.
PURE := --ignore=exchanges/simulator --ignore=chaos/tests --ignore=orders/tests/test_planning.py \
	--ignore=orders/tests/test_planning_life.py --ignore-glob='exchanges/tests/test_binance_*' \
	--ignore=exchanges/tests/test_http.py --ignore=exchanges/tests/test_contract.py \
	--ignore=exchanges/tests/test_limits.py --ignore=exchanges/tests/test_ccxt_agreement.py \
	--ignore=exchanges/tests/test_breaker.py --ignore=tests/test_demo.py

test: $(VENV)/development
	env -u DATABASE_URL -u REDIS_URL $(PYTEST) -n 3 -m "not services and not browser"

test-services: $(VENV)/development
	@$(BIN)/python tools/need_services.py "$(TEST_DATABASE_URL)" "$(TEST_REDIS_URL)"
	$(SERVICES) $(PYTEST) -n 3 $(PURE) -m "not browser"

test-browser: $(VENV)/development
	$(PYTEST) -n 2 -m browser $(if $(filter tests/%,$(ARGS)),,tests/browser)

check: $(VENV)/development
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(PRODUCTION) $(BIN)/mypy .
	$(BIN)/lint-imports
	$(PRODUCTION) $(BIN)/python manage.py makemigrations --check --dry-run
	$(PRODUCTION) $(BIN)/python manage.py check --deploy --fail-level WARNING

bench: $(VENV)/development
	@$(BIN)/python tools/need_services.py "$(TEST_DATABASE_URL)" "$(TEST_REDIS_URL)"
	$(SERVICES) $(BIN)/python -m bench $(ARGS)

bench-queue: $(VENV)/development
	@$(BIN)/python tools/need_services.py "$(TEST_DATABASE_URL)" "$(TEST_REDIS_URL)"
	$(SERVICES) $(BIN)/python -m bench.queue $(ARGS)

# Its PostgreSQL and Redis are its own: they are killed and frozen as well. WORKERS=2 runs two of them.
RUNS ?= 25
SEED ?= 1
WORKERS ?= 1

chaos: $(VENV)/development
	@$(BIN)/python -m chaos --runs $(RUNS) --seed $(SEED) --workers $(WORKERS) $(ARGS)

bench-streams: $(VENV)/development
	@$(BIN)/python tools/need_services.py "$(TEST_DATABASE_URL)" "$(TEST_REDIS_URL)"
	$(SERVICES) $(BIN)/python -m bench.streams $(ARGS)

# --- keeping house ----------------------------------------------------------------------------------

format: $(VENV)/development
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

PIP_COMPILE := $(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links

requirements: $(VENV)/development
	$(PIP_COMPILE) --output-file=requirements.txt requirements.in
	$(PIP_COMPILE) --output-file=requirements-dev.txt requirements-dev.in

clean:
	rm -rf $(VENV) var artifacts .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
