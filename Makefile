# Two commands for a fresh machine: `make demo` and `make test`. Each makes .venv if there is none.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SITE := $(VENV)/.installed-docs
export WANDB_ERROR_REPORTING := false
# Python's bytecode is kept even where the machine asks that it is not: it would be made anew, with pytest's assertions, by
# every worker and by every process that a test starts
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo tasks test lint types imports tests shapes heavy slow page docs faults sanitized bench gpu wheel clean

demo: $(STAMP) ## train the demo study and write its report
	$(BIN)/retrograde study=demo
	$(BIN)/python analysis/report.py outputs/demo --to outputs/demo-report

tasks: $(STAMP) ## is each task learnt by the model that should learn it? about 15 minutes
	$(BIN)/python benchmarks/tasks.py

test: lint types imports tests ## what has to hold before a change goes in; CI asks for heavy, shapes and page too

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP) # benchmarks by themselves, since analysis/ has a board.py too
	$(BIN)/mypy
	MYPYPATH=src:benchmarks $(BIN)/mypy benchmarks

imports: $(STAMP)
	$(BIN)/lint-imports

tests: $(STAMP)
	$(BIN)/python -m pytest -q -n logical --dist worksteal

# checked as the code runs, which makes it three times as slow: so on what each member does, and not on all that is known
# of it; nor in tasks, where beartype's own draws from Python's global generator would be taken for the task's
SHAPED := retrograde.core,retrograde.layers,retrograde.models,retrograde.probes,retrograde.regularizers
shapes: $(STAMP) ## shapes and types in signatures
	$(BIN)/python -m pytest -q -n logical --dist worksteal --jaxtyping-packages=$(SHAPED),beartype.beartype \
		tests/contracts/test_recurrences.py tests/contracts/test_probes.py tests/regularizers \
		tests/contracts/test_models.py -k "not test_models or trace_computes_the_outputs or every_parameter_learns"

heavy: $(STAMP) ## whole runs, sweeps and processes of their own; CI asks for them
	$(BIN)/python -m pytest -q -m heavy -n logical --dist worksteal $$(grep -rlE 'mark\.heavy' --include='*.py' src tests)

slow: $(STAMP) ## the tests that take minutes
	$(BIN)/python -m pytest -q -m slow -n logical

AXE := .page_cache/axe.min.js
page: $(STAMP) $(AXE) ## the report's page in Debian's chromium, at two widths, light and dark; axe-core finds nothing
	@command -v chromium >/dev/null || { echo "make page: Debian's package 'chromium' is missing" >&2; exit 1; }
	$(BIN)/python -m pytest -q -m slow tests/analysis/test_page.py

$(AXE):
	@command -v npm >/dev/null || { echo "make page: npm is missing, which fetches axe-core" >&2; exit 1; }
	mkdir -p $(@D)
	cd $(@D) && npm pack --silent axe-core@4.14.1 >/dev/null && tar -xzmf axe-core-4.14.1.tgz --strip-components=1 \
		package/axe.min.js && rm axe-core-4.14.1.tgz

docs: $(SITE) ## the documentation's pages, into site/; a warning is an error
	$(BIN)/python -m doctest docs/extensions/docstrings.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

faults: $(STAMP) ## sweeps killed at random moments, until they are done; a thousand damaged folders; half an hour
	$(BIN)/python tests/faults.py --jobs 40
	$(BIN)/python tests/faults.py --jobs 40 --launches 2
	$(BIN)/python tests/record/damage_long.py 1000 30

sanitized: $(STAMP) ## layers/compiled.cpp where every access to memory and every undefined step is watched; five minutes
	CXX="g++ -g -fsanitize=address,undefined -fno-sanitize-recover=all" \
		LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" \
		ASAN_OPTIONS=detect_leaks=0:detect_odr_violation=0 \
		$(BIN)/python -m pytest -q -p no:xdist tests/layers/test_compiled.py -k "not damaged and not warning"

BENCH := .bench
bench: $(STAMP) ## what measuring and all else costs, as ratios within one run, on a page with what it was before; an hour
	mkdir -p $(BENCH)
	$(BIN)/python benchmarks/exactness.py --json $(BENCH)/exactness.json
	$(BIN)/python benchmarks/overhead.py --json $(BENCH)/overhead.json
	$(BIN)/python benchmarks/loop.py --json $(BENCH)/loop.json
	$(BIN)/python benchmarks/floors.py --json $(BENCH)/floors.json
	$(BIN)/python benchmarks/forms.py --json $(BENCH)/forms.json
	$(BIN)/python benchmarks/seeds.py --json $(BENCH)/seeds.json
	$(BIN)/python benchmarks/attention.py --json $(BENCH)/attention.json
	$(BIN)/python benchmarks/sweep.py --json $(BENCH)/sweep.json
	-$(BIN)/python benchmarks/drawing.py --json $(BENCH)/drawing.json
	-$(BIN)/python benchmarks/report.py --json $(BENCH)/report.json
	$(BIN)/python benchmarks/growth.py --to $(BENCH)/growth.json
	$(BIN)/python benchmarks/peers.py --to $(BENCH)/peers.json
	$(BIN)/python benchmarks/board.py $(filter-out $(BENCH)/exactness.json,$(wildcard $(BENCH)/*.json))

gpu: ## what needs a CUDA device; results go to $OUT, or to benchmarks/results
	bash benchmarks/gpu.sh

wheel: $(STAMP)
	$(BIN)/python -m build --wheel

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $@

$(SITE): $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev,docs]"
	touch $@

clean:
	rm -rf $(VENV) $(BENCH) dist build site .mypy_cache .ruff_cache .pytest_cache
