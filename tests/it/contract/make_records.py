#!/usr/bin/env python3
"""Writes the scripted run of SCENARIO.md in the formats that are not OTLP: `make_records.py [FOLDER]`.

The keys and the habits of each are those of the recordings in `shared/samples`; the run itself comes from `make_otlp.py`.
"""

import datetime
import json
import pathlib
import sys

from make_otlp import ANSWERED, BEGIN, ERROR, MODEL, QUESTION, RUN, SECOND, chat_message, hex_id, name_of, parent_of, text

CALLS = [step for step in RUN if step["kind"] == "llm"]


def seconds(at):
    return BEGIN / SECOND + at


def iso(at):
    return datetime.datetime.fromtimestamp(seconds(at), datetime.timezone.utc).isoformat(timespec="microseconds")


def offered(step):
    return [{"type": "function", "function": step["tool"]}]


def usage(step):
    read, written = step["usage"]
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


# Agent Lightning 0.3 under AgentOps: requests for tools are spans below the call, what became of them stands in the next prompt.


def agentops(step):
    if step["kind"] == "root":
        return "ro-7.session", {"agentops.span.kind": "session", "operation.name": "ro-7"}
    if step["kind"] == "agent":
        return f"{step['agent']}.agent", {"agentops.span.kind": "agent", "operation.name": step["agent"]}
    values = {
        "gen_ai.request.type": "chat",
        "gen_ai.system": "OpenAI",
        "gen_ai.request.model": MODEL,
        "gen_ai.request.temperature": 1.0,
        "gen_ai.request.functions.0.name": step["tool"]["name"],
        "gen_ai.request.functions.0.description": step["tool"]["description"],
        "gen_ai.request.functions.0.parameters": text(step["tool"]["parameters"]),
        "gen_ai.response.id": step["id"],
        "gen_ai.response.model": ANSWERED,
        "gen_ai.completion.0.role": "assistant",
        "gen_ai.completion.0.finish_reason": step["finish"],
    }
    values |= {f"gen_ai.usage.{key}": value for key, value in usage(step).items()}
    if step["answer"]["content"] is not None:
        values["gen_ai.completion.0.content"] = step["answer"]["content"]
    for index, message in enumerate(step["input"]):
        prefix = f"gen_ai.prompt.{index}."
        values[prefix + "role"] = message["role"]
        for key in ("content", "tool_call_id"):
            if message.get(key) is not None:
                values[prefix + key] = message[key]
        for number, asked in enumerate(message.get("tool_calls", ())):
            for key in ("id", "name", "arguments"):
                values[f"{prefix}tool_calls.{number}.{key}"] = asked[key]
    return "openai.chat.completion", values


def agent_lightning():
    """Spans in the order of their ends, which is what `sequence_id` counts."""
    spans = []

    def add(span_id, parent, name, values, begin, end):
        spans.append(
            {
                "rollout_id": "ro-7",
                "attempt_id": "at-1",
                "trace_id": hex_id("agent_lightning", 32),
                "span_id": hex_id(span_id, 16),
                "parent_id": parent and hex_id(parent, 16),
                "name": name,
                "status": {"status_code": "OK", "description": None},
                "attributes": values,
                "events": [],
                "links": [],
                "start_time": seconds(begin),
                "end_time": seconds(end),
                "resource": {"attributes": {"agentlightning.rollout_id": ""}, "schema_url": ""},
            }
        )

    for step in RUN:
        if step["kind"] == "tool":
            continue
        add(name_of(step), parent_of(step), *agentops(step), step["begin"], step["end"])
        for asked in step.get("answer", {}).get("tool_calls", ()):
            values = {
                "agentops.span.kind": "AgentOpsSpanKindValues.TOOL",
                "tool.name": asked["name"],
                "tool.parameters": asked["arguments"],
                "tool.call.id": asked["id"],
                "tool.call.type": "function",
            }
            add(asked["id"], name_of(step), f"tool_call.{asked['name']}", values, step["end"] - 0.1, step["end"] - 0.05)
    reward = {"agentlightning.reward.0.name": "score", "agentlightning.reward.0.value": 1.0}
    add("reward", "root", "agentlightning.annotation", reward, 8.5, 8.6)
    spans.sort(key=lambda span: span["end_time"])
    for number, span in enumerate(spans, 1):
        span["sequence_id"] = number
    rollout = {
        "rollout_id": "ro-7",
        "input": {"id": "task-7", "question": QUESTION},
        "start_time": seconds(0),
        "end_time": seconds(9),
        "mode": "train",
        "status": "succeeded",
        "metadata": {},
        "attempt": {"rollout_id": "ro-7", "attempt_id": "at-1", "status": "succeeded"},
    }
    return [*spans, rollout]


