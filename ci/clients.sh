#!/usr/bin/env bash
# Runs other people's clients against three members: each program in jepsen/clients/ puts, gets, watches, leases and locks,
# and checks what it is told.
#   ci/clients.sh [python|node|go|rust ...]     all of them unless said otherwise
#   QUORATE_BIN=path: the server; otherwise Quorate is built in release
# A client whose runtime is missing is skipped, unless QUORATE_CI=1.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
case $target in /*) ;; *) target=$PWD/$target ;; esac
[ -n "${QUORATE_BIN:-}" ] || cargo build --release --locked -p quorate-node --bin quorate
server=${QUORATE_BIN:-$target/release/quorate}
built=$target/clients
mkdir -p "$built"
. ci/members.sh
three_members "$server" clients "${CLIENTS_PORT:-}"

# --- the clients -----------------------------------------------------------------------------------------------------
# A virtual environment with a client's requirements.
venv() {
  python3 -m venv --help >/dev/null 2>&1 || return 77
  [ -x "$built/venv-$1/bin/python" ] || python3 -m venv "$built/venv-$1"
  "$built/venv-$1/bin/python" -m pip install --quiet --disable-pip-version-check -r "jepsen/clients/$1/requirements.txt"
}
python() {
  venv python
  PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python "$built/venv-python/bin/python" jepsen/clients/python/smoke.py "$1"
}
node() {
  command -v npm >/dev/null || return 77
  mkdir -p "$built/node"
  cp jepsen/clients/node/* "$built/node/"
  (cd "$built/node" && npm ci --silent --no-audit --no-fund --ignore-scripts && command node smoke.js "$1")
}
go() {
  command -v go >/dev/null || return 77
  (cd jepsen/clients/go && command go build -mod=readonly -o "$built/go-smoke" .)
  "$built/go-smoke" "$1"
}
rust() {
  venv rust
  PROTOC=$built/venv-rust/bin/protoc CARGO_TARGET_DIR=$built/rust \
    cargo build --quiet --locked --manifest-path jepsen/clients/rust/Cargo.toml
  "$built/rust/debug/rust-smoke" "$1"
}

failed=0 ran=0
for client in "${@:-python node go rust}"; do
  for client in $client; do
    ran=$((ran + 1))
    code=0
    # A shell of its own, in which a failing command ends the client.
    (set -e; $client "$endpoints") >"$tmp/$client.out" 2>&1 || code=$?
    case $code in
      0) tail -n 1 "$tmp/$client.out" ;;
      77)
        echo "skipped: $client is not here"
        [ "${QUORATE_CI:-}" != 1 ] || failed=$((failed + 1))
        ;;
      *)
        tail -n 40 "$tmp/$client.out"
        echo "FAILED: the $client client"
        failed=$((failed + 1))
        ;;
    esac
  done
done
[ $failed -eq 0 ] && [ $ran -gt 0 ]
