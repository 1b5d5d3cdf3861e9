#!/usr/bin/env python3
"""Writes the scripted run of SCENARIO.md as OTLP JSON, once in each attribute convention: `make_otlp.py [FOLDER]`.

The attribute names and the habits (what is left out, what is wrapped in what) are those of the instrumentations as recorded in
`shared/samples`; the run is the same in all of them.
"""

import hashlib
import json
import pathlib
import sys

SECOND = 1_000_000_000
BEGIN = 1_795_348_800 * SECOND  # 2026-11-22T12:00:00Z
QUESTION = "What is 12 / 0, 12 / 4 and 12 / 3?"
TOOLS = {
    "triage": {"name": "transfer_to_math", "description": "Hand over to math.", "parameters": {"type": "object", "properties": {}}},
    "math": {
        "name": "divide",
        "description": "a divided by b.",
        "parameters": {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}},
    },
}
MODEL, ANSWERED = "policy", "policy-7"


def request(call_id, name, arguments):
    return {"id": call_id, "name": name, "arguments": json.dumps(arguments, separators=(",", ":"))}


def asks(*requests):
    return {"role": "assistant", "content": None, "tool_calls": list(requests)}


def told(call_id, name, text):
    return {"role": "tool", "content": text, "tool_call_id": call_id, "name": name}


HANDOFF = request("call_h", "transfer_to_math", {})
FIRST = request("call_1", "divide", {"a": 12, "b": 0})
SECOND_TRY = request("call_2", "divide", {"a": 12, "b": 4})
THIRD = request("call_3", "divide", {"a": 12, "b": 3})
USER = {"role": "user", "content": QUESTION}
SYSTEM = {
    "triage": {"role": "system", "content": "Hand over to the right agent."},
    "math": {"role": "system", "content": "You divide."},
}
TURNS = [
    [USER],
    [asks(HANDOFF), told("call_h", "transfer_to_math", "Transferred to math.")],
    [asks(FIRST), told("call_1", "divide", "Error: division by zero")],
    [asks(SECOND_TRY, THIRD), told("call_2", "divide", "3.0"), told("call_3", "divide", "4.0")],
]
ANSWERS = [asks(HANDOFF), asks(FIRST), asks(SECOND_TRY, THIRD), {"role": "assistant", "content": "undefined, 3 and 4"}]
USAGE = [(20, 5), (40, 10), (60, 20), (90, 6)]
STEPS = [1, 3, 5, 7]


def call(number):
    """The number-th LLM call, from 0."""
    agent = "triage" if number == 0 else "math"
    history = [message for turn in TURNS[: number + 1] for message in turn]
    return {
        "kind": "llm",
        "number": number,
        "agent": agent,
        "input": [SYSTEM[agent]] + history,
        "answer": ANSWERS[number],
        "finish": "stop" if number == 3 else "tool_calls",
        "usage": USAGE[number],
        "tool": TOOLS[agent],
        "id": f"resp_{number + 1}",
        "begin": STEPS[number],
        "end": STEPS[number] + 0.5,
    }


def tool(asked, agent, step, seconds, result):
    return {"kind": "tool", "agent": agent, "asked": asked, "result": result, "begin": step, "end": step + seconds}


ERROR = "division by zero"
RUN = [
    {"kind": "root", "begin": 0, "end": 9},
    {"kind": "agent", "agent": "triage", "begin": 0.5, "end": 2.6},
    call(0),
    tool(HANDOFF, "triage", 2, 0.5, "Transferred to math."),
    {"kind": "agent", "agent": "math", "begin": 2.8, "end": 8},
    call(1),
    tool(FIRST, "math", 4, 0.5, None),
    call(2),
    tool(SECOND_TRY, "math", 6, 0.6, "3.0"),
    tool(THIRD, "math", 6, 0.5, "4.0"),
    call(3),
]


def any_value(value):
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, str):
        return {"stringValue": value}
    if isinstance(value, list):
        return {"arrayValue": {"values": [any_value(item) for item in value]}}
    if isinstance(value, dict):
        return {"kvlistValue": {"values": attributes(value)}}
    return {}


