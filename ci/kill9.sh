#!/usr/bin/env bash
# Kills members with SIGKILL under load, often the leader: no acknowledged write may be lost, and a leader must answer
# within 3 election timeouts in 48 of 50 cases and within 6 in all.
#   KILL9_ROUNDS=50 KILL9_MEMBERS=1,3,5 KILL9_SEED=1 QUORATE_BIN=path
# On a failure the data and logs stay where the output says.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
cargo build --release --locked -p quorate-cli --bin quorate-load
[ -n "${QUORATE_BIN:-}" ] || cargo build --release --locked -p quorate-node --bin quorate
dir=$(mktemp -d "$target/kill9.XXXXXX")
"$target/release/quorate-load" kill9 --dir "$dir" --quorate "${QUORATE_BIN:-$target/release/quorate}" \
  --rounds "${KILL9_ROUNDS:-50}" --members "${KILL9_MEMBERS:-1,3,5}" --seed "${KILL9_SEED:-1}"
rm -rf "$dir"
