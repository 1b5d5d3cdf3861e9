#!/usr/bin/env bash
# Installs what the build needs and the machine lacks (Debian and Ubuntu). Does nothing, and needs no rights, where all is there.
set -euo pipefail

has() { command -v "$1" >/dev/null 2>&1; }

packages=()
has cc && has c++ && has make || packages+=(build-essential)
has pkg-config || packages+=(pkg-config)
has unzip || packages+=(unzip)
has git || packages+=(git)
# Debian's python3 comes without what `python3 -m venv` needs.
has python3 && python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3 python3-venv)

if [ ${#packages[@]} -gt 0 ]; then
    if ! has apt-get; then
        echo "error: please install ${packages[*]} (this is no Debian, so they go by other names here)" >&2
        exit 1
    fi
    as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        has sudo || { echo "error: ask root for: apt-get install ${packages[*]}" >&2; exit 1; }
        as_root=(sudo)
    fi
    echo "installing ${packages[*]}" >&2
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >&2
fi

if ! has cargo; then
    echo "error: there is no cargo: install Rust 1.94 or later with rustup, see https://rustup.rs" >&2
    exit 1
fi