def attributes(values):
    return [{"key": key, "value": any_value(value)} for key, value in values.items()]


def nano(seconds):
    return str(BEGIN + round(seconds * SECOND))


def hex_id(text, length):
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def text(value):
    return json.dumps(value, separators=(",", ":"))


def name_of(step):
    if step["kind"] == "tool":
        return f"{step['asked']['id']}"
    return step["kind"] + step.get("agent", "") + str(step.get("number", ""))


def parent_of(step):
    if step["kind"] == "root":
        return ""
    return "root" if step["kind"] == "agent" else "agent" + step["agent"]


def span(convention, step, name, values, events=(), failed=False, rootless=False):
    trace = name_of(step) if rootless else "run"
    parent = "" if rootless else parent_of(step)
    return {
        "traceId": hex_id(convention + trace, 32),
        "spanId": hex_id(convention + name_of(step), 16),
        "parentSpanId": parent and hex_id(convention + parent, 16),
        "name": name,
        "kind": 1,
        "startTimeUnixNano": nano(step["begin"]),
        "endTimeUnixNano": nano(step["end"]),
        "attributes": attributes(values),
        "events": list(events),
        "status": {"code": 2, "message": f"ZeroDivisionError: {ERROR}"} if failed else {},
    }


def exception(step):
    values = {"exception.type": "ZeroDivisionError", "exception.message": ERROR}
    return [{"timeUnixNano": nano(step["end"]), "name": "exception", "attributes": attributes(values)}]


def log(convention, step, event, body, values=None):
    return {
        "timeUnixNano": nano(step["begin"]),
        "eventName": event,
        "traceId": hex_id(convention + "run", 32),
        "spanId": hex_id(convention + name_of(step), 16),
        "body": any_value(body),
        "attributes": attributes(values or {"gen_ai.system": "openai"}),
    }


def function_calls(calls):
    return [{"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": call["arguments"]}} for call in calls]


def chat_message(message):
    """As the OpenAI chat API writes it."""
    said = {key: value for key, value in message.items() if key in ("role", "content", "tool_call_id")}
    if "tool_calls" in message:
        said["tool_calls"] = function_calls(message["tool_calls"])
    return said


def sampling(step):
    return {
        "gen_ai.request.model": MODEL,
        "gen_ai.response.model": ANSWERED,
        "gen_ai.response.id": step["id"],
        "gen_ai.response.finish_reasons": [step["finish"]],
        "gen_ai.request.temperature": 1.0,
        "gen_ai.usage.input_tokens": step["usage"][0],
        "gen_ai.usage.output_tokens": step["usage"][1],
    }


def parts(message, result="response", spell=json.loads):
    """A message in the parts of the current OpenTelemetry convention."""
    if message["role"] == "tool":
        answer = {"type": "tool_call_response", "id": message["tool_call_id"], result: message["content"]}
        if result == "result":
            answer["name"] = message["name"]
        return {"role": "user" if result == "result" else "tool", "parts": [answer]}
    said = [{"type": "text", "content": message["content"]}] if message["content"] else []
    for asked in message.get("tool_calls", ()):
        said.append({"type": "tool_call", "id": asked["id"], "name": asked["name"], "arguments": spell(asked["arguments"])})
    return {"role": message["role"], "parts": said}


def genai_agent(step):
    if step["kind"] == "root":
        return "run task-7", {"task_id": "task-7"}
    return f"invoke_agent {step['agent']}", {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": step["agent"]}


def genai_tool(step):
    values = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": step["asked"]["name"],
        "gen_ai.tool.call.id": step["asked"]["id"],
        "gen_ai.tool.call.arguments": step["asked"]["arguments"],
    }
    if step["result"] is None:
        values["error.type"] = "ZeroDivisionError"
    else:
        values["gen_ai.tool.call.result"] = step["result"]
    return f"execute_tool {step['asked']['name']}", values


def genai(step):
    if step["kind"] == "tool":
        return genai_tool(step)
    if step["kind"] != "llm":
        return genai_agent(step)
    output = parts(step["answer"]) | {"finish_reason": step["finish"]}
    return f"chat {MODEL}", sampling(step) | {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.input.messages": text([parts(message) for message in step["input"]]),
        "gen_ai.output.messages": text([output]),
        "gen_ai.tool.definitions": text([{"type": "function"} | step["tool"]]),
    }


