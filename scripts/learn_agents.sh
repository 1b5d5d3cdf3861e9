#!/usr/bin/env bash
# What the tiny policy earns with the agents of real frameworks, before and after the loop: for each of calc (AutoGen), shelves_sql (LangGraph) and
# shelves_rag (OpenAI Agents SDK) one warm start, and from it three seeds. Not part of CI. Stopped anywhere and started again, it goes on.
#
# The agents' requirements are wanted in the `python` that is first in PATH. AGENTS and SEEDS choose among them; `rm -r runs/agents` begins anew.
set -euo pipefail
cd "$(dirname "$0")/.."

fulgurite=${FULGURITE:-target/release/fulgurite}
runs=${RUNS:-runs/agents}
mkdir -p "$runs"

for agent in ${AGENTS:-calc shelves_sql shelves_rag}; do
    warm=$runs/$agent-warm
    # What stopped half way is begun anew: a teacher's traces are whole or nothing.
    if [ ! -e "$warm.done" ]; then
        rm -rf "$warm"
        LAKE=$warm scripts/warm_agent.sh "$agent"
        touch "$warm.done"
    fi
    for seed in ${SEEDS:-0 1 2}; do
        lake=$runs/$agent-$seed
        settings=(--lake "$lake" --pipeline "pipelines/$agent.toml" --set "rollout.seed=$seed" --set "train.seed=$seed")
        echo "== $agent, seed $seed" >&2
        if [ ! -e "$lake" ]; then
            cp -r "$warm" "$lake.copying"
            mv "$lake.copying" "$lake"
        fi
        "$fulgurite" loop "${settings[@]}"
    done
done

found=$runs/found.csv
echo "agent,seed,policy,val,val_greedy,test,test_greedy" > "$found"
for lake in "$runs"/*-[0-9]*; do
    run=$(basename "$lake")
    "$fulgurite" sql --lake "$lake" --format csv -f scripts/learn.sql | tail -n +2 | sed "s/^/${run%-*},${run##*-},/" >> "$found"
done
cat "$found"
