#!/usr/bin/env bash
# Ratios against live peers: DuckDB (from tests/requirements.txt) and Agent Lightning 0.3.0, which gets a Python of its own (764 MB).
# Takes the arguments of benches/run.py, such as `--only ingest --megabytes 100`.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/python-env.sh
home=${FULGURITE_CACHE:-$HOME/.cache/fulgurite}/agent-lightning
if [ ! -e "$home/.complete" ]; then
    python3 -m venv "$home"
    "$home/bin/python" -m pip install --quiet --disable-pip-version-check agentlightning==0.3.0
    touch "$home/.complete"
fi
exec .venv/bin/python benches/run.py "${FULGURITE:-target/release/fulgurite}" --agent-lightning "$home/bin/python" "$@"
