"""The OpenAI Agents SDK: an agent with a tool, whole and streamed, by the Responses API (its default) and by chat completions."""

import asyncio

from agents import Agent, Runner, function_tool, set_default_openai_api, set_tracing_disabled

from common import ANSWER, QUESTION, Verdict
from common import add as plain_add

set_tracing_disabled(True)


@function_tool
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return plain_add(a, b)


async def main():
    for api in ("responses", "chat_completions"):
        set_default_openai_api(api)
        agent = Agent(name="solver", instructions="Use the tool.", model="policy", tools=[add])
        result = await Runner.run(agent, QUESTION)
        assert result.final_output == ANSWER, result.final_output
        kinds = [item.type for item in result.new_items]
        assert kinds == ["tool_call_item", "tool_call_output_item", "message_output_item"], kinds

        streamed = Runner.run_streamed(agent, QUESTION)
        deltas = []
        async for event in streamed.stream_events():
            if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
                deltas.append(event.data.delta)
        assert streamed.final_output == ANSWER and "".join(deltas) == ANSWER, (streamed.final_output, deltas)

        judge = Agent(name="judge", model="policy", output_type=Verdict)
        result = await Runner.run(judge, QUESTION)
        assert isinstance(result.final_output, Verdict), result.final_output


asyncio.run(main())
print("ok")
