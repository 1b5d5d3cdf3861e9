#!/usr/bin/env bash
# Makes .venv-clients with what tests/clients/requirements.txt names; with CI set it lies in $FULGURITE_CACHE. Does nothing where it is made already.
set -euo pipefail
cd "$(dirname "$0")/.."

home=.venv-clients
if [ -n "${CI:-}" ] && { [ -L "$home" ] || [ ! -e "$home" ]; }; then
    home=${FULGURITE_CACHE:-$HOME/.cache/fulgurite}/venv-clients
    mkdir -p "${home%/*}"
    ln -sfn "$home" .venv-clients
fi
wanted=$(sha256sum <tests/clients/requirements.txt)
if [ "$(cat "$home/.complete" 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi
rm -rf "$home/"*
python3 -m venv "$home"
"$home/bin/python" -m pip install --quiet --disable-pip-version-check --requirement tests/clients/requirements.txt
echo "$wanted" >"$home/.complete"