# Agent Lightning 1.0: the gateway sees requests and rewards, and nothing of agents.


def agent_lightning_v1():
    def event(kind, at, data):
        return {"event_type": kind, "rollout_id": "r7", "attempt_id": "0", "timestamp": seconds(at), "data": data}

    def request(step):
        return {
            "model": MODEL,
            "model_version": 7,
            "request": {
                "model": MODEL,
                "messages": [chat_message(message) for message in step["input"]],
                "tools": offered(step),
                "temperature": 1.0,
            },
            "response": {
                "id": step["id"],
                "object": "chat.completion",
                "model": ANSWERED,
                "choices": [{"index": 0, "message": chat_message(step["answer"]), "finish_reason": step["finish"]}],
                "usage": usage(step),
            },
            "server": {"model": MODEL, "version": 7},
            "latency_ms": 500.0,
            "http_status": 200,
            "status": "ok",
            "retry_count": 0,
            "usage": usage(step),
            "finish_reason": step["finish"],
        }

    rollout = {
        "rollout_id": "r7",
        "input": {"question": QUESTION},
        "is_train": True,
        "config": {},
        "metadata": {"data_id": "task-7"},
        "status": {"state": "succeeded", "last_attempt_id": "0", "created_at": seconds(0), "updated_at": seconds(9)},
    }
    events = [event("model_request", step["end"], request(step)) for step in CALLS]
    return [*events, event("reward", 8.5, {"value": 1.0, "source": "agent"}), rollout]


# OpenAI Agents SDK with the chat model. Functions have no call id; the record of the trace comes last.


def openai_agents():
    def data(step):
        if step["kind"] == "root":
            return {"type": "custom", "name": "task", "data": {"sdk_span_type": "task"}}
        if step["kind"] == "agent":
            tool = "transfer_to_math" if step["agent"] == "triage" else "divide"
            return {"type": "agent", "name": step["agent"], "handoffs": [], "tools": [tool], "output_type": "str"}
        if step["kind"] == "llm":
            return {
                "type": "generation",
                "input": [chat_message(message) for message in step["input"]],
                "output": [chat_message(step["answer"])],
                "model": MODEL,
                "model_config": {"temperature": 1.0, "top_p": None, "base_url": "http://127.0.0.1/v1"},
                "usage": {"input_tokens": step["usage"][0], "output_tokens": step["usage"][1]},
            }
        if step["asked"]["id"] == "call_h":
            return {"type": "handoff", "from_agent": "triage", "to_agent": "math"}
        return {
            "type": "function",
            "name": step["asked"]["name"],
            "input": step["asked"]["arguments"],
            "output": step["result"] or f"Error: {ERROR}",
            "mcp_data": None,
        }

    def span(step):
        failed = step["kind"] == "tool" and step["result"] is None
        error = {"message": "Error running tool (non-fatal)", "data": {"tool_name": "divide", "error": ERROR}}
        return {
            "object": "trace.span",
            "id": f"span_{name_of(step)}",
            "trace_id": "trace_7",
            "parent_id": parent_of(step) and f"span_{parent_of(step)}",
            "started_at": iso(step["begin"]),
            "ended_at": iso(step["end"]),
            "span_data": data(step),
            "error": error if failed else None,
        }

    spans = [span(step) for step in sorted(RUN, key=lambda step: step["end"])]
    trace = {"object": "trace", "id": "trace_7", "workflow_name": "run", "group_id": "task-7", "metadata": None}
    return [*spans, trace]


# LangSmith, as LangGraph writes it.


def constructor(message):
    kinds = {"system": "SystemMessage", "user": "HumanMessage", "assistant": "AIMessage", "tool": "ToolMessage"}
    types = {"system": "system", "user": "human", "assistant": "ai", "tool": "tool"}
    kwargs = {"content": message["content"] or "", "type": types[message["role"]]}
    if message["role"] == "tool":
        kwargs |= {"tool_call_id": message["tool_call_id"], "name": message["name"]}
        kwargs["status"] = "error" if message["content"].startswith("Error") else "success"
    if "tool_calls" in message:
        kwargs["tool_calls"] = [
            {"name": asked["name"], "args": json.loads(asked["arguments"]), "id": asked["id"], "type": "tool_call"}
            for asked in message["tool_calls"]
        ]
    return {"lc": 1, "type": "constructor", "id": ["langchain", "schema", "messages", kinds[message["role"]]], "kwargs": kwargs}


