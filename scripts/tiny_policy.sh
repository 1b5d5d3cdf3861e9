#!/usr/bin/env bash
# Makes sample_data/tiny-policy anew: a small model with random weights, warmed up on traces of mixed quality. Minutes on two cores.
#
# Its tokenizer too is learnt from those traces alone: a word that only the tasks of `test` have is new to it.
set -euo pipefail
cd "$(dirname "$0")/.."

fulgurite=${FULGURITE:-target/release/fulgurite}
lake=${LAKE:-runs/tiny-policy}
traces=sample_data/calc/warm_start.jsonl.gz
settings=(--lake "$lake" --batch warm --pipeline pipelines/warm_start.toml)

texts=$(mktemp --suffix=.jsonl)
trap 'rm -f "$texts"' EXIT
gzip -dc "$traces" > "$texts"

"$fulgurite" policy new --hidden 128 --layers 3 --heads 4 --vocab 1024 --context 512 --text "$texts" --lake "$lake"
"$fulgurite" ingest "$traces" "${settings[@]}"
"$fulgurite" build "${settings[@]}"
"$fulgurite" train "${settings[@]}"
rm -rf sample_data/tiny-policy
"$fulgurite" policy export --version 1 --to sample_data/tiny-policy --lake "$lake"
