#!/usr/bin/env bash
# What takes too long for every merge. Each part runs whatever became of the one before; the end says which failed.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

# .cargo/config.toml says how to compile; a RUSTFLAGS variable would replace it.
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS

failed=()
part() {
  printf '\n===== %s\n' "$*"
  "$@" || failed+=("$*")
}

# README's example of a mistake that is found: it still is, in that seed, and its story and its page are written.
as_written() {
  local command status=0 out=${CARGO_TARGET_DIR:-target}
  command=$(sed -n 's/^\(cargo run .* --mutant .*\) --shrink story \(.*\) --report run.html$/\1 \2/p' README.md)
  # shellcheck disable=SC2086
  $command --shrink "$out/story" --report "$out/run.html" || status=$?
  [ "$status" -eq 1 ] && [ -s "$out/story" ] && [ -s "$out/run.html" ]
}

day=$(($(date +%s) / 86400))
part ci/sim.sh 0..1000
# Seeds that nobody has seen yet, other ones every night: every day has ten thousand of its own. They reach every rare branch.
part ci/sim.sh "$((day * 10000))..$((day * 10000 + 4000))" --require-marks
# Failures still come down to stories, and the matrix counts right.
part cargo test --release --locked -p quorate-sim --features mutants
# Every planted mistake is still noticed, on the rest of the day's seeds: one try each, about 11 CPU minutes together. A row
# that takes all its 600 CPU seconds, and so fails, runs some 1300 seeds.
part cargo run --release --locked -p quorate-sim --features mutants -- mutants --tries 1 --from "$((day * 10000 + 4000))"
part as_written
part env CHECK_PERF=1 QUORATE_CI=1 ci/etcdctl.sh
part env KILL9_SEED="$day" ci/kill9.sh
part env QUORATE_CI=1 ci/differential.sh "$((day * 1000))..$((day * 1000 + 100))" 5000
part cargo test --locked -p quorate-jepsen --features mutants --test mutants
part ci/fuzz.sh
part ci/bench.sh

printf '\n'
if [ ${#failed[@]} -gt 0 ]; then
  printf 'failed: %s\n' "${failed[@]}"
  exit 1
fi
echo "all parts passed"
