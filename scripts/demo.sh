#!/usr/bin/env bash
# The main job on the traces of sample_data/: ingest, build, a table, and why one rollout got what it got.
set -euo pipefail
cd "$(dirname "$0")/.."

fulgurite=${FULGURITE:-target/release/fulgurite}
lake=runs/demo
settings=(--lake "$lake" --batch demo --pipeline pipelines/demo.toml)

show() {
    echo
    echo "\$ fulgurite $*"
    "$fulgurite" "$@"
}

show ingest sample_data/langgraph sample_data/openai_agents "${settings[@]}"
show build "${settings[@]}"
show status --lake "$lake"
show sql --lake "$lake" -f scripts/demo.sql
rollout=$("$fulgurite" sql --lake "$lake" --format csv \
    "select rollout_id from rollouts order by tool_errors desc, rollout_id limit 1" | tail -1)
show air --explain "$rollout" "${settings[@]}"
