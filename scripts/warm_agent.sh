#!/usr/bin/env bash
# A policy that can speak as an agent's framework wants it: `scripts/warm_agent.sh calc`, `shelves_sql`, `shelves_rag`, `sql`, `rag` (tiny ones) or
# `gsm8k` (SmolLM2, which `make models` fetches, on what `scripts/gsm8k.py` makes). The agent of pipelines/<name>.toml runs against a teacher that says what recorded conversations say, so that the traces have exactly the prompts that the framework sends; then the
# policy imitates them. `fulgurite loop --pipeline pipelines/<name>.toml --lake runs/<name>` goes on from there.
#
# The agent's requirements are wanted in the `python` that is first in PATH. TALKS says how many conversations, EPOCHS how often each is imitated.
set -euo pipefail
cd "$(dirname "$0")/.."

name=${1:?calc, shelves_sql, shelves_rag, sql, rag or gsm8k}
fulgurite=${FULGURITE:-target/release/fulgurite}
lake=${LAKE:-runs/$name}
talks=sample_data/$name/warm_start.jsonl.gz
case $name in
    gsm8k) talks=data/gsm8k/warm_start.jsonl.gz ;;
    shelves_*) talks=sample_data/shelves/${name#shelves_}_warm_start.jsonl.gz ;;
esac
pipeline=(--lake "$lake" --batch warm --pipeline "pipelines/$name.toml")
warm=(--lake "$lake" --batch warm --pipeline pipelines/warm_start.toml)

scratch=$(mktemp -d)
trap 'kill "${teacher:-}" 2>/dev/null || true; rm -rf "$scratch"' EXIT

if [ "$name" = gsm8k ]; then
    "$fulgurite" policy import --from models/SmolLM2-135M-Instruct.Q4_1.gguf --lake "$lake"
    settings=(--set train.epochs="${EPOCHS:-1}" --set train.minibatches=20 --set train.learning_rate=1e-4 --set train.warmup_steps=5)
else
    # It can read names and call a tool already, but knows neither this tool nor its wording.
    "$fulgurite" policy import --from sample_data/tiny-policy --lake "$lake"
    settings=(--set train.epochs="${EPOCHS:-16}" --set train.minibatches=40 --set train.learning_rate=2e-3 --set train.warmup_steps=20)
    if [ "$name" = calc ]; then
        settings=(--set train.epochs=2 --set train.minibatches=19 --set train.learning_rate=1e-3 --set train.warmup_steps=4)
    fi
    if [ "$name" = shelves_sql ]; then
        # With fewer it does not learn to tell books from cards, and then neither does the loop.
        TALKS=${TALKS:-2000}
    fi
    if [[ $name == shelves_* ]]; then
        settings=(--set train.epochs="${EPOCHS:-5}" --set train.minibatches=25 --set train.learning_rate=1e-3 --set train.warmup_steps=10)
    fi
fi

python3 pipelines/agents/teacher.py tasks "$talks" >"$scratch/all.jsonl"
head -n "${TALKS:-800}" "$scratch/all.jsonl" >"$scratch/tasks.jsonl"
python3 pipelines/agents/teacher.py serve "$talks" >"$scratch/url" &
teacher=$!
until [ -s "$scratch/url" ]; do sleep 0.2; done

# Nobody scores the teacher: imitation weighs every conversation alike.
"$fulgurite" rollout "${pipeline[@]}" --set "serve.upstream='$(cat "$scratch/url")'" --set "rollout.tasks='$scratch/tasks.jsonl'" \
    --set rollout.tasks_per_iteration=0 --set rollout.samples=1 --set agent.grader.kind=none --set agent.missing_reward=0
"$fulgurite" ingest "$lake/traces/batch=warm" "${warm[@]}"
"$fulgurite" build "${warm[@]}"
"$fulgurite" train "${warm[@]}" "${settings[@]}"
if [ "$name" = shelves_sql ]; then
    # A query is longer than a call of a tool: once more over the same conversations, from the policy that came out.
    "$fulgurite" train "${warm[@]}" "${settings[@]}" --set train.policy=1 --set train.epochs="${EPOCHS:-4}"
fi
