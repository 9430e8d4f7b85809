#!/usr/bin/env bash
# Simulates whole clusters under faults: every seed of A..B once, and every tenth of them twice, comparing the traces.
#   ci/sim.sh [A..B] [--shard I/N] [--minutes M] [--ledger DIR] [--require-marks]
#     A..B         seeds, B excluded; 0..200 unless said otherwise
#     --shard I/N  only part I (0..N) of N: parts run on machines that know nothing of each other
#     --minutes M  begin nothing new after so long; what is left is said, and done by the next run with the same ledger
#     --ledger DIR where finished pieces are noted, by commit and tree (default: target/sim). A run begins where the last
#                  one of the same code ended.
#     --require-marks   fail if a rare branch (core/src/reach.rs) was never reached; else those are only listed. Not before
#                  the whole range was run.
#   JOBS: seeds run at once (default: one a core)
# Exit code 0: nothing found; 1: a seed failed, and the output ends with the page of its run and the one command that
# reproduces it; or the range as a whole has tested too little; 2: usage; 3: the simulator cannot be built.
set -euo pipefail
cd "$(dirname "$0")/.."

# .cargo/config.toml says how to compile; a RUSTFLAGS variable would replace it.
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS

usage() {
  echo "ci/sim.sh: $1" >&2
  sed -n '3s/^# *//p' ci/sim.sh >&2
  exit 2
}
target=${CARGO_TARGET_DIR:-target}
seeds=0..200 shard=0/1 minutes='' ledger=$target/sim require_marks=0
while [ $# -gt 0 ]; do
  case $1 in
    --shard | --minutes | --ledger)
      [ $# -gt 1 ] || usage "$1 needs a value"
      printf -v "${1#--}" %s "$2"
      shift 2
      ;;
    --require-marks)
      require_marks=1
      shift
      ;;
    -*) usage "unknown flag $1" ;;
    *)
      seeds=$1
      shift
      ;;
  esac
done
[[ $seeds =~ ^([0-9]+)\.\.([0-9]+)$ ]] || usage "bad seeds '$seeds'"
from=${BASH_REMATCH[1]} to=${BASH_REMATCH[2]}
[ "$from" -lt "$to" ] || usage "no seed in '$seeds'"
[[ $shard =~ ^([0-9]+)/([0-9]+)$ ]] || usage "bad shard '$shard'"
part=${BASH_REMATCH[1]} parts=${BASH_REMATCH[2]}
[ "$part" -lt "$parts" ] || usage "shard '$shard': the parts of $parts are 0 to $((parts - 1))"
[[ $minutes =~ ^[0-9]*$ ]] || usage "bad number of minutes '$minutes'"

# Counting marks costs nothing: they are hit some thousand times in a seed that takes a third of a second.
cargo build --release --locked -p quorate-sim --features marks || exit 3
sim=$target/release/quorate-sim
jobs=${JOBS:-$(nproc)}

# The same code or not: the commit, and what is changed since.
code=$(git rev-parse --short=16 HEAD 2>/dev/null || echo none)
changes=$(git diff HEAD 2>/dev/null | sha256sum | cut -c1-8)
ledger=$ledger/$code-$changes
mkdir -p "$ledger"

# How far it has come: on one line of a terminal, elsewhere a line a minute.
told=$SECONDS seeds_run=0
tell() {
  seeds_run=$((seeds_run + last - first))
  local seconds=$((SECONDS - began)) ahead=$(((to - last) / parts)) line
  line="$first..$last clean; about $((ahead * seconds / seeds_run)) s left at $((seeds_run * 60 / (seconds > 0 ? seconds : 1))) seeds a minute"
  if [ -t 1 ]; then
    printf '\r\033[K%s' "$line"
  elif [ $((SECONDS - told)) -ge 60 ]; then
    told=$SECONDS
    echo "$line"
  fi
}

# A piece failed: what was seen, the page of its first failing seed and, in the last line, how to run that again.
fail() {
  local seen=$1 again=$2 seed
  cat "$seen"
  seed=$(awk '$1 == "seed" && $3 ~ /^FAILED/ { print $2; exit }' "$seen")
  if [ -n "$seed" ]; then
    local page=$ledger/seed-$seed.html
    again=$(awk -v seed="$seed" '/^again: / && $0 ~ "--seed " seed "( |$)" { print; exit }' "$seen")
    "$sim" --seed "$seed" --report "$page" >/dev/null 2>&1 || true
    [ ! -s "$page" ] || echo "report: $page"
  fi
  echo "$again"
  exit 1
}

