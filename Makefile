# Everything a developer or CI runs. What a recipe needs and is missing is installed by it: tools in the target
# folder, npm and PyPI packages in ignored folders, Debian packages by apt-get. Nothing else is written to.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:
.NOTPARALLEL:
MAKEFLAGS   += --no-print-directory

CARGO_DENY_VERSION    := 0.20.2
CARGO_NEXTEST_VERSION := 0.9.143
CARGO_FUZZ_VERSION    := 0.13.2

# A CARGO_TARGET_DIR from outside is honoured; otherwise everything stays below ./target.
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
TOOLS  := $(TARGET)/tools
export PATH := $(TOOLS)/bin:$(PATH)
export CARGO_TERM_COLOR ?= auto
BINARY := $(TARGET)/debug/relaystream

# Load tests open many sockets, and a limit of a million makes some programs walk a million descriptors.
LIMIT := ulimit -Sn 20000 2>/dev/null || ulimit -Sn "$$(ulimit -Hn)"

# Says what runs: a recipe is one script (.ONESHELL), which make itself would print whole.
RUN := run() { echo "+ $$*"; "$$@"; }

COMMA := ,

# $(call debian,PACKAGES,WORDS,OPTIONS): installs them by apt-get with these options, or says these words.
define debian
	if ! command -v apt-get >/dev/null; then
		echo "$(2)" >&2
		exit 1
	fi
	sudo=$$([ "$$(id -u)" = 0 ] || echo sudo)
	$$sudo apt-get $(3) update -qq
	$$sudo env DEBIAN_FRONTEND=noninteractive apt-get $(3) install -y -qq --no-install-recommends $(1)
endef

# $(call tool,NAME,VERSION,FLAGS): cargo-NAME, from PATH or built here. Unoptimised: they run for a second, and
# their release profiles (one codegen unit, link-time optimisation) would take longer than all of our tests.
define tool
	if ! command -v cargo-$(1) >/dev/null; then
		echo "installing cargo-$(1) $(2) into $(TOOLS)"
		env -u CARGO_TARGET_DIR cargo install --quiet --locked --debug --root "$(TOOLS)" $(3) cargo-$(1)@$(2)
	fi
endef

.PHONY: help
help: ## Show this text
	@echo "usage: make TARGET"
	@echo
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

.PHONY: check
check: ## Formatting, clippy, licences and bans, docs; warnings are errors
	@$(RUN)
	run cargo fmt --check
	run cargo clippy --locked --all-targets -- -D warnings
	$(call tool,deny,$(CARGO_DENY_VERSION),)
	run cargo deny --locked check bans licenses sources
	export RUSTDOCFLAGS=-Dwarnings
	run cargo doc --locked --no-deps --document-private-items

.PHONY: test
test: chromium redis valkey ## All tests: Rust, unmodified SDKs and a browser, the examples
	@$(LIMIT)
	$(RUN)
	$(call tool,nextest,$(CARGO_NEXTEST_VERSION),--no-default-features --features default-no-update)
	run cargo nextest run --locked --no-fail-fast
	run cargo test --locked --doc
	run cargo build --locked --bin relaystream --examples
	export RELAYSTREAM_BIN="$(BINARY)"
	run node tests/sdk/run.mjs
	run node examples/run.mjs

.PHONY: chromium
chromium:
	@if command -v chromium >/dev/null || command -v chromium-browser >/dev/null || [ -n "$${CHROMIUM:-}" ]; then
		exit 0
	fi
	$(call debian,chromium,the tests need Chromium: install it$(COMMA) or name one with CHROMIUM=/path/to/chromium)

# One program is server, sentinel and more, by the name it is called by. Debian has it in the package of the tools; the
# others only add a service, which would start and take the port.
.PHONY: redis
redis:
	@if command -v redis-check-rdb >/dev/null; then
		exit 0
	fi
	$(call debian,redis-tools,the tests need Redis$(COMMA) version 7 or later: install it)

# Debian 12 has Valkey in its backports, which are asked by a list that is only of this call.
.PHONY: valkey
valkey:
	@if command -v valkey-check-rdb >/dev/null; then
		exit 0
	fi
	list=$$(mktemp)
	trap 'rm -f "$$list"' EXIT
	cat /etc/apt/sources.list >"$$list" 2>/dev/null || true
	if grep -qs '^VERSION_CODENAME=bookworm$$' /etc/os-release && ! apt-cache show valkey-tools >/dev/null 2>&1; then
		keys=/usr/share/keyrings/debian-archive-keyring.gpg
		echo "deb [signed-by=$$keys] http://deb.debian.org/debian bookworm-backports main" >>"$$list"
	fi
	$(call debian,valkey-tools,the tests need Valkey$(COMMA) version 8 or later: install it,-o Dir::Etc::SourceList=$$list)

.PHONY: bench
bench: ## Measure the performance budget beside nginx, nchan, socket.io and resumable-stream, write BENCHMARKS.md
	@$(LIMIT)
	benches/run
	benches/room --write "$(TARGET)/release/relaystream"
	benches/resume --write "$(TARGET)/release/relaystream"

.PHONY: fuzz
fuzz: ## Each fuzz target for one minute (FUZZ_S=600 for longer)
	@$(LIMIT)
	$(call tool,fuzz,$(CARGO_FUZZ_VERSION),)
	# cargo-fuzz asks for sanitizer flags, which the pinned stable compiler takes only so.
	export RUSTC_BOOTSTRAP=1
	targets=$$(cargo fuzz list)
	for target in $$targets; do
		echo "fuzzing $$target"
		mkdir -p "fuzz/corpus/$$target"
		cargo fuzz run "$$target" "fuzz/corpus/$$target" "fuzz/seeds/$$target" -- -max_total_time=$(or $(FUZZ_S),60) -timeout=10 -rss_limit_mb=2048 -verbosity=0 -print_final_stats=1
	done

.PHONY: test-model
test-model: ## Against a real small model; compiles llama.cpp, so it takes a while
	@$(LIMIT)
	tests/model/run

.PHONY: clean
clean: ## Remove what was built and installed here (./data, the streams, stays)
	@cargo clean
	rm -rf tests/sdk/node_modules tests/sdk/.venv tests/sdk/.cache benches/rooms/node_modules benches/resumable-stream/node_modules
