# `make` says what there is. Every target runs on a fresh Debian or Ubuntu with rustup, and does nothing twice.

.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

export FULGURITE_CACHE ?= $(HOME)/.cache/fulgurite
# A CI machine keeps what it built between checkouts.
ifdef CI
export CARGO_TARGET_DIR ?= $(FULGURITE_CACHE)/target
endif
TARGET := $(or $(CARGO_TARGET_DIR),target)

.PHONY: help prerequisites libtorch models build demo learn agents bench test peers fuzz

help: ## what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

prerequisites:
	@scripts/prerequisites.sh

libtorch: prerequisites ## fetch libtorch 2.13.0 into libtorch/ (LIBTORCH_CUDA=1: with CUDA)
	@scripts/libtorch.sh

models: prerequisites ## fetch SmolLM2-135M-Instruct (GGUF, Apache-2.0) into models/
	@scripts/models.sh

build: libtorch ## build the release binary
	cargo build --release --locked

# Most of the demo's time is libtorch's, so that a build without optimisation does: from nothing a release takes four times as long.
demo: libtorch ## a tiny policy learns to use a calculator: the whole loop, minutes on two cores
	cargo build --locked
	@FULGURITE=$(TARGET)/debug/fulgurite scripts/demo.sh

learn: build ## the demo with three seeds, and what AIR and the credit method add: nine runs
	@FULGURITE=$(TARGET)/release/fulgurite scripts/learn.sh

agents: build ## the tiny policy learns with AutoGen, LangGraph and the OpenAI Agents SDK: three seeds each
	@scripts/clients-env.sh
	@PATH="$(CURDIR)/.venv-clients/bin:$$PATH" FULGURITE=$(TARGET)/release/fulgurite scripts/learn_agents.sh

bench: build ## ratios against live peers (DuckDB, Agent Lightning)
	@FULGURITE=$(TARGET)/release/fulgurite scripts/bench.sh

test: libtorch ## everything that must hold: format, lints, tests, docs, the README's commands
	@scripts/test.sh

peers: libtorch ## tests against peers that are too heavy for every run: Azurite, transformers, peft, llama.cpp, vLLM, Agent Lightning
	@scripts/peers.sh

fuzz: ## fuzz the readers, a minute each (FUZZ_SECONDS=900: longer); needs a nightly toolchain and cargo-fuzz
	@scripts/fuzz.sh
