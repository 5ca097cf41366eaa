# Every build selects the whole workspace, so that the features of the dependencies are the same in all of them and
# wasmtime and rivvend are compiled once.
WORKSPACE := --workspace --all-targets --locked
TARGET := $(or $(CARGO_TARGET_DIR),target)
COMPONENT := cargo-component 0.21.1
EXAMPLES := $(notdir $(patsubst %/Cargo.toml,%,$(wildcard guest/examples/*/Cargo.toml)))
PYTHON := $(TARGET)/python
PYTHON_EXAMPLES := $(patsubst guest/examples/python-%/plugin.py,$(PYTHON)/example_python_%.wasm,$(wildcard guest/examples/python-*/plugin.py))
GUESTS := --profile plugin --locked -p 'example-*' -p 'hostile-*' -p bench-guest

.PHONY: help test faults soak demo run build guests bench audit lint clean config tools mosquitto

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

test: guests build ## Run all tests, against a broker container where a Docker engine answers
	cargo test --workspace --locked

faults: guests build ## Run 10^7 mutated packets and the fault campaigns in full (40 minutes), and write host/docs/faults.md
	FUZZ_RUNS=1000000 cargo test --workspace --locked --lib -- fuzzing_packets
	$(TARGET)/debug/faults

soak: guests build ## Run mixed faults for MINUTES=60 and write host/docs/faults.md
	$(TARGET)/debug/faults soak --minutes $(or $(MINUTES),60)

demo: guests build ## Show it: broker, fleet, plugin and Rivven in one process, for less than a minute
	$(TARGET)/debug/examples/demo

run: config build ## Run the real thing: make run CONFIG=config.yaml
	$(TARGET)/debug/rivven-mqtt run -c "$(CONFIG)"

build: ## Build the host, the demo, the tests and the benchmarks
	cargo build $(WORKSPACE)

guests: tools $(PYTHON_EXAMPLES) ## Build the WebAssembly components
	cargo build --target wasm32-wasip2 $(GUESTS)
	cargo component build --profile plugin --locked $(EXAMPLES:%=-p example-%)
	cargo build --target wasm32-wasip1 --profile plugin --locked -p floor-guest

$(PYTHON)/example_python_%.wasm: guest/examples/python-%/plugin.py guest/python/component.py guest/python/rivven_plugin.py \
		wit/connect.wit $(PYTHON)/installed
	$(PYTHON)/bin/componentize-py --quiet --wit-path wit --world plugin componentize --stub-wasi \
		--python-path $(<D) --python-path guest/python component --output $@

$(PYTHON)/installed: host/templates/python/requirements.txt
	@python3 -m venv $(PYTHON) \
		|| { test "$$(id -u)" = 0 && apt-get update -qq && apt-get install -qq -y python3-venv && python3 -m venv $(PYTHON); } \
		|| { echo "Python's venv is missing: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON)/bin/pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

bench: guests build mosquitto ## Run the benchmarks, each next to its baseline
	cargo bench --workspace --profile dev --locked --bench '*'

audit: ## Check licences, duplicates, sources and advisories of the dependencies
	.ci/audit

lint: tools ## Check formatting, clippy and the documentation
	cargo fmt --all --check
	cargo clippy $(WORKSPACE) -- -D warnings
	cargo clippy --target wasm32-wasip2 $(GUESTS) -- -D warnings
	cargo clippy -p rivven-mqtt --no-default-features --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

clean: ## Remove everything that was built
	cargo clean

config:
	@test -n "$(CONFIG)" || { echo "usage: make run CONFIG=config.yaml" >&2; exit 2; }

# What the components are built with, installed when it is missing.
tools:
	@command -v cargo >/dev/null || { echo "Rust is missing: see https://rustup.rs" >&2; exit 1; }
	@command -v rustup >/dev/null && rustup target add wasm32-wasip2 wasm32-wasip1 2>/dev/null \
		|| ls "$$(rustc --print sysroot)/lib/rustlib/wasm32-wasip2" >/dev/null
	@cargo component --version 2>/dev/null | grep -q '$(lastword $(COMPONENT))' \
		|| cargo install --locked $(firstword $(COMPONENT)) --version $(lastword $(COMPONENT))

# The tests install it only where no image can be had; the benchmarks always run it as a process.
mosquitto:
	@command -v mosquitto /usr/sbin/mosquitto >/dev/null \
		|| { test "$$(id -u)" = 0 && apt-get update -qq && RUNLEVEL=1 apt-get install -qq -y mosquitto; } \
		|| { echo "mosquitto is missing: apt-get install mosquitto" >&2; exit 1; }