def genai_events(step):
    """Earlier: messages as log events, no tools offered."""
    if step["kind"] == "tool":
        return genai_tool(step)
    if step["kind"] != "llm":
        return genai_agent(step)
    return f"chat {MODEL}", sampling(step) | {"gen_ai.operation.name": "chat", "gen_ai.system": "openai"}


def genai_logs(convention, step):
    for message in step["input"]:
        body = {key: value for key, value in chat_message(message).items() if value is not None and key != "role"}
        body["id"] = body.pop("tool_call_id", None)
        yield log(convention, step, f"gen_ai.{message['role']}.message", {key: value for key, value in body.items() if value is not None})
    message = {key: value for key, value in chat_message(step["answer"]).items() if value is not None}
    yield log(convention, step, "gen_ai.choice", {"index": 0, "finish_reason": step["finish"], "message": message})


def evaluation(convention, event):
    values = {"gen_ai.evaluation.name": "score", "gen_ai.evaluation.score.value": 1.0}
    root = RUN[0] | {"begin": 9}
    return log(convention, root, event, None, values)


def openinference(step):
    if step["kind"] == "root":
        metadata = {"metadata": text({"task_id": "task-7"})}
        score = {"trace.evaluations.0.evaluation.name": "score", "trace.evaluations.0.evaluation.score": 1.0}
        return "run task-7", {"openinference.span.kind": "CHAIN"} | metadata | score
    if step["kind"] == "agent":
        return step["agent"], {"openinference.span.kind": "AGENT", "agent.name": step["agent"]}
    if step["kind"] == "tool":
        values = {
            "openinference.span.kind": "TOOL",
            "tool.name": step["asked"]["name"],
            "tool.description": "",
            "input.value": step["asked"]["arguments"],
        }
        if step["result"] is not None:
            data = {"content": step["result"], "tool_call_id": step["asked"]["id"], "status": "success"}
            values["output.value"] = text({"type": "tool", "data": data})
        return step["asked"]["name"], values
    values = {
        "openinference.span.kind": "LLM",
        "llm.provider": "openai",
        "llm.request.model_name": MODEL,
        "llm.model_name": ANSWERED,
        "llm.invocation_parameters": text({"temperature": 1.0}),
        "llm.tools.0.tool.json_schema": text({"type": "function", "function": step["tool"]}),
        "llm.token_count.prompt": step["usage"][0],
        "llm.token_count.completion": step["usage"][1],
        "llm.finish_reason": step["finish"],
    }
    for side, messages in (("input", step["input"]), ("output", [step["answer"]])):
        for index, message in enumerate(messages):
            prefix = f"llm.{side}_messages.{index}.message."
            values[prefix + "role"] = message["role"]
            if message["content"] is not None:
                values[prefix + "content"] = message["content"]
            if "tool_call_id" in message:
                values[prefix + "tool_call_id"] = message["tool_call_id"]
            for number, asked in enumerate(message.get("tool_calls", ())):
                prefix_call = f"{prefix}tool_calls.{number}.tool_call."
                values[prefix_call + "id"] = asked["id"]
                values[prefix_call + "function.name"] = asked["name"]
                values[prefix_call + "function.arguments"] = asked["arguments"]
    return "ChatCompletion", values


