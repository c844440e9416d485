# The front door. `make demo` and `make test` work on a bare Debian machine that has git, make, curl and a Rust
# toolchain: what else they need they install (see scripts/install-deps.sh). There is one Cargo profile, release.

SHELL := bash
CARGO ?= cargo

# In CI the build outlives the checkout: it stays in the user's cache folder.
ifeq ($(CI),true)
export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/streamhouse/target
endif

# RocksDB is most of a cold build; ccache, where there is one, makes it the build of once. By way of PATH and not of CC,
# so that a plain `cargo build` in between finds nothing changed.
ifneq ($(wildcard /usr/lib/ccache/c++),)
export PATH := /usr/lib/ccache:$(PATH)
endif

.PHONY: help build demo test sim selftest soak test-power test-scale test-kills test-failover test-store test-read-memory check fix deps deps-test clean

help:
	@echo "make demo    build, run a local cluster, stream real records through it, verify them (KEEP=1: let it run on)"
	@echo "make test    everything that CI runs"
	@echo "make build   the streamhouse binary"
	@echo "make check   formatting, lints, dependencies; changes nothing"
	@echo "make fix     formatting and the lints that can be fixed mechanically"
	@echo "make test-power   power cuts under running controllers, CUTS=300 of them"
	@echo "make test-kills   controllers come, go and hang; leaders die for KILLS=120 seconds"
	@echo "make test-failover   leaders killed KILLS_COUNT=50 times, and how long nothing was written"
	@echo "make test-store   an object store that refuses half of all requests, then all of them, for STORE=60 seconds"
	@echo "make test-scale   a state of SCALE=1000000 segments: start, look-ups, snapshots, memory"
	@echo "make test-read-memory   READ_MIB=10240 of records read within twice the memory limit"
	@echo "make sim     SEEDS=1..2001 of simulated clusters, and two runs of a few of them compared byte for byte"
	@echo "make selftest   the mistakes that the simulation must find, each planted and looked for"
	@echo "make soak    MINUTES=60 of all faults against a cluster of real processes: docs/CHAOS.md"
	@echo "make clean   remove the build"

build: deps
	$(CARGO) build --release --locked --package streamhouse-cli

demo: deps
	scripts/demo.sh

test: deps-test
	scripts/test.sh

CUTS ?= 300
SCALE ?= 1000000
KILLS ?= 120
KILLS_COUNT ?= 50
STORE ?= 60
READ_MIB ?= 10240
SEEDS ?= 1..2001
test-power: deps-test
	STREAMHOUSE_POWER_CUTS=$(CUTS) $(CARGO) test --release --locked --workspace --test processes -- --nocapture disk::a_power_cut

test-kills: deps-test
	STREAMHOUSE_KILLS_SECONDS=$(KILLS) $(CARGO) test --release --locked --workspace --test processes -- --nocapture availability:: leader_kills::

test-failover: deps-test
	STREAMHOUSE_FAILOVER_KILLS=$(KILLS_COUNT) $(CARGO) test --release --locked --workspace --test processes -- --nocapture benchmarks::bench_failover_kills_leaders

test-store: deps-test
	STREAMHOUSE_STORE_SECONDS=$(STORE) $(CARGO) test --release --locked --workspace --test processes -- --nocapture hostile_store::

test-scale: deps-test
	STREAMHOUSE_SCALE=$(SCALE) $(CARGO) test --release --locked --workspace --test processes -- --nocapture scale::

test-read-memory: deps-test
	STREAMHOUSE_READ_MIB=$(READ_MIB) $(CARGO) test --release --locked --workspace --test processes -- --nocapture reading::memory

sim: deps
	scripts/sim.sh twice --seeds 1..4 --seconds 20
	scripts/sim.sh run --seeds $(SEEDS)

selftest: deps
	scripts/sim.sh selftest

MINUTES ?= 60
soak: build
	$${CARGO_TARGET_DIR:-target}/release/streamhouse chaos run --minutes $(MINUTES) --faults all

check:
	scripts/check.sh

fix:
	$(CARGO) fmt --all
	$(CARGO) clippy --release --workspace --all-targets --fix --allow-dirty --allow-staged

deps:
	@scripts/install-deps.sh build

deps-test:
	@scripts/install-deps.sh build test

clean:
	$(CARGO) clean
