# The two commands of the README are `make demo` and `make test`; both install what they need first.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := build
export PATH := $(HOME)/.cargo/bin:$(PATH)

CARGO ?= cargo
HOST := x86_64-unknown-linux-gnu
KILN := target/release/kiln
# The lab makes namespaces, mounts and machines of its own: it needs root, nothing else does.
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo --preserve-env=PATH,KILN_HOME,SOAK_MINUTES,SOAK_SEED,SOAK_STEPS,RUST_TEST_NOCAPTURE)

.PHONY: deps build faults demo demo-down test check bench show-hosts model mutants soak clean

deps:
	@.ci/install-deps

# The agent is linked statically, so that one binary runs in every image whatever machine built it.
build: deps
	$(CARGO) build --release --locked -p kiln-builder
	RUSTFLAGS="-C target-feature=+crt-static" $(CARGO) build --release --locked -p kiln-firstboot --bin firstboot --target $(HOST)
	install -m 0755 target/$(HOST)/release/firstboot target/release/firstboot

demo: build
	$(SUDO) $(KILN) lab up lab --driver vm

demo-down:
	$(SUDO) $(KILN) lab down lab

# The agent with power cuts and a clock to bend compiled in, for tests only.
faults: deps
	$(CARGO) build --locked -p kiln-firstboot --bin firstboot --features faults
	install -D -m 0755 target/debug/firstboot target/faults/firstboot

# Everything, against the real thing: a real archive, etcd, DNS server, machines.
test: build faults
	$(SUDO) tests/run

check: deps
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) test --locked --workspace --exclude kiln-tests --exclude kiln-model

bench: build faults
	$(SUDO) tests/run bench

# The six nodes of profiles/k8s0.toml on two hosts that the lab plays, from deploying to the loss of a host. 40 to 70 minutes where
# they are emulated on two processors, if these bear it (README); PROFILE=pair has three and takes a quarter of an hour.
PROFILE ?= k8s0
show-hosts: build
	$(SUDO) tests/run show-hosts $(PROFILE)

# Faults at random for so long (or for STEPS=n), the same ones for the same SEED; told step by step in target/soak/SEED.log.
MINUTES ?= 10
SEED ?= $(shell date +%s)
STEPS ?= 0
soak: build faults
	SOAK_MINUTES=$(MINUTES) SOAK_SEED=$(SEED) SOAK_STEPS=$(STEPS) RUST_TEST_NOCAPTURE=1 $(SUDO) tests/run -p kiln-tests --test soak

# Every configuration of the model as far as it goes, every mutant of it, every limit. A quarter of an hour to half an hour; the small ones
# are in `make test`.
model:
	$(CARGO) run --locked -p kiln-model

# Bends the deciding files line by line; unit tests must notice. Hours. Needs `cargo install cargo-mutants --locked`.
DECIDING := decide charter identity grant replacement custody
mutants:
	$(CARGO) mutants -p kiln-firstboot $(foreach file,$(DECIDING),-f firstboot/src/$(file).rs) -- --lib

clean:
	$(CARGO) clean