def traceloop(step):
    if step["kind"] == "root":
        association = {"traceloop.association.properties.task_id": "task-7"}
        return "run.workflow", {"traceloop.span.kind": "workflow", "traceloop.entity.name": "run"} | association
    if step["kind"] == "agent":
        return f"{step['agent']}.agent", {"traceloop.span.kind": "agent", "traceloop.entity.name": step["agent"]}
    if step["kind"] == "tool":
        values = {
            "traceloop.span.kind": "tool",
            "traceloop.entity.name": step["asked"]["name"],
            "traceloop.entity.input": text({"input_str": repr(json.loads(step["asked"]["arguments"])), "tags": [], "metadata": {}}),
        }
        if step["result"] is not None:
            values["traceloop.entity.output"] = text({"output": step["result"], "kwargs": {}})
        return f"{step['asked']['name']}.tool", values
    values = {
        "llm.request.type": "chat",
        "gen_ai.system": "OpenAI",
        "gen_ai.request.model": MODEL,
        "gen_ai.response.model": ANSWERED,
        "gen_ai.response.id": step["id"],
        "gen_ai.request.temperature": 1.0,
        "gen_ai.usage.prompt_tokens": step["usage"][0],
        "gen_ai.usage.completion_tokens": step["usage"][1],
        "llm.request.functions.0.name": step["tool"]["name"],
        "llm.request.functions.0.description": step["tool"]["description"],
        "llm.request.functions.0.parameters": text(step["tool"]["parameters"]),
    }
    for side, messages in (("prompt", step["input"]), ("completion", [step["answer"]])):
        for index, message in enumerate(messages):
            prefix = f"gen_ai.{side}.{index}."
            values[prefix + "role"] = message["role"]
            if message["content"] is not None:
                values[prefix + "content"] = message["content"]
            if "tool_call_id" in message:
                values[prefix + "tool_call_id"] = message["tool_call_id"]
            for number, asked in enumerate(message.get("tool_calls", ())):
                for key in ("id", "name", "arguments"):
                    values[f"{prefix}tool_calls.{number}.{key}"] = asked[key]
    values["gen_ai.completion.0.finish_reason"] = step["finish"]
    return "openai.chat", values


def pydantic_ai(step):
    """Tool results are the user's, arguments are JSON strings, a failed tool is to be tried again."""
    if step["kind"] == "tool":
        name, values = genai_tool(step)
        if step["result"] is None:
            values |= {"pydantic_ai.tool.retry.cause": "model_retry", "gen_ai.tool.call.result": f"Error: {ERROR}"}
            values.pop("error.type")
        return name, values | {"logfire.msg": f"running tool: {step['asked']['name']}"}
    if step["kind"] != "llm":
        name, values = genai_agent(step)
        metadata = {"metadata": text({"task_id": "task-7"})} if step["kind"] == "root" else {}
        return name, {key: value for key, value in values.items() if key != "task_id"} | metadata
    said = [parts(message, "result", str) for message in step["input"]]
    output = parts(step["answer"], "result", str) | {"finish_reason": step["finish"].removesuffix("s")}
    return f"chat {MODEL}", sampling(step) | {
        "gen_ai.operation.name": "chat",
        "gen_ai.system": "openai",
        "gen_ai.input.messages": text(said),
        "gen_ai.output.messages": text([output]),
        "model_request_parameters": text({"function_tools": [{"name": step["tool"]["name"]}]}),
        "gen_ai.tool.definitions": text([{"type": "function"} | step["tool"]]),
        "logfire.json_schema": "{}",
    }


def vercel_parts(message):
    if message["role"] == "tool":
        output = {"type": "text", "value": message["content"]}
        part = {"type": "tool-result", "toolCallId": message["tool_call_id"], "toolName": message["name"], "output": output}
        return {"role": "tool", "content": [part]}
    if "tool_calls" not in message:
        return {"role": message["role"], "content": message["content"]}
    calls = [
        {"type": "tool-call", "toolCallId": asked["id"], "toolName": asked["name"], "input": json.loads(asked["arguments"])}
        for asked in message["tool_calls"]
    ]
    return {"role": "assistant", "content": calls}


