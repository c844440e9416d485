#!/usr/bin/env bash
# Builds the simulation, a workspace of its own, and runs it: scripts/sim.sh run --seeds 1..101
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../chaos/sim"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/../../target}"
cargo build --release --locked
exec "$CARGO_TARGET_DIR/release/sim" "$@"