def langsmith():
    order = {"": ""}

    def run(step):
        name, parent = name_of(step), parent_of(step)
        stamp = iso(step["begin"]).replace("-", "").replace(":", "").replace(".", "").split("+")[0]
        order[name] = (order[parent] + "." if parent else "") + f"{stamp}Z{name}"
        metadata = {"task_id": "task-7"}
        if step["kind"] != "root":
            metadata |= {"lc_agent_name": step["agent"], "langgraph_checkpoint_ns": f"{step['agent']}:1|model:2"}
        record = {
            "id": name,
            "trace_id": "root",
            "parent_run_id": parent or None,
            "dotted_order": order[name],
            "name": step.get("agent", "run"),
            "run_type": "chain",
            "start_time": iso(step["begin"]),
            "end_time": iso(step["end"]),
            "inputs": {},
            "outputs": {},
            "extra": {"metadata": metadata},
            "error": None,
            "session_id": "project",
            "status": "success",
        }
        if step["kind"] == "llm":
            answer = constructor(step["answer"])
            answer["kwargs"]["response_metadata"] = {
                "token_usage": usage(step),
                "model_name": ANSWERED,
                "id": step["id"],
                "finish_reason": step["finish"],
            }
            generation = {"text": step["answer"]["content"] or "", "type": "ChatGeneration", "message": answer}
            record |= {"name": "ChatOpenAI", "run_type": "llm"}
            record["inputs"] = {"messages": [[constructor(message) for message in step["input"]]]}
            record["outputs"] = {"generations": [[generation]], "type": "LLMResult"}
            record["extra"]["invocation_params"] = {"model": MODEL, "temperature": 1.0, "tools": offered(step)}
        if step["kind"] == "tool":
            asked = step["asked"]
            record |= {"name": asked["name"], "run_type": "tool", "inputs": json.loads(asked["arguments"])}
            record["extra"]["tool_call_id"] = asked["id"]
            message = {"type": "tool", "name": asked["name"], "tool_call_id": asked["id"], "status": "success", "content": step["result"]}
            if step["result"] is None:
                record |= {"status": "error", "error": f"ZeroDivisionError('{ERROR}')Traceback (most recent call last):\n\n\nZeroDivisionError: {ERROR}"}
            elif asked["id"] == "call_h":
                record["outputs"] = {"output": {"graph": "__parent__", "update": {"messages": [message]}, "goto": "math"}}
            else:
                record["outputs"] = {"output": message}
        if step["kind"] == "agent" and step["agent"] == "triage":
            record |= {"status": "error", "error": "ParentCommand(Command(graph='__parent__', goto='math'))"}
        return record

    return [run(step) for step in RUN]


def feedback():
    source = {"type": "api", "metadata": {}}
    score = {"id": "f1", "run_id": "root", "trace_id": "root", "key": "score", "score": 1.0, "value": None}
    return score | {"created_at": iso(20), "feedback_source": source}


def langsmith_wire(runs):
    """Creations, then updates, in the parts of multipart requests."""
    apart = ("inputs", "outputs", "extra", "error")
    for run in runs:
        begun = {key: value for key, value in run.items() if key not in (*apart, "end_time", "status")}
        yield {"part": f"post.{run['id']}", "value": begun}
        for key in ("inputs", "extra"):
            yield {"part": f"post.{run['id']}.{key}", "value": run[key]}
        yield {"part": f"post.{run['id']}.outputs", "value": {}}
    for run in runs:
        ended = {key: run[key] for key in ("id", "trace_id", "dotted_order", "end_time")}
        yield {"part": f"patch.{run['id']}", "value": ended}
        for key in ("outputs", "error"):
            if run[key]:
                yield {"part": f"patch.{run['id']}.{key}", "value": run[key]}


# Chat JSON lines: one conversation for each agent. What an agent only heard of has the weight 0.


def chat():
    def conversation(agent):
        steps = [step for step in CALLS if step["agent"] == agent]
        last = steps[-1]
        messages = []
        for message in [*last["input"], last["answer"]]:
            said = chat_message(message)
            if message["role"] == "assistant":
                step = next((step for step in steps if step["answer"] == message), None)
                said |= {"name": agent, "finish_reason": step["finish"]} if step else {"weight": 0}
            messages.append(said)
        return {
            "messages": messages,
            "tools": offered(last),
            "model": ANSWERED,
            "temperature": 1.0,
            "rollout_id": "run-7",
            "task_id": "task-7",
        }

    return [conversation("triage"), conversation("math") | {"reward": {"score": 1.0}}]


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent)
    runs = langsmith()
    recordings = {
        "agent_lightning": agent_lightning(),
        "agent_lightning_v1": agent_lightning_v1(),
        "openai_agents": openai_agents(),
        "langsmith": [*runs, feedback()],
        "langsmith_wire": [*langsmith_wire(runs), {"part": "feedback.f1", "value": feedback()}],
        "chat": chat(),
    }
    for name, records in recordings.items():
        lines = "".join(json.dumps(record, separators=(",", ":")) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text(lines)


if __name__ == "__main__":
    main()
