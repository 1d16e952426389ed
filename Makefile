# SPDX-License-Identifier: Apache-2.0
# Every target sets up what it needs in .venv; nothing is installed elsewhere.

PYTHON ?= python3
EXTRAS ?= dev
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 2
SIZES ?= 370M
SYNTHESISED ?= axi core dram/test_control.py dram/test_native.py engine link/test_link.py memory scalar sequencer streamed synthesised vector

.PHONY: demo test sweep synthesised lint bench bench-large bitstreams setup clean help
.DEFAULT_GOAL := help

help:            ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: setup      ## a trained model writes Python on the simulated core
	@$(BIN)/nomul run --tokens 120 "for line in f"

test: setup      ## all tests but the long sweeps
	$(BIN)/pytest -q -n $(JOBS) --dist worksteal -m "not sweep"

sweep: setup     ## the long sweeps
	$(BIN)/pytest -q -n $(JOBS) --dist worksteal -m sweep

synthesised: setup  ## the units' testbenches on what synthesis makes of them
	NOMUL_SYNTHESISED=1 $(BIN)/pytest -q -n $(JOBS) --dist worksteal --timeout 3600 -m "not sweep" \
	  $(addprefix --ignore-glob=,*_formal.py *board.py *simul*.py) $(addprefix tests/,$(SYNTHESISED))

lint: setup build/types/nomul  ## ruff and mypy
	$(BIN)/ruff check .
	MYPYPATH=build/types $(BIN)/mypy -p nomul.model -p nomul.sim -p nomul.hw -p nomul.host -p nomul.train

bench: setup     ## area, Fmax, cycles, tokens per second: build/bench.json
	@mkdir -p build
	$(BIN)/python -m nomul.host.cli.bench_toolkit > build/bench.part
	@mv build/bench.part build/bench.json && echo build/bench.json

bench-large:     ## published sizes (SIZES="370M 1.3B 2.7B"; 370M alone by default): import, golden, PyTorch; streamed cores, lanes, DRAM controllers: build/bench-*.json
	$(MAKE) setup EXTRAS=dev,train
	@mkdir -p build
	$(BIN)/python -m nomul.host.cli.bench_large $(SIZES) > build/bench-large.tmp
	@mv build/bench-large.tmp build/bench-large.json && echo build/bench-large.json
	$(BIN)/python -m nomul.sim.dram.bench > build/bench-dram.tmp
	@mv build/bench-dram.tmp build/bench-dram.json && echo build/bench-dram.json
	$(BIN)/python -m nomul.host.cli.bench_streamed tokens dram prefill lanes area wide --sizes $(SIZES) > build/bench-streamed.tmp
	@mv build/bench-streamed.tmp build/bench-streamed.json && echo build/bench-streamed.json

bitstreams: setup  ## the released bitstreams again, bit for bit; UPDATE=--update replaces what differs
	$(BIN)/python -m nomul.host.cli.rebuild $(UPDATE)

setup: $(VENV)/installed-$(EXTRAS)

# What pip cannot bring is asked for by the name of its Debian package, before anything else is done.
$(VENV)/installed-$(EXTRAS): pyproject.toml
	@for need in g++ make perl; do command -v $$need >/dev/null || \
	  { echo "nomul: $$need is missing: apt-get install $$need" >&2; exit 1; }; done
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "nomul: Python 3.11 or newer is needed: apt-get install python3" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || \
	  { echo "nomul: Python's venv is missing: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]'
	@touch $@

# mypy wants the namespace that setuptools makes on installation.
build/types/nomul:
	@mkdir -p $@ && for part in model sim hw host train; do ln -sfn ../../../$$part $@/$$part; done

clean:           ## everything generated, the environment included
	rm -rf build $(VENV) *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
