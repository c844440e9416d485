#!/usr/bin/env bash
# A local cluster on a temporary data folder, and the real sample in and out of it: counted, compared byte for byte and
# in key order. KEEP=1 leaves the cluster running. Exits with 1 on any difference.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
SECONDS=0

sample=tests/data/flights-sample.csv.gz
key_field=10

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

fail() {
    echo "error: $*" >&2
    exit 1
}

# A base port above which nobody listens where the cluster will.
free_base() {
    local base port
    for base in $(seq 7600 200 9600); do
        for port in $((base + 1)) $((base + 2)) $((base + 3)) $((base + 101)) $((base + 102)); do
            if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then continue 2; fi
        done
        echo "$base"
        return
    done
    fail "no free ports between 7600 and 9800"
}

say "Building"
cargo build --release --locked --package streamhouse-cli
streamhouse=${CARGO_TARGET_DIR:-target}/release/streamhouse
built=$SECONDS

work=$(mktemp -d "${TMPDIR:-/tmp}/streamhouse-demo.XXXXXX")
data=$work/data
finish() {
    local status=$?
    if [ -n "${KEEP:-}" ] && [ "$status" -eq 0 ]; then
        say "The cluster runs on. Stop it with:"
        echo "$streamhouse down --data $data && rm -r $work"
    else
        "$streamhouse" down --data "$data" || true
        rm -rf "$work"
    fi
    [ "$status" -ne 0 ] || say "make demo took $SECONDS s, $built s of it for the build"
    return "$status"
}
trap finish EXIT

say "Three controllers and two agents"
base=$(free_base)
"$streamhouse" up --detach --data "$data" --base-port "$base"
export STREAMHOUSE_CONTROLLERS=127.0.0.1:$((base + 1)),127.0.0.1:$((base + 2)),127.0.0.1:$((base + 3))

say "In: $sample, keyed by carrier"
gzip -dc "$sample" | tail -n +2 >"$work/sent"
"$streamhouse" topic create flights --partitions 4
"$streamhouse" produce flights --file "$sample" --skip-header --key-field "$key_field" --delimiter ,

say "Out"
"$streamhouse" consume flights --to-end --format value >"$work/read"
sent=$(wc -l <"$work/sent")
read=$(wc -l <"$work/read")
[ "$sent" -eq "$read" ] || fail "$sent records were sent, $read came back"
echo "$read records came back"

export LC_ALL=C
cmp <(sort "$work/sent") <(sort "$work/read") || fail "what came back is not what was sent"
echo "byte for byte the same"

# A stable sort by the key alone leaves the records of each key in the order in which they came.
by_key=(sort -s -t, "-k$key_field,$key_field")
cmp <("${by_key[@]}" "$work/sent") <("${by_key[@]}" "$work/read") || fail "some key's records changed their order"
echo "in order for every key"

say "Where things are"
"$streamhouse" status
"$streamhouse" topic describe flights
objects=$(find "$data/objects" -path '*/l0/*' -type f | sort)
echo "the object store, $data/objects, holds $(wc -l <<<"$objects") objects; the first:"
"$streamhouse" segment inspect "$(head -n 1 <<<"$objects")"
echo "logs and controllers' data: $data"
