#!/usr/bin/env python3
"""Writes the scripted run of SCENARIO.md as exports, trajectories and sessions: `make_exports.py [FOLDER]`.

The keys of each are those of the recordings in `shared/samples`, or of the tool's own types; the run itself comes from `make_otlp.py`.
"""

import base64
import json
import pathlib
import sys

from make_otlp import ANSWERED, ERROR, MODEL, QUESTION, RUN, chat_message, hex_id, name_of, nano, openinference, parent_of, text
from make_records import CALLS, iso, offered, seconds, usage

LAST = CALLS[-1]


def milliseconds(at):
    return iso(at)[:23] + "Z"


def failed(step):
    return step["kind"] == "tool" and step["result"] is None


def result_of(step):
    return step["result"] or f"Error: {ERROR}"


def results():
    """What became of each tool call, by its id."""
    return {step["asked"]["id"]: step for step in RUN if step["kind"] == "tool"}


# Langfuse, as its user interface downloads a trace.


def langfuse_export():
    trace_id = hex_id("langfuse_export", 32)

    def observation(step):
        kind = {"root": "SPAN", "agent": "AGENT", "llm": "GENERATION", "tool": "TOOL"}[step["kind"]]
        row = {
            "id": hex_id(name_of(step), 16),
            "traceId": trace_id,
            "type": kind,
            "parentObservationId": hex_id(parent_of(step), 16) if parent_of(step) else None,
            "name": step.get("agent", "run"),
            "startTime": milliseconds(step["begin"]),
            "endTime": milliseconds(step["end"]),
            "level": "ERROR" if failed(step) else "DEFAULT",
            "statusMessage": ERROR if failed(step) else None,
            "metadata": {"resourceAttributes": {"service.name": "agents"}, "scope": {"name": "langfuse-sdk", "version": "3.3.0"}},
            "modelParameters": {},
            "usageDetails": {},
            "model": None,
            "input": None,
            "output": None,
        }
        if step["kind"] == "llm":
            tools = [{"role": "tool", "content": tool} for tool in offered(step)]
            row["name"] = "ChatOpenAI"
            row["model"] = ANSWERED
            row["modelParameters"] = {"temperature": 1.0}
            row["usageDetails"] = dict(zip(("input", "output"), step["usage"]))
            row["input"] = [*(chat_message(message) for message in step["input"]), *tools]
            row["output"] = chat_message(step["answer"])
        if step["kind"] == "tool":
            row["name"] = step["asked"]["name"]
            row["input"] = json.loads(step["asked"]["arguments"])
            row["output"] = step["result"]
        return row

    score = {"id": "s7", "traceId": trace_id, "observationId": None, "name": "score", "value": 1, "stringValue": None}
    score |= {"dataType": "NUMERIC", "source": "EVAL", "comment": None, "timestamp": milliseconds(20)}
    trace = {"id": trace_id, "projectId": "p", "name": "run", "timestamp": milliseconds(0), "sessionId": None, "userId": None}
    trace |= {"input": text(QUESTION), "output": None, "metadata": text({"task_id": "task-7"}), "scores": [score]}
    return [{"trace": trace, "observations": [observation(step) for step in reversed(RUN)]}]


# Phoenix: spans of its client, and an annotation.


def phoenix():
    trace_id = hex_id("phoenix", 32)

    def span(step):
        name, values = openinference(step)
        values = {key: value for key, value in values.items() if "evaluation" not in key}
        event = {"name": "exception", "timestamp": iso(step["end"]), "attributes": {"exception.type": "ZeroDivisionError"}}
        return {
            "name": name,
            "context": {"trace_id": trace_id, "span_id": hex_id(name_of(step), 16)},
            "span_kind": values.pop("openinference.span.kind"),
            "parent_id": hex_id(parent_of(step), 16) if parent_of(step) else None,
            "start_time": iso(step["begin"]),
            "end_time": iso(step["end"]),
            "status_code": "ERROR" if failed(step) else "OK",
            "status_message": ERROR if failed(step) else "",
            "attributes": values,
            "events": [event] if failed(step) else [],
        }

    annotation = {"id": "a7", "span_id": hex_id("root", 16), "name": "score", "annotator_kind": "CODE"}
    annotation |= {"result": {"label": None, "score": 1.0, "explanation": None}, "identifier": "", "metadata": {}}
    return [*(span(step) for step in RUN), annotation]


# MLflow: every attribute is JSON in a string.