# Pieces of 50 seeds: small enough to lose, large enough to keep every core busy.
piece=50 began=$SECONDS left=0 done_before=0 sheets=()
for ((a = from / piece * piece; a < to; a += piece)); do
  [ $((a / piece % parts)) -eq "$part" ] || continue
  first=$((a > from ? a : from)) last=$((a + piece < to ? a + piece : to))
  sheet=$ledger/$first..$last
  if [ -e "$sheet" ]; then
    done_before=$((done_before + last - first))
  elif [ -n "$minutes" ] && [ $((SECONDS - began)) -ge $((minutes * 60)) ]; then
    left=$((left + last - first))
    continue
  else
    TIMEFORMAT='  CPU milliseconds %U %S'
    command="again: cargo run --release -p quorate-sim -- --seeds"
    # How many histories may be left undecided is asked of the whole range.
    run=("$sim" --jobs "$jobs" --undecided-max "$piece" --seeds)
    { time "${run[@]}" "$first..$last" >"$sheet.part"; } 2>"$sheet.time" || {
      cat "$sheet.time"
      fail "$sheet.part" "$command $first..$last"
    }
    again=$((first + (last - first + 9) / 10))
    "${run[@]}" "$first..$again" --check >"$sheet.check" 2>&1 || fail "$sheet.check" "$command $first..$again --check"
    # Seconds with three decimals, of user and system: without the dot, milliseconds.
    awk '/CPU milliseconds/ { gsub(/\./, ""); print "  CPU milliseconds", $3 + $4 }' "$sheet.time" >>"$sheet.part"
    echo "  seeds $((last - first))" >>"$sheet.part"
    rm -f "$sheet.time" "$sheet.check"
    mv "$sheet.part" "$sheet"
    tell
  fi
  sheets+=("$sheet")
done

[ ! -t 1 ] || [ "$seeds_run" -eq 0 ] || printf '\r\033[K'
[ ${#sheets[@]} -gt 0 ] || { echo "seeds $seeds, shard $shard: nothing to do"; exit 0; }
printf 'seeds %s, shard %s, code %s-%s\n' "$seeds" "$shard" "$code" "$changes"
awk -v left="$left" -v require_marks="$require_marks" '
  # A mark: its name, how often, what it is.
  /^  [A-Z][A-Za-z]+ +[0-9]+  / {
    name = $1
    if (!(name in mark)) marks[++all] = name
    mark[name] += $2
    sub(/^ +[^ ]+ +[0-9]+ +/, "")
    text[name] = $0
    next
  }
  /^  / {
    label = $0
    sub(/^ +/, "", label)
    sub(/ +[0-9]+$/, "", label)
    if (!(label in sum)) order[++n] = label
    sum[label] += $NF
    if (label == "histories undecided" && $NF > 0) {
      piece = FILENAME
      sub(/.*\//, "", piece)
      where = where " " piece
    }
  }
  END {
    for (i = 1; i <= n; i++) if (order[i] != "CPU milliseconds") printf "  %-30s %12d\n", order[i], sum[order[i]]
    cpu = sum["CPU milliseconds"] / 1000
    printf "  %-30s %12d\n", "CPU seconds", cpu
    if (cpu > 0) {
      printf "  %-30s %12.1f\n", "seeds a CPU second", sum["seeds"] / cpu
      printf "  %-30s %12.0f\n", "simulated seconds a CPU second", sum["simulated seconds"] / cpu
    }
    # A campaign in which nothing happened has shown nothing.
    split("leader changes,power cuts that lost bytes,unknown outcomes,snapshot installs,amnesiac returns", due, ",")
    for (i in due) if (sum["seeds"] >= 1000 && sum[due[i]] < 100) {
      printf "too few %s: %d in %d seeds\n", due[i], sum[due[i]], sum["seeds"]
      poor = 1
    }
    # Nor one whose histories nobody judged.
    undecided = sum["histories undecided"]
    if (undecided >= 2 && undecided * 1000 > sum["seeds"]) {
      printf "too many histories undecided: %d in %d seeds, in%s\n", undecided, sum["seeds"], where
      poor = 1
    }
    for (i = 1; i <= all; i++) {
      name = marks[i]
      if (mark[name] > 0) reached++
      else if (left == 0) {
        printf "mark never reached: %s: %s\n", name, text[name]
        if (require_marks && text[name] !~ /may be missed/) poor = 1
      }
    }
    printf "%d of %d marks reached\n", reached, all
    exit poor
  }' "${sheets[@]}"
[ "$done_before" -eq 0 ] || echo "$done_before of these seeds were run before, on the same code"
[ "$left" -eq 0 ] || echo "$left seeds left: the time was up"
