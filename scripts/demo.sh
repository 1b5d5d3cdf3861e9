#!/usr/bin/env bash
# The whole loop on the tiny policy: rollouts, their traces, credit, training, over and over, and what it earns on tasks that it never saw.
#
# Without ITERATIONS it goes on until nine of ten answers drawn at temperature 1 are right, which takes minutes on two cores. Stopped
# anywhere and started again, it goes on; `rm -r runs/demo` begins anew.
set -euo pipefail
cd "$(dirname "$0")/.."

fulgurite=${FULGURITE:-target/release/fulgurite}
lake=${LAKE:-runs/demo}
settings=(--lake "$lake" --pipeline pipelines/tiny.toml)

show() {
    echo
    echo "\$ fulgurite $*"
    "$fulgurite" "$@"
}

show policy import --from sample_data/tiny-policy --lake "$lake"
show loop "${settings[@]}" ${ITERATIONS:+--iterations "$ITERATIONS"}
show sql --lake "$lake" -f scripts/demo.sql