def mlflow():
    trace_id = hex_id("mlflow", 32)

    def base64_of(value):
        return base64.b64encode(bytes.fromhex(value)).decode()

    def span(step):
        kind = {"root": "CHAIN", "agent": "AGENT", "llm": "CHAT_MODEL", "tool": "TOOL"}[step["kind"]]
        values = {"mlflow.traceRequestId": f"tr-{trace_id}", "mlflow.spanType": kind}
        if step["kind"] == "llm":
            messages = [chat_message(message) for message in step["input"]]
            values["mlflow.spanInputs"] = {"model": MODEL, "messages": messages, "tools": offered(step), "temperature": 1.0}
            choice = {"index": 0, "message": chat_message(step["answer"]), "finish_reason": step["finish"]}
            values["mlflow.spanOutputs"] = {"id": step["id"], "object": "chat.completion", "model": ANSWERED}
            values["mlflow.spanOutputs"] |= {"choices": [choice], "usage": usage(step)}
            values["mlflow.chat.tools"] = offered(step)
        if step["kind"] == "tool":
            values["mlflow.spanInputs"] = json.loads(step["asked"]["arguments"])
            if step["result"] is not None:
                values["mlflow.spanOutputs"] = step["result"]
        event = {"name": "exception", "time_unix_nano": int(nano(step["end"])), "attributes": {"exception.type": "ZeroDivisionError"}}
        return {
            "trace_id": base64_of(trace_id),
            "span_id": base64_of(hex_id(name_of(step), 16)),
            "parent_span_id": base64_of(hex_id(parent_of(step), 16)) if parent_of(step) else None,
            "name": step["asked"]["name"] if step["kind"] == "tool" else step.get("agent", "run"),
            "start_time_unix_nano": int(nano(step["begin"])),
            "end_time_unix_nano": int(nano(step["end"])),
            "events": [event] if failed(step) else [],
            "status": {"code": "STATUS_CODE_ERROR" if failed(step) else "STATUS_CODE_OK", "message": ""},
            "attributes": {key: json.dumps(value) for key, value in values.items()},
            "links": [],
        }

    assessment = {"assessment_id": "a-7", "assessment_name": "score", "trace_id": f"tr-{trace_id}", "feedback": {"value": 1.0}}
    assessment |= {"source": {"source_type": "CODE", "source_id": "default"}, "create_time": milliseconds(20)}
    info = {"trace_id": f"tr-{trace_id}", "request_time": milliseconds(0), "state": "OK", "trace_metadata": {}}
    info |= {"assessments": [assessment], "tags": {"task_id": "task-7"}, "execution_duration_ms": 9000}
    return [{"info": info, "data": {"spans": [span(step) for step in RUN]}}]


# ATIF: the second agent is a sub-agent, whose trajectory begins with what it was handed.


def atif():
    def calls_of(message):
        return [
            {"tool_call_id": asked["id"], "function_name": asked["name"], "arguments": json.loads(asked["arguments"])}
            for asked in message.get("tool_calls", ())
        ]

    def observation(message):
        found = []
        for asked in message.get("tool_calls", ()):
            step = results()[asked["id"]]
            one = {"source_call_id": asked["id"], "content": result_of(step)}
            if step["agent"] == "math":
                one["extra"] = {"tool_result_is_error": failed(step)}
            found.append(one)
        return {"results": found}

    def trajectory(agent):
        steps = [step for step in CALLS if step["agent"] == agent]
        known = {text(step["answer"]): step for step in steps}
        found = []
        for message in [*steps[-1]["input"], steps[-1]["answer"]]:
            if message["role"] == "tool":
                continue
            source = "agent" if message["role"] == "assistant" else message["role"]
            one = {"step_id": len(found) + 1, "source": source, "message": message["content"] or ""}
            if source == "agent":
                step = known.get(text(message))
                if message.get("tool_calls"):
                    one |= {"tool_calls": calls_of(message), "observation": observation(message)}
                if step is None:
                    one["is_copied_context"] = True
                else:
                    one["timestamp"] = iso(step["begin"])
                    one["metrics"] = dict(zip(("prompt_tokens", "completion_tokens"), step["usage"]))
            found.append(one)
        about = {"name": agent, "version": "1", "model_name": ANSWERED, "tool_definitions": offered(steps[0])}
        about["extra"] = {"temperature": 1.0}
        return {"schema_version": "ATIF-v1.7", "session_id": "s7", "trajectory_id": agent, "agent": about, "steps": found}

    whole = trajectory("triage")
    whole["steps"][-1]["observation"]["results"][0]["subagent_trajectory_ref"] = [{"trajectory_id": "math"}]
    return [whole | {"subagent_trajectories": [trajectory("math")]}]


# Verifiers: a graph of messages, and rows of results with a trajectory.


def verifiers_message(message):
    said = {key: message[key] for key in ("role", "content", "tool_call_id") if key in message}
    if "tool_calls" in message:
        said["tool_calls"] = [{"type": "function"} | asked for asked in message["tool_calls"]]
    return said


