#!/usr/bin/env bash
# Everything that CI runs, on a machine that has what scripts/install-deps.sh installs. The test runner's summary
# lines come last, whatever happened.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

log=$(mktemp)
trap 'rm -f "$log"' EXIT
SECONDS=0

scripts/check.sh

# The S3 endpoint that the object store's contract suite talks to.
tests/s3/setup-venv.sh >/dev/null

status=0
cargo test --release --workspace --locked --no-fail-fast 2>&1 | tee "$log" || status=$?

# The simulation, a workspace of its own: a few seeds, and some of them twice.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"
(cd chaos/sim && cargo test --release --workspace --locked) 2>&1 | tee -a "$log" || status=$?
scripts/sim.sh twice --seeds 1..3 --seconds 20 2>&1 | tee -a "$log" || status=$?
scripts/sim.sh run --seeds 1..25 2>&1 | tee -a "$log" || status=$?

echo
printf 'make test took %d min %d s; the runners said:\n' $((SECONDS / 60)) $((SECONDS % 60))
grep -E '^(seed |[0-9]+ seeds|no violation)' "$log" || true
grep -E '^(test .* \.\.\. FAILED|error: [0-9]+ target|test result: )' "$log" || true
exit "$status"
