"""llama.cpp as a peer: the same greedy answers through our proxy as from its own server, and the same token ids of a GGUF file's tokenizer.

    python tests/peers/llama_cpp.py FULGURITE MODEL.gguf

Runs in a Python that has llama-cpp-python[server]; FULGURITE is the binary. Prints `ok`.
"""

import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

fulgurite, model = sys.argv[1:]
KEY = "secret"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def post(url, body):
    """Status and text of the answer."""
    headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def wait_for(url, process):
    for _ in range(600):
        assert process.poll() is None, f"{process.args[0]} has ended with {process.returncode}"
        try:
            request = urllib.request.Request(url, headers={"authorization": f"Bearer {KEY}"})
            return urllib.request.urlopen(request, timeout=5)
        except urllib.error.HTTPError:
            return None
        except OSError:
            time.sleep(0.5)
    raise SystemExit(f"{url} does not answer")


def streamed(text):
    """The text of a stream's pieces put together, and the last reason to finish."""
    chunks = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    said = "".join(choice["delta"].get("content") or "" for choice in choices)
    return said, [choice["finish_reason"] for choice in choices if choice["finish_reason"]][-1]


# What tokenizers cut differently when they are rebuilt wrongly: spaces, digits, contractions, scripts, emoji, code, special tokens.
TEXTS = [
    "Once upon a time, there was a fox.", "  two  spaces,   three\t tab\n\n\nlines \r\n end  ", "I'm, you're, they'VE, it'd, we'll", "3.14159 and 1,000,000 and 2026-11-23",
    "Grüße aus Köln, naïve café", "中文和日本語と한국어", "👩‍👩‍👧‍👦 🇩🇪 e\u0301", "def f(x):\n    return x ** 2  # squared\n", '{"name": "calculator", "arguments": {"expression": "(48/2)+48"}}',
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n", "<|im_start|><|endoftext|>x", "a" * 300, "\u00a0\u2003\u200b\ufeff", "ſ İ ǅ ß", "http://example.com/a?b=c&d=%20#e",
]


def check_token_ids():
    """The tokenizer that is rebuilt from the metadata cuts texts as llama.cpp does."""
    # This file has the name of the package.
    sys.path.remove(str(Path(__file__).resolve().parent))
    from llama_cpp import Llama

    theirs = Llama(model_path=model, vocab_only=True, verbose=False)
    with tempfile.TemporaryDirectory(prefix="fulgurite-peer-") as lake:
        subprocess.run([fulgurite, "policy", "import", "--from", model, "--lake", lake, "--quiet"], check=True)
        own = free_port()
        server = subprocess.Popen([fulgurite, "serve", "--lake", lake, "--port", str(own), "--key", KEY], stdout=subprocess.DEVNULL)
        try:
            wait_for(f"http://127.0.0.1:{own}/health", server)
            for text in TEXTS:
                body = {"model": "m", "prompt": text, "max_tokens": 1, "temperature": 0, "return_token_ids": True}
                status, answer = post(f"http://127.0.0.1:{own}/v1/completions", body)
                assert status == 200, answer
                ours = json.loads(answer)["choices"][0]["prompt_token_ids"]
                expected = theirs.tokenize(text.encode(), add_bos=False, special=True)
                assert ours == expected, (text, ours, expected)
        finally:
            server.terminate()
            server.wait(30)


def check_proxy():
    port, own = free_port(), free_port()
    theirs = f"http://127.0.0.1:{port}/v1"
    processes = []
    try:
        command = [sys.executable, "-m", "llama_cpp.server", "--model", model, "--port", str(port), "--n_ctx", "512", "--verbose", "0"]
        processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        wait_for(f"{theirs}/models", processes[-1])
        command = [fulgurite, "serve", "--port", str(own), "--key", KEY]
        command += ["--set", f"serve.upstream={theirs}", "--set", "serve.dialect=llama_cpp"]
        processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        wait_for(f"http://127.0.0.1:{own}/health", processes[-1])
        ours = f"http://127.0.0.1:{own}/v1"

        body = {"model": "m", "temperature": 0, "top_p": 1, "max_tokens": 12, "messages": [{"role": "user", "content": "Name a colour."}]}
        expected = json.loads(post(f"{theirs}/chat/completions", body)[1])["choices"][0]
        status, text = post(f"{ours}/chat/completions", body)
        assert status == 200, text
        choice = json.loads(text)["choices"][0]
        assert choice["message"]["content"] == expected["message"]["content"], (choice, expected)
        assert choice["finish_reason"] == expected["finish_reason"] and not choice.get("logprobs"), choice
        status, text = post(f"{ours}/chat/completions", {**body, "stream": True})
        assert status == 200, text
        assert streamed(text) == (expected["message"]["content"], expected["finish_reason"]), text

        completion = {"model": "m", "temperature": 0, "max_tokens": 5, "prompt": "Once upon a"}
        expected = json.loads(post(f"{theirs}/completions", completion)[1])["choices"][0]["text"]
        assert json.loads(post(f"{ours}/completions", completion)[1])["choices"][0]["text"] == expected

        refused = [post(f"{base}/chat/completions", {**body, "messages": 7}) for base in (theirs, ours)]
        assert refused[0][0] == refused[1][0] >= 400, refused
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(30)


check_token_ids()
check_proxy()
print("ok")
