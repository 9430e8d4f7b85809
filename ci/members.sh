# Sourced: starts three members on ports of their own, and ends them when the script ends.
#   three_members SERVER TOKEN PORT [FLAG...]   PORT=: some port, other ones each time, so that two runs do not meet
# Then $port is the first of six ports, client and peer by turns; $endpoints are the clients'; logs are $tmp/m1.log to m3.log.

tmp=$(mktemp -d)
pids=()
end_members() {
  [ ${#pids[@]} -eq 0 ] || kill -9 "${pids[@]}" 2>/dev/null || true
  rm -rf "$tmp"
}
trap end_members EXIT

three_members() {
  local server=$1 token=$2 i client peer initial
  port=${3:-$((20000 + RANDOM % 1000 * 10))}
  shift 3
  initial=m1=http://127.0.0.1:$((port + 1)),m2=http://127.0.0.1:$((port + 3)),m3=http://127.0.0.1:$((port + 5))
  endpoints=127.0.0.1:$port,127.0.0.1:$((port + 2)),127.0.0.1:$((port + 4))
  for i in 1 2 3; do
    client=http://127.0.0.1:$((port + 2 * i - 2)) peer=http://127.0.0.1:$((port + 2 * i - 1))
    "$server" --name m$i --data-dir "$tmp/m$i" --listen-client-urls $client --advertise-client-urls $client \
      --listen-peer-urls $peer --initial-advertise-peer-urls $peer --initial-cluster "$initial" \
      --initial-cluster-token "$token" --initial-cluster-state new "$@" >"$tmp/m$i.log" 2>&1 &
    pids+=($!)
    disown
  done
  echo "waiting for three members of $server"
  for i in $(seq 150); do
    healthy && return
    kill -0 "${pids[@]}" 2>/dev/null || break
    sleep 0.2
  done
  tail -n 20 "$tmp"/m*.log
  echo "the cluster does not become healthy"
  exit 1
}

healthy() {
  local i
  for i in 0 2 4; do
    [[ $(exec 3<>/dev/tcp/127.0.0.1/$((port + i)) && printf 'GET /health HTTP/1.0\r\n\r\n' >&3 && cat <&3) == *'"health":"true"'* ]] ||
      return 1
  done 2>/dev/null
}
