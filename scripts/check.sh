#!/usr/bin/env bash
# Formatting, lints, dependencies. Changes nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cargo fmt --all --check
cargo clippy --release --workspace --all-targets --locked -- -D warnings
(
    cd chaos/sim
    cargo fmt --all --check
    cargo clippy --release --workspace --all-targets --locked -- -D warnings
)
if cargo deny --version >/dev/null 2>&1; then
    cargo deny --locked check
else
    echo "note: cargo-deny is not installed; dependencies were not checked"
fi
