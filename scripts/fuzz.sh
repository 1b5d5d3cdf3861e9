#!/usr/bin/env bash
# Fuzzes the readers for FUZZ_SECONDS (60) each, one target after the other. Arguments name the targets.
set -euo pipefail
cd "$(dirname "$0")/.."

# The folder of builds is the workspace's own: other features of the dependencies are chosen here.
unset CARGO_BUILD_BUILD_DIR
export CARGO_TARGET_DIR=${FUZZ_TARGET_DIR:-$PWD/target/fuzz}
[ $# -gt 0 ] || set -- json_lines protobuf session_json message_parts
for name in "$@"; do
    grown=target/fuzz-corpus/$name
    mkdir -p "$grown"
    options=(-max_total_time="${FUZZ_SECONDS:-60}" -timeout=10 -rss_limit_mb=2048 -max_len=16384)
    [ "$name" = protobuf ] || options+=(-dict=fuzz/json.dict)
    cargo +nightly fuzz run "$name" "$grown" "fuzz/corpus/$name" tests/it/contract -- "${options[@]}"
done
