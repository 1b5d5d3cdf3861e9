#!/usr/bin/env bash
# The whole loop on the tiny policy: rollouts, their traces, credit, training, over and over, and what it earns on tasks that it never saw.
#
# ITERATIONS makes it shorter, SEED makes it another one. Stopped anywhere and started again, it goes on; `rm -r runs/demo` begins anew.
set -euo pipefail
cd "$(dirname "$0")/.."

fulgurite=${FULGURITE:-target/release/fulgurite}
lake=${LAKE:-runs/demo}
seed=${SEED:-0}
settings=(--lake "$lake" --pipeline pipelines/tiny.toml --set "rollout.seed=$seed" --set "train.seed=$seed")

show() {
    echo
    echo "\$ fulgurite $*"
    "$fulgurite" "$@"
}

show policy import --from sample_data/tiny-policy --lake "$lake"
show eval --version 0 --split test "${settings[@]}"
show loop "${settings[@]}" ${ITERATIONS:+--iterations "$ITERATIONS"}
show eval --split test "${settings[@]}"
show sql --lake "$lake" -f scripts/demo.sql
show report --lake "$lake" --output "${REPORT:-${lake%/}.html}"
