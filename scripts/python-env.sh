#!/usr/bin/env bash
# Makes .venv with what tests/requirements.txt names; with CI set it lies in $FULGURITE_CACHE. Does nothing where it is made already.
set -euo pipefail
cd "$(dirname "$0")/.."

home=.venv
if [ -n "${CI:-}" ] && { [ -L .venv ] || [ ! -e .venv ]; }; then
    home=${FULGURITE_CACHE:-$HOME/.cache/fulgurite}/venv
    mkdir -p "${home%/*}"
    ln -sfn "$home" .venv
fi
wanted=$(sha256sum <tests/requirements.txt)
if [ "$(cat "$home/.complete" 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi
rm -rf "$home/"*
python3 -m venv "$home"
"$home/bin/python" -m pip install --quiet --disable-pip-version-check --requirement tests/requirements.txt
echo "$wanted" >"$home/.complete"
