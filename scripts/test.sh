#!/usr/bin/env bash
# Everything that must hold. One feature set and one profile, so that nothing is compiled twice: where a command builds no tests, cargo
# chooses other features of the dependencies, and DataFusion would be compiled again. `--examples` is there for that, and for nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."

step() {
    echo
    echo "== $*" >&2
    "$@"
}

step cargo fmt --check
step scripts/python-env.sh
step scripts/clients-env.sh
step scripts/browser-env.sh
step cargo test --locked
step cargo clippy --locked --all-targets -- -D warnings
RUSTDOCFLAGS="-D warnings" step cargo doc --locked --no-deps --lib --examples --document-private-items
step scripts/readme.sh "${CARGO_TARGET_DIR:-target}/debug/fulgurite"
rm -rf runs/demo
ITERATIONS=2 FULGURITE="${CARGO_TARGET_DIR:-target}/debug/fulgurite" step scripts/demo.sh
