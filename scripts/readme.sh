#!/usr/bin/env bash
# Runs the README's console blocks with a binary and compares what they print, so that the README stays true.
#
#   scripts/readme.sh target/debug/fulgurite
#
# Runs lines that begin with `$ fulgurite`, in a scratch folder with sample_data/ beside; blocks marked `console` count. Durations and file
# sizes may differ, and so may the width of a column that holds them.
set -euo pipefail
binary=$(realpath "$1")
cd "$(dirname "$0")/.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/bin"
ln -s "$binary" "$scratch/bin/fulgurite"
for folder in sample_data pipelines; do ln -s "$PWD/$folder" "$scratch/$folder"; done
export PATH="$scratch/bin:$PATH" NO_COLOR=1

awk '/^```console$/ { inside = 1; next } /^```$/ { inside = 0; next } inside' README.md >"$scratch/expected"
commands=0
while IFS= read -r line; do
    echo "$line"
    case $line in
        '$ fulgurite '*)
            commands=$((commands + 1))
            (cd "$scratch" && bash -c "${line#\$ }") 2>&1 || echo "(exit code $?)"
            ;;
    esac
done < <(grep '^\$ ' "$scratch/expected" || true) >"$scratch/actual"
if [ "$commands" -eq 0 ]; then
    echo "error: README.md has no command to check" >&2
    exit 1
fi
comparable() {
    grep -v '^$' "$1" | sed -E 's/ in [0-9.]+ s/ in 0.0 s/; s/[0-9.]+ (Ki|Mi)?B/0 KiB/; s/ +/ /g; s/-+/-/g'
}
if ! diff -u <(comparable "$scratch/expected") <(comparable "$scratch/actual"); then
    echo "error: README.md shows something else than its commands print" >&2
    exit 1
fi
echo "README.md: $commands commands print what it shows"
