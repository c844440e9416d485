#!/usr/bin/env bash
# Builds the simulation, a workspace of its own, and runs it: scripts/sim.sh run --seeds 1..101
set -euo pipefail
top="$(dirname "$(dirname "$(realpath "${BASH_SOURCE[0]}")")")"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$top/target}"
cargo build --release --locked --manifest-path "$top/chaos/sim/Cargo.toml"
exec "$CARGO_TARGET_DIR/release/sim" "$@"
