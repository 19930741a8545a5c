# What a person types. Each target installs what it needs; the second time is quick.
.PHONY: help demo test lint fmt release bench
.DEFAULT_GOAL := help
SHELL := /bin/bash
JOBS := $(shell nproc)

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: ## Watch an agent mend a failing test in an isolated sandbox
	@scripts/bootstrap
	@demo/run

test: ## Run every check and every test
	@scripts/bootstrap
	@$(MAKE) --no-print-directory lint
	cargo test --workspace --jobs $(JOBS)

lint: ## Formatting and lints, warnings denied
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --jobs $(JOBS) -- -D warnings

fmt: ## Format the code
	cargo fmt --all

release: ## One executable with everything inside: target/release/codegen
	@scripts/bootstrap
	cargo build --release --package codegen-cli --jobs $(JOBS)
	@ls -lh target/release/codegen

bench: release ## Measure start, latency, overhead and memory
	@python3 bench/first_slice.py target/release/codegen
