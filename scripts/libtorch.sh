#!/usr/bin/env bash
# Fetches libtorch 2.13.0 into libtorch/, from the PyPI wheels, whose checksums stand in libtorch-*.txt.
#
#   scripts/libtorch.sh                   CPU
#   LIBTORCH_CUDA=1 scripts/libtorch.sh   CUDA 13, with every library that it needs
#
# libtorch/{torch,nvidia/cu13} lie as in site-packages, because the libraries find each other by relative paths. Run again, it
# does nothing; broken off, it goes on where it was: finished wheels stay in $FULGURITE_CACHE, and libtorch/ appears at the end.
set -euo pipefail
cd "$(dirname "$0")/.."

cache=${FULGURITE_CACHE:-$HOME/.cache/fulgurite}
lists=(scripts/libtorch-cpu.txt)
flavour=cpu
if [ "${LIBTORCH_CUDA:-0}" = 1 ]; then
    lists+=(scripts/libtorch-cuda.txt)
    flavour=cuda
fi
# A CI machine keeps it between checkouts.
home=libtorch
if [ -n "${CI:-}" ] && { [ -L libtorch ] || [ ! -e libtorch ]; }; then
    home=$cache/libtorch-$flavour
    mkdir -p "$cache"
    ln -sfn "$home" libtorch
fi

wanted="$flavour $(cat "${lists[@]}" "$0" | sha256sum | cut -d' ' -f1)"
if [ "$(cat "$home/.complete" 2>/dev/null)" = "$wanted" ]; then
    echo "libtorch 2.13.0 ($flavour) is there" >&2
    exit 0
fi
if [ "$(uname -s)-$(uname -m)" != Linux-x86_64 ]; then
    echo "error: the pinned wheels are for Linux on x86_64; set LIBTORCH to a libtorch 2.13.0 of your own" >&2
    exit 1
fi

pip=(python3 -m pip)
if ! "${pip[@]}" --version >/dev/null 2>&1; then
    [ -x "$cache/pip/bin/python" ] || python3 -m venv "$cache/pip"
    pip=("$cache/pip/bin/python" -m pip)
fi

# The tags are those of the pinned files; the Python version does not matter, since nothing here is imported.
platforms=()
for tag in manylinux_2_28 manylinux_2_27 manylinux_2_25 manylinux_2_24 manylinux_2_18 manylinux_2_17 manylinux2014 manylinux2010 \
    manylinux_2_12 manylinux1 manylinux_2_5; do
    platforms+=(--platform "${tag}_x86_64")
done
mkdir -p "$cache/wheels"
for list in "${lists[@]}"; do
    grep -v '^#' "$list" | while read -r requirement; do
        # One at a time, so that a broken connection costs one wheel. pip takes a wheel that is there already, if its hash is right.
        echo "fetching ${requirement%% *}" >&2
        "${pip[@]}" download --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary=:all: \
            --python-version 3.11 "${platforms[@]}" --dest "$cache/wheels" --find-links "$cache/wheels" \
            --requirement <(echo "$requirement")
    done
done

partial=$home.partial
rm -rf "$partial"
mkdir -p "$partial"
left_out=()
if [ "$flavour" = cpu ]; then
    left_out=(-x 'torch/lib/libtorch_cuda*' 'torch/lib/libc10_cuda*' 'torch/lib/libtorch_nvshmem*' 'torch/lib/libcaffe2_nvrtc*'
        'torch/lib/libtorch_python*')
fi
cat "${lists[@]}" | grep -v '^#' | while read -r requirement; do
    pinned=${requirement%% *}
    wheel=$(echo "$cache/wheels/$(echo "${pinned%%==*}" | tr - _)-${pinned##*==}"-*.whl)
    echo "unpacking ${wheel##*/}" >&2
    case $pinned in
        torch==*) unzip -q "$wheel" 'torch/lib/*' 'torch/include/*' torch/version.py "${left_out[@]}" -d "$partial" ;;
        *) unzip -q "$wheel" 'nvidia/*/lib/*' -d "$partial" ;;
    esac
done

if [ "$flavour" = cpu ]; then
    # The wheel's libtorch.so is a stub that pulls the other libraries in, CUDA's among them. This one needs the CPU's only.
    lib=$partial/torch/lib
    rm "$lib/libtorch.so"
    cc -shared -o "$lib/libtorch.so" -Wl,-soname,libtorch.so -Wl,-rpath,'$ORIGIN' -Wl,--no-as-needed \
        -x c /dev/null -L"$lib" -ltorch_cpu -lc10 -Wl,--allow-shlib-undefined
fi

echo "$wanted" >"$partial/.complete"
rm -rf "$home"
mv "$partial" "$home"
echo "libtorch 2.13.0 ($flavour) is in libtorch/, $(du -sh "$home/" | cut -f1)" >&2
