# Two commands: `make run` runs the whole recipe on this machine, `make test` runs the tests.
# Both set up .venv first. TORCH_INDEX names a wheel index with CPU builds of torch, for machines whose
# default index has only the CUDA build:  make run TORCH_INDEX=<url>
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements/cpu.txt
TORCH_INDEX ?=
PROFILE ?= laptop
STORE ?= store
FUZZ_SECONDS ?= 60

.PHONY: run test setup lint audit fuzz plan up clean-store help

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

run: setup ## run the whole recipe on the laptop profile (cached stages are reused)
	$(BIN)/nanbeige run --profile $(PROFILE) --store $(STORE)

test: setup lint ## run linters, the type checker and every test
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: setup ## ruff, pyright and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

audit: setup ## ask the public advisory database about every pinned package (needs a network)
	"$(PYTHON)" -m venv $(VENV)/audit
	$(VENV)/audit/bin/python -m pip install -q pip-audit==2.10.1
	$(VENV)/audit/bin/pip-audit --requirement $(LOCK) --no-deps --disable-pip --strict

fuzz: setup ## fuzz every parser of untrusted bytes, guided by coverage, a minute each (Linux)
	$(BIN)/python -m pip install -q --no-deps --upgrade --target $(VENV)/fuzz atheris==3.0.0
	PYTHONPATH="$(CURDIR):$(VENV)/fuzz" $(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS)

plan: setup ## show what `make run` would do
	$(BIN)/nanbeige plan --profile $(PROFILE) --store $(STORE)

up: setup ## start the Prefect server and deployments, to trigger runs from the UI
	$(BIN)/nanbeige up --store $(STORE)

setup: $(VENV)/.ready

$(VENV)/.ready: $(LOCK) pyproject.toml infra/setup.sh
	PYTHON="$(PYTHON)" VENV="$(VENV)" LOCK="$(LOCK)" TORCH_INDEX="$(TORCH_INDEX)" sh infra/setup.sh
	touch $@
