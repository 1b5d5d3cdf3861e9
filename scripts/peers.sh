#!/usr/bin/env bash
# Runs the tests that need servers too heavy for every run: the lake's contract on Azure's storage emulator (Azurite, from npm).
set -euo pipefail
cd "$(dirname "$0")/.."

cache=${FULGURITE_CACHE:-$HOME/.cache/fulgurite}
azurite=$cache/azurite/node_modules/.bin/azurite-blob
if [ ! -x "$azurite" ]; then
    if ! command -v npm >/dev/null; then
        echo "error: Azurite comes from npm: install Node.js 20 or later" >&2
        exit 1
    fi
    npm install --silent --no-audit --no-fund --prefix "$cache/azurite" azurite@3.37.0
fi
scripts/python-env.sh
FULGURITE_AZURITE=$azurite cargo test --locked --test it -- --exact lake::contract_on_azure --nocapture
