#!/usr/bin/env bash
# Makes a real etcd 3.7.1 and Quorate do the same, and compares every field of every answer. A difference is shown with
# its seed, the operation, both answers and a shortened script.
#   ci/differential.sh [A..B] [operations per seed]     0..8 and 1000 unless said otherwise: about half a minute
#   ci/differential.sh 0..200 5000                      the whole of it: a million operations
#   JOBS=n: seeds at once. QUORATE_BIN=path. ETCD_BIN=path: another etcd; otherwise 3.7.1 is built from Go's modules.
# Without Go there is nothing to compare with: skipped, unless QUORATE_CI=1.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
case $target in /*) ;; *) target=$PWD/$target ;; esac
if [ -z "${ETCD_BIN:-}" ]; then
  if ! command -v go >/dev/null; then
    echo "skipped: no go to build etcd 3.7.1 with"
    [ "${QUORATE_CI:-}" != 1 ]
    exit
  fi
  ETCD_BIN=$target/etcd-3.7/etcd
  (cd ci/etcd-3.7 && go build -mod=readonly -o "$ETCD_BIN" .)
fi
[ -n "${QUORATE_BIN:-}" ] || cargo build --release --locked -p quorate-node --bin quorate
cargo build --release --locked -p quorate-jepsen --features differential
"$ETCD_BIN" --version | sed -n 1p
"$target/release/quorate-jepsen" differential --etcd "$ETCD_BIN" --quorate "${QUORATE_BIN:-$target/release/quorate}" \
  --seeds "${1:-0..8}" --ops "${2:-1000}" --jobs "${JOBS:-$(nproc)}"
