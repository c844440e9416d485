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

echo
printf 'make test took %d min %d s; the runner said:\n' $((SECONDS / 60)) $((SECONDS % 60))
grep -E '^(test .* \.\.\. FAILED|error: [0-9]+ target|test result: )' "$log" || true
exit "$status"
