"""The proxy in front of llama.cpp's own server: the same greedy answers through it as without it.

    python tests/peers/llama_cpp.py FULGURITE MODEL.gguf

Runs in a Python that has llama-cpp-python[server]; FULGURITE is the binary. Prints `ok`.
"""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

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


def check():
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


check()
print("ok")
