#!/usr/bin/env bash
# Simulates whole clusters under faults: ci/sim.sh [A..B], 0..200 unless said otherwise; then every tenth part of them
# twice, comparing the traces. The simulator itself prints the one command that reproduces a failure.
set -euo pipefail
cd "$(dirname "$0")/.."

seeds=${1:-0..200}
from=${seeds%..*} to=${seeds#*..}
sim="${CARGO_TARGET_DIR:-target}/release/quorate-sim"
cargo build --release --locked -p quorate-sim
"$sim" --seeds "$seeds" --jobs "${JOBS:-$(nproc)}"
echo "== the same seeds give the same traces"
"$sim" --seeds "$from..$((from + (to - from + 9) / 10))" --check --jobs "${JOBS:-$(nproc)}"
