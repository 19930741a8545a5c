# What a person types. Each target installs what it needs; the second time is quick.
.PHONY: help install-deps web demo test test-postgres lint deny fmt release wheel bench bench-api
.DEFAULT_GOAL := help
SHELL := /bin/bash
JOBS := $(shell nproc)
# Tests of the server that ask no database: git, settings and the contract.
WITHOUT_SQL := config contract docs engine git_host packs

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install-deps: ## Install what building, testing and the demo need
	@scripts/bootstrap test

web: ## Build the web app, where its sources are newer
	@scripts/web build

demo: ## Watch an agent mend a failing test in an isolated sandbox
	@scripts/bootstrap
	@scripts/web build
	@demo/run

test: ## Run every check and every test
	@scripts/bootstrap test
	@scripts/web build
	@$(MAKE) --no-print-directory lint
	@if cargo nextest --version >/dev/null 2>&1; then set -x; cargo nextest run --workspace --no-fail-fast --build-jobs $(JOBS); \
	else set -x; cargo test --workspace --no-fail-fast --jobs $(JOBS); fi
	@$(MAKE) --no-print-directory test-postgres
	@scripts/web test
	@scripts/sdk test

test-postgres: ## The server's tests once more, on PostgreSQL
	@export CODEGEN_TEST_DATABASE=postgres; set -x; \
	cargo test --package codegen-server --test it --no-fail-fast --jobs $(JOBS) -- $(WITHOUT_SQL:%=--skip %::)

lint: ## Formatting and lints, warnings denied
	@scripts/lint $(JOBS)
	@scripts/web check
	@scripts/sdk check

deny: ## Bans, licenses and sources of the dependencies, where cargo-deny is there
	@if cargo deny --version >/dev/null 2>&1; then cargo deny --all-features check bans licenses sources; \
	else echo "cargo-deny is not installed (cargo install cargo-deny), so the dependencies were not checked."; fi

fmt: ## Format the code
	cargo fmt --all

release: ## One executable with everything inside: target/release/codegen
	@scripts/bootstrap
	@scripts/web required
	cargo build --release --package codegen-cli --jobs $(JOBS)
	@ls -lh target/release/codegen

wheel: ## The Python package with the command inside, for hosts with glibc 2.17 or later: target/wheels/release
	@scripts/bootstrap
	@scripts/web required
	@scripts/sdk release

bench: release ## Measure start, latency, overhead and memory
	@python3 bench/first_slice.py target/release/codegen
	@python3 bench/big_repository.py target/release/codegen
	@CODEGEN_BINARY=target/release/codegen node bench/first_screen.js
	cargo run --release --quiet --package codegen-sandbox --example sandbox_bench
	cargo build --release --quiet --package codegen-server --example sse_load
	@python3 bench/sse.py
	@python3 bench/thousand.py
	cargo build --release --quiet --package codegen-store --example log_append
	@python3 bench/log_append.py
	@scripts/bootstrap test
	@scripts/sdk bench

bench-api: release ## Measure the API with 1,000,000 runs beside a FastAPI server
	@python3 bench/api/bench.py target/release/codegen
