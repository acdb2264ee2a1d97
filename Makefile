# Everything a contributor or CI runs. Building and running need only cargo: see README.md.

# Most tests wait for servers rather than compute, so more of them than cores run at once.
export RUST_TEST_THREADS ?= 4

.PHONY: help setup fmt lint unit docs test chaos simulate bench bench-engine

help:
	@echo "make setup   install what the tests need (apt-get; says what)"
	@echo "make test    everything CI runs: setup, fmt, lint, unit, docs"
	@echo "make fmt     is the code formatted?"
	@echo "make lint    clippy, no warnings"
	@echo "make unit    all tests, against real ZooKeeper, Redis and nginx"
	@echo "make docs    the documentation of the code, no warnings"
	@echo "make simulate   simulated clusters from seed SEED on, SEEDS of them, or of one seed what happened in it"
	@echo "make chaos   everything breaks, for BACKPACK_CHAOS_SECONDS (300), by the plan of BACKPACK_SEED: see docs/chaos.md"
	@echo "make bench   everything beside what it stands against: nginx, the disk, the network; some 10 minutes"
	@echo "make bench-engine   the storage engine beside what the disk gives without it; some 15 minutes"

setup:
	@scripts/setup

# One after the other even under `make -j`: they share cargo's lock on the target folder.
test:
	@$(MAKE) --no-print-directory setup
	@$(MAKE) --no-print-directory fmt
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory unit
	@$(MAKE) --no-print-directory docs

fmt:
	cargo fmt --check

lint:
	cargo clippy --locked --all-targets -- -D warnings

unit:
	TMPDIR=$$(scripts/test-folder) cargo test --locked

docs:
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items

# `make simulate SEED=4711 SEEDS=1` shows what a seed is about. The first time it builds everything anew, optimised.
SEED ?= 1
SEEDS ?= 5000
simulate:
	BACKPACK_SEED=$(SEED) BACKPACK_SEEDS=$(SEEDS) $(if $(filter 1,$(SEEDS)),BACKPACK_TRACE=1) \
		cargo test --locked --profile simulation --test simulation -- seeds_hold --nocapture

# One at a time: each run has a machine full of processes.
chaos:
	@$(MAKE) --no-print-directory setup
	TMPDIR=$$(scripts/test-folder) cargo test --locked --test chaos -- --ignored --nocapture --test-threads=1

# `make bench PARTS="get put"` measures these; `make bench PARTS=--quick` only shows that it runs. Measured only when they are named:
# `PARTS=bounds`, what bare loops in our place reach here, some seven minutes; `PARTS="blobs map steady"`, what changes with growth and whether
# anything grows in ten minutes, half an hour.
bench:
	@$(MAKE) --no-print-directory setup
	cargo bench --locked --bench system -- $(PARTS)

# On a disk, not in memory: that is what is measured.
bench-engine:
	cargo bench --locked --bench engine
