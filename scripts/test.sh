#!/usr/bin/env bash
# Everything that must hold, cheapest first. One feature set and one profile, so that nothing is compiled twice.
# `cargo test` before clippy would cost the dependencies' metadata twice; `cargo build` would choose other features of them.
set -euo pipefail
cd "$(dirname "$0")/.."

step() {
    echo
    echo "== $*" >&2
    "$@"
}

step cargo fmt --check
step scripts/python-env.sh
step cargo test --locked
step cargo clippy --locked --all-targets -- -D warnings
RUSTDOCFLAGS="-D warnings" step cargo doc --locked --no-deps --document-private-items
step scripts/readme.sh "${CARGO_TARGET_DIR:-target}/debug/fulgurite"
