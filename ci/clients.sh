#!/usr/bin/env bash
# Runs other people's clients against three members: each program in jepsen/clients/ puts, gets, watches, leases and locks,
# and checks what it is told.
#   ci/clients.sh [python|node|go ...]     all of them unless said otherwise
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
tmp=$(mktemp -d)
pids=()
cleanup() {
  [ ${#pids[@]} -eq 0 ] || kill -9 "${pids[@]}" 2>/dev/null || true
  rm -rf "$tmp"
}
trap cleanup EXIT

# --- three members ---------------------------------------------------------------------------------------------------
port=${CLIENTS_PORT:-$((20000 + RANDOM % 1000 * 10))}
initial=m1=http://127.0.0.1:$((port + 1)),m2=http://127.0.0.1:$((port + 3)),m3=http://127.0.0.1:$((port + 5))
endpoints=127.0.0.1:$port,127.0.0.1:$((port + 2)),127.0.0.1:$((port + 4))
for i in 1 2 3; do
  client=http://127.0.0.1:$((port + 2 * i - 2)) peer=http://127.0.0.1:$((port + 2 * i - 1))
  "$server" --name m$i --data-dir "$tmp/m$i" --listen-client-urls $client --advertise-client-urls $client \
    --listen-peer-urls $peer --initial-advertise-peer-urls $peer --initial-cluster "$initial" \
    --initial-cluster-token clients --initial-cluster-state new >"$tmp/m$i.log" 2>&1 &
  pids+=($!)
  disown
done
healthy() {
  local i
  for i in 0 2 4; do
    [[ $(exec 3<>/dev/tcp/127.0.0.1/$((port + i)) && printf 'GET /health HTTP/1.0\r\n\r\n' >&3 && cat <&3) == *'"health":"true"'* ]] ||
      return 1
  done 2>/dev/null
}
for i in $(seq 150); do
  healthy && break
  if [ "$i" = 150 ]; then
    tail -n 20 "$tmp"/m*.log
    echo "the cluster does not become healthy"
    exit 1
  fi
  sleep 0.2
done

# --- the clients -----------------------------------------------------------------------------------------------------
python() {
  python3 -m venv --help >/dev/null 2>&1 || return 77
  [ -x "$built/venv/bin/python" ] || python3 -m venv "$built/venv"
  "$built/venv/bin/python" -m pip install --quiet --disable-pip-version-check -r jepsen/clients/python/requirements.txt
  PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python "$built/venv/bin/python" jepsen/clients/python/smoke.py "$1"
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

failed=0 ran=0
for client in "${@:-python node go}"; do
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
