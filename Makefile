# make demo      set up, then run the pipeline on this machine: a real 135M model to PPO and a report
# make test      set up, then run the tests that any user can run, but the slow ones
# make test-all  set up, then run all tests, as root: on a real SLURM and in container images too
# make test-vllm set up, then run the tests of a sampler that is a vLLM server: 2.5 GB more
# make check     lint, format and types
# make setup     only set up
# make vllm      make .venv-vllm, with vLLM for CPUs: for runs whose sampler is vLLM
# make locks     rewrite envs/locks: what the container images install, with hashes

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := envs/lock.txt
# Extra options for pip, such as the index of CPU-only builds of torch.
PIP_ARGS ?=
# Processes that tests run in, where they don't need a machine of their own. Many wait for servers.
JOBS ?= 3

.PHONY: demo test test-all test-vllm root check setup vllm locks
.DELETE_ON_ERROR:

setup: $(VENV)/.ready

$(VENV)/.ready: envs/run.txt envs/train.txt envs/bare.txt $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { echo "Python's venv module is missing; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c $(LOCK) torch
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c $(LOCK) -r envs/run.txt -r envs/train.txt
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_ARGS) --no-deps -r envs/bare.txt
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_ARGS) --no-deps --editable .
	@touch $@

$(VENV)/.ready-test: $(VENV)/.ready envs/test.txt
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c $(LOCK) -r envs/test.txt
	@touch $@

demo: $(VENV)/.ready
	$(BIN)/snakemake --profile local

# Runs that are killed, damaged or repeated, or like others, take half of the time.
SELECTED := -m "not slow"

# A file's tests run in one process, and the long files begin first.
test: $(VENV)/.ready-test
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(SELECTED) \
	  tests/workflow tests/serving tests/unit tests/gpu

# There is one SLURM on a machine: these tests run one after the other.
test-all: root $(VENV)/.ready-test
	$(BIN)/python -m pytest tests/cluster tests/container tests/offline
	$(MAKE) test SELECTED=

# By itself: vLLM for CPUs is large, and slow to start.
test-vllm: $(VENV)/.ready-test
	$(BIN)/python -m pytest tests/rollouts

root:
	@echo 'make test-all runs all these tests, for about an hour on two cores. It needs root, /dev/fuse,'
	@echo 'the right to make namespaces and to mount, and Debian with its package index and pip'"'"'s:'
	@echo 'it installs SLURM and MariaDB, adds a user, fetches Apptainer, and brings both up here.'
	@[ "$$(id -u)" = 0 ] || { echo 'You are not root. `make test` runs what any user can run.'; exit 1; }

check: $(VENV)/.ready-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow/rules
	$(BIN)/mypy

# Its own environment: vLLM wants other versions of what the stages run on.
VLLM := .venv-vllm
vllm: $(VLLM)/.ready

$(VLLM)/.ready: envs/locks/sample.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c $(LOCK) torch
	$(VLLM)/bin/pip install --quiet --disable-pip-version-check $(PIP_ARGS) --no-deps -r $<
	@touch $@

LOCKS := envs/locks
UV := $(BIN)/uv pip compile --quiet --no-config --generate-hashes --annotation-style line \
  --custom-compile-command 'make locks' --python-version 3.12 \
  --python-platform x86_64-manylinux_2_35
COMMON := $(UV) --constraint $(LOCK)

locks: $(VENV)/.ready
	$(BIN)/pip install --quiet --disable-pip-version-check uv==0.13.9
	$(COMMON) --override $(LOCKS)/from-base.in -o $(LOCKS)/train.txt envs/train.txt
	$(COMMON) --override $(LOCKS)/from-base.in -o $(LOCKS)/serve.txt envs/serve.txt
	$(UV) --override $(LOCKS)/sample.in -o $(LOCKS)/sample.txt envs/sample.txt
	grep '^torch==' envs/serve.txt | $(COMMON) -o $(LOCKS)/torch.txt -
	grep '^nvidia-pytriton==' envs/bare.txt | $(COMMON) --no-deps -o $(LOCKS)/tritonserver.txt -
