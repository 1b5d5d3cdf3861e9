#!/usr/bin/env bash
# Installs Chromium (Debian's package) for the test of the report, where apt can. Does nothing where there is one, and fails nothing where
# there is none to be had: the test then says that it is skipped.
set -euo pipefail

for name in chromium chromium-browser google-chrome google-chrome-stable; do
    if command -v "$name" >/dev/null 2>&1; then
        exit 0
    fi
done
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    as_root=(sudo -n)
fi
if ! command -v apt-get >/dev/null 2>&1 || ! "${as_root[@]}" true 2>/dev/null; then
    echo "no Chromium, and no right to install one: the report is not tested in a browser" >&2
    exit 0
fi
echo "installing chromium" >&2
"${as_root[@]}" apt-get update -qq || true
if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >&2; then
    echo "Chromium cannot be installed: the report is not tested in a browser" >&2
fi
