# Two commands are all a newcomer needs: `make demo` and `make test`. Both make .venv themselves.

# The first interpreter that really runs, is new enough and can make an environment: a version manager's
# shim may stand in the PATH for a Python that it refuses to start.
USABLE := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	if $$p -c '$(USABLE)' >/dev/null 2>&1; then echo $$p; break; fi; done)
BIN := .venv/bin
PYTEST_ARGS ?=
# Most tests wait for a server or a lock: more of them than cores keep two cores busy.
TEST_WORKERS ?= 5
BENCH_ARGS ?=
# Tests start hundreds of interpreters: without bytecode each of them compiles the program again, and pytest the tests.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test torture lint types mypy pyright imports format bench bench-peers bench-smoke docs screenshots strict clean

.venv/pyvenv.cfg:
	@test -n "$(PYTHON)" && "$(PYTHON)" -c '$(USABLE)' || { \
		echo "Surgetank needs Python 3.11 or newer with its venv and ensurepip modules; found '$(PYTHON)'."; \
		echo "On Debian: apt install python3-venv. Or name one: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/.demo: .venv/pyvenv.cfg pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[langgraph,embedded,tables,server]'
	@touch $@

.venv/.test: .venv/pyvenv.cfg pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@ .venv/.demo

demo: .venv/.demo ## run an agent, kill the database under it, see everything arrive, then look at it in the console
	$(BIN)/surgetank demo

test: lint types imports bench-smoke strict ## everything that CI runs, apart from `make docs`
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist worksteal $(PYTEST_ARGS)

STRICT := tests/unit/test_hostile_state.py tests/unit/test_serde_property.py tests/unit/test_state_classes.py \
	tests/integration/test_deploys.py tests/integration/test_values.py tests/integration/test_saver.py \
	tests/contract/test_saver_conformance.py

strict: .venv/.test ## saver and serializer as LangGraph's strict mode has them: only allowed classes are built
	LANGGRAPH_STRICT_MSGPACK=true $(BIN)/python -m pytest -q -n $(TEST_WORKERS) $(STRICT)

TORTURE_SEEDS ?= 20
TORTURE := tests/faults/test_chaos.py tests/faults/test_runs_killed.py tests/faults/test_runs_racing.py \
	tests/faults/test_runs_frozen.py tests/faults/test_serving_killed.py tests/faults/test_serving_racing.py \
	tests/faults/test_serving_outage.py tests/faults/test_runs_leave_nothing.py \
	tests/faults/test_killed_at_any_moment.py tests/faults/test_storm_killed.py tests/integration/test_server_schema.py

torture: .venv/.test ## the proofs by chance at their whole length, with their figures; TORTURE_SEEDS=100 for more
	SURGETANK_TORTURE_SEEDS=$(TORTURE_SEEDS) $(BIN)/python -m pytest -s -q $(TORTURE)

lint: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: mypy pyright

mypy: .venv/.test
	$(BIN)/mypy

pyright: .venv/.test
	$(BIN)/pyright --pythonpath $(BIN)/python

imports: .venv/.test
	$(BIN)/lint-imports

bench: .venv/.test ## measure, side by side with LangGraph's own savers; BENCH_ARGS='--only calls', '--help'
	$(BIN)/python -m bench $(BENCH_ARGS)

bench-peers: bench/peers.txt ## an environment of its own for `langgraph dev`, which `make bench` then measures beside ours (Elastic-2.0; not part of Surgetank)
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install -q --disable-pip-version-check -r bench/peers.txt

bench-smoke: .venv/.test
	$(BIN)/python -m bench --smoke

.venv/.docs: .venv/.test
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

docs: .venv/.docs ## the documentation as HTML in build/docs; a link that leads nowhere fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q --strict
	@echo "build/docs/index.html"

screenshots: .venv/.test ## pictures of the console's pages into docs/images/console; needs chromium
	PYTHONPATH=tests $(BIN)/python -m support.scene

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
