"""AutoGen: an assistant with a tool on autogen-ext's OpenAI client, whole and streamed."""

import asyncio

from autogen_agentchat.agents import AssistantAgent
from autogen_core.models import UserMessage
from autogen_ext.models.openai import OpenAIChatCompletionClient

from common import ANSWER, QUESTION, Verdict, add

INFO = {
    "vision": False,
    "function_calling": True,
    "json_output": False,
    "family": "unknown",
    "structured_output": True,
    "multiple_system_messages": True,
}


async def main():
    for stream in (False, True):
        client = OpenAIChatCompletionClient(model="policy", model_info=INFO, max_retries=0)
        agent = AssistantAgent(
            "solver", client, tools=[add], system_message="Use the tool.", reflect_on_tool_use=True, model_client_stream=stream
        )
        chunks, result = [], None
        async for event in agent.run_stream(task=QUESTION):
            kind = type(event).__name__
            if kind == "ModelClientStreamingChunkEvent":
                chunks.append(event.content)
            elif kind == "TaskResult":
                result = event
        kinds = [type(message).__name__ for message in result.messages]
        assert "ToolCallRequestEvent" in kinds and "ToolCallExecutionEvent" in kinds, kinds
        assert result.messages[-1].content == ANSWER, result.messages[-1]
        assert not stream or "".join(chunks) == ANSWER, chunks
        answer = await client.create([UserMessage(content=QUESTION, source="user")], json_output=Verdict)
        Verdict.model_validate_json(answer.content)
        await client.close()


asyncio.run(main())
print("ok")
