#!/bin/sh
# Fuzzes every target, or the one named, for a while: ci/fuzz.sh [seconds per target (default 60)] [target]
#
# Needs a C++ compiler besides the Rust toolchain; cargo-fuzz and nightly are not needed (nor is a sanitizer: all code
# of ours is safe Rust). A failing input is kept, and the one command that reproduces it is printed.
set -eu
cd "$(dirname "$0")/../fuzz"
seconds=${1:-60}
targets=${2:-"wal records peer command member snapshot"}
host=$(rustc -vV | sed -n 's/^host: //p')
# What cargo-fuzz passes, without the parts that need nightly.
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
cargo build --release --target "$host" --bins
built=${CARGO_TARGET_DIR:-target}/$host/release
for target in $targets; do
    # New inputs go to a scratch corpus; what is worth keeping is copied to corpus/ by hand.
    mkdir -p "artifacts/$target" "scratch/$target"
    echo "== $target, $seconds s"
    if ! "$built/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=65536 \
        -print_final_stats=1 -artifact_prefix="artifacts/$target/" "scratch/$target" "corpus/$target"; then
        package=quorate-core
        [ "$target" != snapshot ] || package=quorate-node
        failing=$(ls -t "artifacts/$target" | head -n 1)
        if [ -z "$failing" ]; then
            echo "FAILED: $built/$target ended without an input that fails" >&2
            exit 1
        fi
        echo "FAILED. To reproduce: cp fuzz/artifacts/$target/$failing fuzz/corpus/$target/ &&" \
            "cargo test -p $package --test fuzz_corpus $target"
        exit 1
    fi
done
