#!/usr/bin/env python3
"""A teacher for warm starts: an OpenAI-compatible server that says what recorded conversations say. Standard library only.

    python teacher.py tasks warm_start.jsonl.gz > tasks.jsonl        the questions, one a task
    python teacher.py serve warm_start.jsonl.gz                      prints its base URL, and answers until it is ended

An agent that runs against it, with `serve.upstream` set to that URL, leaves traces with exactly the prompts that its framework sends. What is said
comes from chat JSON lines: a conversation's first user message is its question, and the n-th request that has the question in it is answered by the
conversation's n-th assistant message. So the conversations may be of another framework, and of several agents one after the other.
"""

import gzip
import itertools
import json
import sys
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock


def conversations(path):
    data = Path(path).read_bytes()
    text = gzip.decompress(data) if path.endswith(".gz") else data
    for line in text.splitlines():
        row = json.loads(line)
        question = next(message["content"] for message in row["messages"] if message["role"] == "user")
        yield row["task_id"], question, [message for message in row["messages"] if message["role"] == "assistant"]


def tasks(path):
    asked = set()
    for task_id, question, _ in conversations(path):
        # A question is asked once: that is how the teacher knows where in a conversation it is.
        if question not in asked:
            asked.add(question)
            yield {"id": task_id, "input": question, "split": "train"}


class Teacher(ThreadingHTTPServer):
    daemon_threads = True
    # Agents come many at once.
    request_queue_size = 256

    def __init__(self, port, script):
        super().__init__(("127.0.0.1", port), Handler)
        self.script = script
        self.asked = Counter()
        self.calls = itertools.count()
        self.lock = Lock()

    def reply(self, messages):
        """The next assistant message of the conversation that this request belongs to; None where it belongs to none."""
        for message in messages:
            content = message.get("content")
            if message["role"] != "user" or not isinstance(content, str):
                continue
            # Agents put their question among other words: it has a line of its own.
            for question in [content, *content.splitlines()]:
                if question in self.script:
                    replies = self.script[question]
                    with self.lock:
                        place = self.asked[question]
                        self.asked[question] += 1
                    return replies[place % len(replies)]
        return None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        reply = self.server.reply(body["messages"])
        if reply is None:
            return self.send(404, {"error": {"message": "no conversation has this question", "type": "invalid_request_error"}})
        message = {"role": "assistant", "content": reply.get("content")}
        calls = [call | {"id": f"call_{next(self.server.calls)}"} for call in reply.get("tool_calls", [])]
        if calls:
            message["tool_calls"] = calls
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if calls else "stop"}
        usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        answer = {"id": f"chatcmpl-{next(self.server.calls)}", "object": "chat.completion", "created": 0, "model": body["model"]}
        self.send(200, answer | {"choices": [choice], "usage": usage})

    def send(self, status, value):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        """Nothing: a line a request would drown what the agents say."""


def main():
    what, path = sys.argv[1:]
    if what == "tasks":
        for task in tasks(path):
            print(json.dumps(task, ensure_ascii=False, separators=(",", ":")))
        return
    script = {}
    for _, question, replies in conversations(path):
        # The first conversation about a question is the one that its task is from.
        script.setdefault(question, replies)
    teacher = Teacher(0, script)
    print(f"http://127.0.0.1:{teacher.server_address[1]}/v1", flush=True)
    teacher.serve_forever()


if __name__ == "__main__":
    main()