def vercel(step):
    if step["kind"] in ("root", "agent"):
        values = {"ai.operationId": "ai.generateText", "ai.telemetry.metadata.task_id": "task-7"}
        return "ai.generateText", values | ({"ai.telemetry.functionId": step["agent"]} if step["kind"] == "agent" else {})
    shared = {"ai.telemetry.functionId": step["agent"], "ai.telemetry.metadata.task_id": "task-7"}
    if step["kind"] == "tool":
        values = {
            "ai.operationId": "ai.toolCall",
            "ai.toolCall.name": step["asked"]["name"],
            "ai.toolCall.id": step["asked"]["id"],
            "ai.toolCall.args": step["asked"]["arguments"],
        }
        if step["result"] is not None:
            values["ai.toolCall.result"] = text(step["result"])
        return "ai.toolCall", shared | values
    values = {
        "ai.operationId": "ai.generateText.doGenerate",
        "ai.model.provider": "openai.chat",
        "ai.model.id": MODEL,
        "ai.response.model": ANSWERED,
        "ai.response.id": step["id"],
        "ai.response.finishReason": step["finish"].replace("_", "-"),
        "ai.prompt.messages": text([vercel_parts(message) for message in step["input"]]),
        "ai.prompt.tools": [text({"type": "function", "name": step["tool"]["name"], "inputSchema": step["tool"]["parameters"]})],
        "ai.settings.temperature": 1.0,
        "ai.usage.inputTokens": step["usage"][0],
        "ai.usage.outputTokens": step["usage"][1],
    }
    if step["answer"]["content"]:
        values["ai.response.text"] = step["answer"]["content"]
    else:
        asked = [
            {"toolCallId": call["id"], "toolName": call["name"], "input": call["arguments"]} for call in step["answer"]["tool_calls"]
        ]
        values["ai.response.toolCalls"] = text(asked)
    return "ai.generateText.doGenerate", shared | values


def langfuse(step):
    """Scores are no spans; a tool that failed has no output."""
    prefix = "langfuse.observation."
    if step["kind"] == "root":
        return "run task-7", {prefix + "type": "span", "langfuse.trace.metadata.task_id": "task-7"}
    if step["kind"] == "agent":
        return step["agent"], {prefix + "type": "agent"}
    if step["kind"] == "tool":
        values = {prefix + "type": "tool", prefix + "input": step["asked"]["arguments"]}
        if step["result"] is None:
            values |= {prefix + "level": "ERROR", prefix + "status_message": ERROR}
        else:
            values[prefix + "output"] = step["result"]
        return step["asked"]["name"], values
    asked = {"messages": [chat_message(message) for message in step["input"]], "tools": [{"type": "function", "function": step["tool"]}]}
    return "policy call", {
        prefix + "type": "generation",
        prefix + "model.name": ANSWERED,
        prefix + "model.parameters": text({"temperature": 1.0}),
        prefix + "input": text(asked),
        prefix + "output": text(chat_message(step["answer"])),
        prefix + "usage_details": text({"prompt_tokens": step["usage"][0], "completion_tokens": step["usage"][1]}),
    }


def write(path, spans, logs=()):
    """Spans in the order of their ends, as exporters write them, one request for each; then the logs."""
    resource = {"attributes": attributes({"service.name": "contract"})}
    with open(path, "w", encoding="utf-8") as out:
        for record in sorted(spans, key=lambda span: int(span["endTimeUnixNano"])):
            scope = {"scope": {"name": "contract"}, "spans": [record]}
            out.write(text({"resourceSpans": [{"resource": resource, "scopeSpans": [scope]}]}) + "\n")
        if logs:
            scope = {"scope": {"name": "contract"}, "logRecords": list(logs)}
            out.write(text({"resourceLogs": [{"resource": resource, "scopeLogs": [scope]}]}) + "\n")


def main(folder):
    def spans(convention, describe, steps=RUN, rootless=False):
        made = []
        for step in steps:
            name, values = describe(step)
            failed = step["kind"] == "tool" and step["result"] is None
            made.append(span(convention, step, name, values, exception(step) if failed else (), failed, rootless))
        return made

    calls = [step for step in RUN if step["kind"] == "llm"]
    write(folder / "genai.jsonl", spans("genai", genai), [evaluation("genai", "gen_ai.evaluation.result")])
    logs = [record for step in calls for record in genai_logs("genai_events", step)]
    logs.append(evaluation("genai_events", "gen_ai.evaluation.result"))
    write(folder / "genai_events.jsonl", spans("genai_events", genai_events), logs)
    for describe in (openinference, traceloop, pydantic_ai, vercel, langfuse):
        write(folder / f"{describe.__name__}.jsonl", spans(describe.__name__, describe))
    write(folder / "calls_only.jsonl", spans("calls_only", openinference, calls, rootless=True))


main(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent)