def verifiers_v1():
    nodes, places, calls = [], {}, []
    for step in CALLS:
        path, parent = (), None
        for message in [*step["input"], step["answer"]]:
            path = (*path, text(message))
            if path not in places:
                places[path] = len(nodes)
                sampled = message is step["answer"]
                node = {"parent": parent, "message": verifiers_message(message), "sampled": sampled}
                if parent is None:
                    node["tools"] = [{"type": "function"} | step["tool"]]
                nodes.append(node | {"timestamp": seconds(step["end"]), "token_ids": [], "mask": [], "logprobs": []})
            parent = places[path]
        calls.append(
            {
                "node": parent,
                "model": MODEL,
                "sampling": {"temperature": 1.0},
                "endpoint": "/chat/completions",
                "finish_reason": step["finish"],
                "usage": dict(zip(("prompt_tokens", "completion_tokens"), step["usage"])),
                "time": {"start": seconds(step["begin"]), "end": seconds(step["end"])},
                "error": None,
            }
        )
    task = {"type": "Division", "data": {"idx": 0, "id": "task-7", "prompt": QUESTION}, "key": None, "hash": "7"}
    tools = [{"type": "function"} | tool for tool in {step["tool"]["name"]: step["tool"] for step in CALLS}.values()]
    trace = {"version": 1, "id": "t7", "task": task, "agent": {"name": "agent", "trainable": True, "config": {}}, "tools": tools}
    trace |= {"nodes": nodes, "calls": calls, "rewards": {"score": {"score": 1.0, "weight": 1.0}}, "metrics": {}, "info": {}}
    trace |= {"is_completed": True, "ok": True, "stop_condition": None, "errors": [], "timing": {"start": seconds(0)}}
    return [{"id": "e7", "env": {"id": "division"}, "task": task, "group": None, "run": None, "ok": True, "errors": [], "traces": [trace]}]


def verifiers():
    def trajectory(step):
        read, written = step["usage"]
        choice = {"index": 0, "message": chat_message(step["answer"]), "finish_reason": step["finish"]}
        response = {"id": step["id"], "object": "chat.completion", "model": ANSWERED, "choices": [choice], "usage": usage(step)}
        tokens = {"prompt_ids": list(range(read)), "prompt_mask": [0] * read}
        tokens |= {"completion_ids": list(range(written)), "completion_mask": [1] * written, "completion_logprobs": [-0.5] * written}
        prompt = [chat_message(message) for message in step["input"]]
        completion = [chat_message(step["answer"])]
        return {"prompt": prompt, "completion": completion, "response": response, "tokens": tokens, "reward": None, "advantage": None}

    row = {"example_id": "task-7", "task": "division", "prompt": [{"role": "user", "content": QUESTION}]}
    row |= {"completion": [chat_message(LAST["answer"])], "answer": "undefined, 3 and 4", "info": {}, "reward": 1.0, "metrics": {}}
    row |= {"is_completed": True, "is_truncated": False, "stop_condition": "done", "error": None}
    return [row | {"trajectory": [trajectory(step) for step in CALLS]}]


# SWE-agent: each agent has the messages that bear its name; what it did not do itself is a demonstration to it.


def swe_agent():
    history = []
    for agent in ("triage", "math"):
        steps = [step for step in CALLS if step["agent"] == agent]
        answers = [text(step["answer"]) for step in steps]
        messages = [*steps[-1]["input"], steps[-1]["answer"]]
        if steps[-1]["answer"].get("tool_calls"):
            asked = steps[-1]["answer"]["tool_calls"][0]["id"]
            messages.append({"role": "tool", "content": result_of(results()[asked]), "tool_call_id": asked})
        demonstration = agent == "math"
        for message in messages:
            demonstration = demonstration and text(message) not in answers
            said = chat_message(message) | {"agent": agent, "message_type": "action"}
            if message["role"] == "tool":
                said["tool_call_ids"] = [said.pop("tool_call_id")]
            if demonstration and message["role"] in ("assistant", "tool"):
                said["is_demo"] = True
            history.append(said)
    info = {"exit_status": "submitted", "submission": "", "model_stats": {"api_calls": 4}}
    config = {"problem_statement": {"id": "task-7", "text": QUESTION}}
    return [{"environment": "main", "trajectory": [], "history": history, "info": info, "replay_config": config}]


# Formats with one conversation and without the system's prompt.


def conversation():
    """Messages of the whole run, and the call that each answer comes from."""
    answers = {text(step["answer"]): step for step in CALLS}
    return [(message, answers.get(text(message))) for message in [*LAST["input"], LAST["answer"]] if message["role"] != "system"]


def end_of_result(message):
    return results()[message["tool_call_id"]]["end"]


