#!/usr/bin/env bash
# The whole loop on the tiny policy: rollouts, their traces, credit, training, over and over, and what it earns on tasks that it never saw.
#
# Twenty-five iterations of long steps, then shorter ones until nine of ten answers drawn at temperature 1 are right. With ITERATIONS it is over
# after so many. Stopped anywhere and started again, it goes on; `rm -r runs/demo` begins anew.
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
show loop "${settings[@]}" --iterations "${ITERATIONS:-25}"
if [ -z "${ITERATIONS:-}" ]; then
    show loop "${settings[@]}" --set train.learning_rate=2e-4
fi
show sql --lake "$lake" -f scripts/demo.sql
