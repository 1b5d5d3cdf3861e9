"""OpenTelemetry's OTLP/HTTP exporter, set up by nothing but the environment: an agent's span, its tool's and its client's span of a call."""

import json
import time

from openai import OpenAI
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from common import QUESTION, TOOL

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
tracer = trace.get_tracer("agent")
client = OpenAI(max_retries=0)

with tracer.start_as_current_span("invoke_agent adder", attributes={"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "adder"}):
    messages = [{"role": "user", "content": QUESTION}]
    with tracer.start_as_current_span("chat policy", attributes={"gen_ai.operation.name": "chat"}) as span:
        response = client.chat.completions.create(model="policy", messages=messages, tools=[TOOL])
        call = response.choices[0].message.tool_calls[0]
        span.set_attribute("gen_ai.response.id", response.id)
        span.set_attribute("gen_ai.input.messages", json.dumps([{"role": "user", "parts": [{"type": "text", "content": QUESTION}]}]))
        part = {"type": "tool_call", "id": call.id, "name": "add", "arguments": json.loads(call.function.arguments)}
        span.set_attribute("gen_ai.output.messages", json.dumps([{"role": "assistant", "parts": [part], "finish_reason": "tool_calls"}]))
    attributes = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "add", "gen_ai.tool.call.id": call.id, "gen_ai.tool.call.result": "42"}
    with tracer.start_as_current_span("execute_tool add", attributes=attributes):
        time.sleep(0.01)
    messages += [response.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "42"}]
    # A call that no instrumentation saw.
    client.chat.completions.create(model="policy", messages=messages, tools=[TOOL])
assert provider.force_flush(), "the exporter could not send"
print("ok")
