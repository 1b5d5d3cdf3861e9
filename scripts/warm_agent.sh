#!/usr/bin/env bash
# A tiny policy that can speak as an agent's framework wants it: `scripts/warm_agent.sh calc`, `sql` or `rag`. The agent of pipelines/<name>.toml runs
# against a teacher that says what recorded conversations say, so that the traces have exactly the prompts that the framework sends; then the
# policy imitates them. `fulgurite loop --pipeline pipelines/<name>.toml --lake runs/<name>` goes on from there.
#
# The agent's requirements are wanted in the `python` that is first in PATH. TALKS says how many conversations.
set -euo pipefail
cd "$(dirname "$0")/.."

name=${1:?calc, sql or rag}
fulgurite=${FULGURITE:-target/release/fulgurite}
lake=${LAKE:-runs/$name}
talks=sample_data/$name/warm_start.jsonl.gz
pipeline=(--lake "$lake" --batch warm --pipeline "pipelines/$name.toml")
warm=(--lake "$lake" --batch warm --pipeline pipelines/warm_start.toml)

scratch=$(mktemp -d)
trap 'kill "${teacher:-}" 2>/dev/null || true; rm -rf "$scratch"' EXIT

if [ "$name" = calc ]; then
    # It can calculate already, but knows another wording of the tool.
    "$fulgurite" policy import --from sample_data/tiny-policy --lake "$lake"
    settings=(--set train.epochs=2 --set train.minibatches=19 --set train.learning_rate=1e-3 --set train.warmup_steps=4)
else
    "$fulgurite" policy new --hidden 128 --layers 3 --heads 4 --vocab 768 --context 512 \
        --text "sample_data/$name/small.jsonl" --text "pipelines/agents/$(basename pipelines/agents/"$name"_*.py)" --lake "$lake"
    settings=(--set train.epochs="${EPOCHS:-8}" --set train.minibatches=20 --set train.learning_rate=3e-3 --set train.warmup_steps=20)
fi

python3 pipelines/agents/teacher.py tasks "$talks" >"$scratch/all.jsonl"
head -n "${TALKS:-600}" "$scratch/all.jsonl" >"$scratch/tasks.jsonl"
python3 pipelines/agents/teacher.py serve "$talks" >"$scratch/url" &
teacher=$!
until [ -s "$scratch/url" ]; do sleep 0.2; done

# Nobody scores the teacher: imitation weighs every conversation alike.
"$fulgurite" rollout "${pipeline[@]}" --set "serve.upstream='$(cat "$scratch/url")'" --set "rollout.tasks='$scratch/tasks.jsonl'" \
    --set rollout.tasks_per_iteration=0 --set rollout.samples=1 --set agent.grader.kind=none --set agent.missing_reward=0
"$fulgurite" ingest "$lake/traces/batch=warm" "${warm[@]}"
"$fulgurite" build "${warm[@]}"
"$fulgurite" train "${warm[@]}" "${settings[@]}"
