#!/usr/bin/env bash
# Kills members with SIGKILL under load, often the leader: no acknowledged write may be lost, and a leader must answer
# within 3 election timeouts in 48 of 50 cases and within 6 in all.
# Then again with the victim's disk wiped before it comes back under its old name.
#   KILL9_ROUNDS=50 KILL9_MEMBERS=1,3,5 KILL9_WIPE_MEMBERS=3,5 KILL9_SEED=1 QUORATE_BIN=path
# On a failure the data and logs stay where the output says.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
cargo build --release --locked -p quorate-cli --bin quorate-load
[ -n "${QUORATE_BIN:-}" ] || cargo build --release --locked -p quorate-node --bin quorate
dir=$(mktemp -d "$target/kill9.XXXXXX")
load() {
  "$target/release/quorate-load" kill9 --dir "$dir/$1" --quorate "${QUORATE_BIN:-$target/release/quorate}" \
    --rounds "${KILL9_ROUNDS:-50}" --seed "${KILL9_SEED:-1}" "${@:2}"
}
load kill --members "${KILL9_MEMBERS:-1,3,5}"
echo "== the victim's disk is wiped"
load wipe --members "${KILL9_WIPE_MEMBERS:-3,5}" --wipe
rm -rf "$dir"
