"""Answers word problems with a calculator: an ordinary AutoGen agent, kept up to answer one task a line.

A line in is a task with the addresses of its run under `rollout`; a line out is its answer. Nothing here knows of training: the model is reached
by its base URL, and AutoGen's own OpenTelemetry spans go where each run says.
"""

import ast
import asyncio
import json
import operator
import os
import sys

from autogen_agentchat.agents import AssistantAgent
from autogen_core.models import ModelFamily
from autogen_ext.models.openai import OpenAIChatCompletionClient
from openai import DefaultAsyncHttpxClient
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagate import inject
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

SYSTEM = "Use the calculator, then answer with the number."
OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
MODEL = {"vision": False, "function_calling": True, "json_output": False, "structured_output": False, "family": ModelFamily.UNKNOWN}


def value(node):
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
        return OPERATIONS[type(node.op)](value(node.left), value(node.right))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -value(node.operand)
    raise ValueError("cannot read the expression")


def calculator(expression: str) -> str:
    """Computes an expression."""
    try:
        result = value(ast.parse(expression, mode="eval").body)
    except SyntaxError:
        raise ValueError("cannot read the expression") from None
    return str(int(result)) if result == int(result) else f"{result:.2f}"


async def propagate(request):
    """AutoGen has no span for a call of a model: as in any service, the request says within which span it is made (`traceparent`)."""
    inject(request.headers)


async def answer(task):
    run = task["rollout"]
    client = OpenAIChatCompletionClient(
        model=run["model"],
        base_url=run["base_url"],
        api_key=run["api_key"],
        model_info=MODEL,
        temperature=1.0,
        max_tokens=64,
        http_client=DefaultAsyncHttpxClient(event_hooks={"request": [propagate]}),
    )
    agent = AssistantAgent("solver", model_client=client, tools=[calculator], system_message=SYSTEM, reflect_on_tool_use=True)
    try:
        result = await agent.run(task=task["input"])
        return str(result.messages[-1].content)
    finally:
        await client.close()


def main():
    provider = TracerProvider()
    trace.set_tracer_provider(provider)
    for line in sys.stdin:
        task = json.loads(line)
        run = task["rollout"]
        # Each run has an address of its own for spans; a processor that was shut down takes no more.
        headers = {"authorization": f"Bearer {run['api_key']}"}
        processor = BatchSpanProcessor(OTLPSpanExporter(endpoint=run["otlp_endpoint"] + "/v1/traces", headers=headers))
        provider.add_span_processor(processor)
        try:
            said = {"answer": asyncio.run(answer(task))}
        except Exception as error:
            said = {"error": f"{type(error).__name__}: {error}"}
        processor.shutdown()
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    # The server is on this machine.
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
    main()
