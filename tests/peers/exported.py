"""An exported policy goes through llama.cpp's converter, and llama.cpp then says what Fulgurite says.

    python tests/peers/exported.py FULGURITE MODEL.gguf CONVERTER.py LLAMA_PYTHON

Runs in a Python that has what the converter asks for (torch, transformers, gguf); CONVERTER.py is `convert_hf_to_gguf.py` of llama.cpp, LLAMA_PYTHON
one that has llama-cpp-python. Prints `ok`.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

fulgurite, model, converter, llama_python = sys.argv[1:]
PROMPTS = ["Name a colour.", "What is the capital of France?", "What is 2 + 3? Answer with the number."]
TOKENS = 24

# Greedy answers to the prompts in the model's own chat template.
LLAMA = """
import json, sys
from llama_cpp import Llama
model, tokens, prompts = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
llama = Llama(model_path=model, n_ctx=512, verbose=False)
ask = lambda prompt: llama.create_chat_completion([{"role": "user", "content": prompt}], temperature=0, repeat_penalty=1.0, max_tokens=tokens)
print(json.dumps([ask(prompt)["choices"][0]["message"]["content"].strip() for prompt in prompts]))
"""


def said(*command):
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, (command, done.stderr[-3000:])
    return done.stdout


with tempfile.TemporaryDirectory(prefix="fulgurite-peer-") as folder:
    folder = Path(folder)
    lake = ["--lake", folder / "lake", "--quiet"]
    said(fulgurite, "policy", "import", "--from", model, *lake)
    said(fulgurite, "policy", "export", "--version", 0, "--to", folder / "model", *lake)
    said(sys.executable, converter, folder / "model", "--outtype", "f32", "--outfile", folder / "model.gguf")
    generate = [fulgurite, "policy", "generate", "--temperature", 0, "--max-tokens", TOKENS, *lake, "--prompt"]
    ours = [said(*generate, prompt).strip() for prompt in PROMPTS]
    theirs = json.loads(said(llama_python, "-c", LLAMA, folder / "model.gguf", TOKENS, json.dumps(PROMPTS)))
    assert ours == theirs, (ours, theirs)
    for prompt, answer in zip(PROMPTS, ours):
        print(f"{prompt} {answer}")
print("ok")