def adp():
    content = []
    for message, step in conversation():
        if message["role"] == "user":
            content.append({"class_": "text_observation", "content": message["content"], "source": "user"})
        elif message["role"] == "tool":
            found = {"class_": "text_observation", "content": message["content"], "source": "environment"}
            content.append(found | {"tool_call_id": message["tool_call_id"]})
        elif message.get("tool_calls"):
            for asked in message["tool_calls"]:
                action = {"class_": "api_action", "function": asked["name"], "kwargs": json.loads(asked["arguments"])}
                content.append(action | {"description": None, "tool_call_id": asked["id"]})
        else:
            content.append({"class_": "message_action", "content": message["content"], "reward": 1.0})
    return [{"schema_version": "1.3", "id": "t7", "content": content, "details": {"task_id": "task-7"}}]


def claude_code():
    lines = []

    def line(kind, at, message):
        head = {"parentUuid": lines[-1]["uuid"] if lines else None, "isSidechain": False, "sessionId": "s7", "type": kind}
        lines.append(head | {"message": message, "uuid": f"u{len(lines)}", "timestamp": milliseconds(at)})

    for message, step in conversation():
        if message["role"] == "user":
            line("user", 0, {"role": "user", "content": message["content"]})
        elif message["role"] == "tool":
            block = {"type": "tool_result", "tool_use_id": message["tool_call_id"], "content": message["content"]}
            if failed(results()[message["tool_call_id"]]):
                block["is_error"] = True
            line("user", end_of_result(message), {"role": "user", "content": [block]})
        else:
            blocks = [
                {"type": "tool_use", "id": asked["id"], "name": asked["name"], "input": json.loads(asked["arguments"])}
                for asked in message.get("tool_calls", ())
            ] or [{"type": "text", "text": message["content"]}]
            said = {"id": step["id"], "type": "message", "role": "assistant", "model": ANSWERED}
            said["stop_reason"] = "tool_use" if step["finish"] == "tool_calls" else "end_turn"
            said["usage"] = dict(zip(("input_tokens", "output_tokens"), step["usage"]))
            for block in blocks:
                line("assistant", step["end"], said | {"content": [block]})
    return [*lines, {"type": "summary", "summary": "Divisions.", "leafUuid": lines[-1]["uuid"]}]


def codex():
    def line(kind, at, payload):
        return {"timestamp": milliseconds(at), "type": kind, "payload": payload}

    lines = [line("session_meta", 0, {"id": "s7", "cwd": "/", "instructions": None}), line("turn_context", 0, {"model": ANSWERED})]
    for message, step in conversation():
        if message["role"] == "user":
            content = [{"type": "input_text", "text": message["content"]}]
            lines.append(line("response_item", 0, {"type": "message", "role": "user", "content": content}))
        elif message["role"] == "tool":
            output = {"type": "function_call_output", "call_id": message["tool_call_id"], "output": message["content"]}
            lines.append(line("response_item", end_of_result(message), output))
        else:
            items = [
                {"type": "function_call", "name": asked["name"], "arguments": asked["arguments"], "call_id": asked["id"]}
                for asked in message.get("tool_calls", ())
            ] or [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": message["content"]}]}]
            lines += [line("response_item", step["end"], item) for item in items]
            count = dict(zip(("input_tokens", "output_tokens"), step["usage"]))
            lines.append(line("event_msg", step["end"], {"type": "token_count", "info": {"last_token_usage": count}}))
    return lines


def gemini():
    told = {message["tool_call_id"]: message["content"] for message, _ in conversation() if message["role"] == "tool"}
    messages = []
    for message, step in conversation():
        if message["role"] == "user":
            messages.append({"id": "u", "timestamp": milliseconds(0), "type": "user", "content": message["content"]})
        if message["role"] != "assistant":
            continue
        calls = []
        for asked in message.get("tool_calls", ()):
            ran = results()[asked["id"]]
            response = {"error" if failed(ran) else "output": told[asked["id"]]}
            function = {"functionResponse": {"id": asked["id"], "name": asked["name"], "response": response}}
            call = {"id": asked["id"], "name": asked["name"], "args": json.loads(asked["arguments"]), "result": [function]}
            calls.append(call | {"status": "error" if failed(ran) else "success", "timestamp": milliseconds(ran["end"])})
        said = {"id": step["id"], "timestamp": milliseconds(step["end"]), "type": "gemini", "content": message["content"] or ""}
        said |= {"model": ANSWERED, "tokens": dict(zip(("input", "output"), step["usage"]))}
        messages.append(said | ({"toolCalls": calls} if calls else {}))
    return [{"sessionId": "s7", "projectHash": "p", "startTime": milliseconds(0), "lastUpdated": milliseconds(9), "messages": messages}]


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent)
    for write in (langfuse_export, phoenix, mlflow, atif, verifiers, verifiers_v1, swe_agent, adp, claude_code, codex, gemini):
        lines = "".join(json.dumps(record, separators=(",", ":")) + "\n" for record in write())
        (folder / f"{write.__name__}.jsonl").write_text(lines)


if __name__ == "__main__":
    main()
