#!/usr/bin/env bash
# What the tiny policy earns on tasks that it never saw, before and after the loop: three seeds, each with three ways to give credit. Not part
# of CI. Stopped anywhere and started again, it goes on.
#
# ITERATIONS makes every run shorter, SEEDS and WAYS choose among them; `rm -r runs/learn` begins anew.
set -euo pipefail
cd "$(dirname "$0")/.."

fulgurite=${FULGURITE:-target/release/fulgurite}
runs=${RUNS:-runs/learn}
found=$runs/found.csv
mkdir -p "$runs"
echo "way,seed,policy,val,val_greedy,test,test_greedy" > "$found"

# The settings of a way that differ from the pipeline's.
settings_of() {
    case $1 in
        identical) echo "air.cap=0" ;;
        identical_air) echo "air.cap=0.2" ;;
        return_to_go_air) echo "air.cap=0.2 credit.method=return_to_go credit.comparison=leave_one_out" ;;
        *) echo "no such way: $1" >&2 && return 1 ;;
    esac
}

for way in ${WAYS:-identical identical_air return_to_go_air}; do
    for seed in ${SEEDS:-0 1 2}; do
        lake=$runs/$way-$seed
        settings=(--lake "$lake" --pipeline pipelines/tiny.toml --set "rollout.seed=$seed" --set "train.seed=$seed")
        for setting in $(settings_of "$way"); do
            settings+=(--set "$setting")
        done
        echo "== $way, seed $seed" >&2
        "$fulgurite" policy import --from sample_data/tiny-policy --lake "$lake"
        "$fulgurite" eval --version 0 --split test "${settings[@]}"
        "$fulgurite" loop "${settings[@]}" ${ITERATIONS:+--iterations "$ITERATIONS"}
        "$fulgurite" eval --split test "${settings[@]}"
        "$fulgurite" sql --lake "$lake" --format csv -f scripts/learn.sql | tail -n +2 | sed "s/^/$way,$seed,/" >> "$found"
    done
done

echo >&2
cat "$found"
