#!/usr/bin/env bash
# Format, lints, documentation and the fences between packages. Tests are `cargo test --workspace`.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; }

# .cargo/config.toml says how to compile; a RUSTFLAGS variable would replace it.
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS

step "format"
cargo fmt --all --check
(cd fuzz && cargo fmt --check)
(cd jepsen/clients/rust && cargo fmt --check)

step "lock files"
# The workspaces beside this one: what they lock must fit what the packages ask for.
for workspace in fuzz jepsen/clients/rust; do
  cargo metadata --manifest-path $workspace/Cargo.toml --locked --format-version 1 >/dev/null
done

step "lints"
cargo clippy --workspace --all-targets --locked -- -D warnings
cargo clippy -p quorate-jepsen --features differential --all-targets --locked -- -D warnings
cargo clippy -p quorate-sim --features mutants --all-targets --locked -- -D warnings
cargo clippy -p quorate-jepsen --features mutants --all-targets --locked -- -D warnings

step "documentation"
RUSTDOCFLAGS="-D warnings --cfg madsim" cargo doc --workspace --no-deps --locked

# fence PACKAGE NAMES [FLAGS]: none of NAMES is built into PACKAGE.
fence() {
  local package=$1 names=$2
  shift 2
  local tree
  tree=$(cargo tree --locked -p "$package" -e normal --prefix none --format '{p}' "$@" | awk '{print $1}' | sort -u)
  local found
  found=$(grep -xE "$names" <<<"$tree" || true)
  if [ -n "$found" ]; then
    echo "$package must not depend on:" $found
    exit 1
  fi
  echo "$package: $(wc -l <<<"$tree") packages, none of $names"
}

step "fences"
# What is deterministic draws no entropy, reads no clock and starts no thread.
fence quorate-core 'tokio|rand|rand_core|getrandom|fjall|tonic|hyper|madsim|tempfile|rustix|libc|mio'
# The simulator runs the real code without the real world.
fence quorate-sim 'tonic|fjall|hyper|mio|rustls|quorate-cli'
fence quorate-node 'tonic|tokio|fjall|rustix|clap' --no-default-features
fence quorate-jepsen 'tonic|tokio|fjall|madsim'
grep -q '#!\[no_std\]' core/src/lib.rs || { echo "core/src/lib.rs must say #![no_std]"; exit 1; }

echo "all checks passed"
