"""LangChain: an agent with a tool on langchain-openai, whole and streamed, by chat completions and by the Responses API."""

from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from common import ANSWER, QUESTION, Verdict
from common import add as plain_add


@tool
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return plain_add(a, b)


for use_responses_api in (False, True):
    for streaming in (False, True):
        model = ChatOpenAI(model="policy", max_retries=0, streaming=streaming, use_responses_api=use_responses_api)
        agent = create_agent(model, [add])
        result = agent.invoke({"messages": [("user", QUESTION)]})
        messages = result["messages"]
        kinds = [message.type for message in messages]
        assert kinds == ["human", "ai", "tool", "ai"], kinds
        assert messages[1].tool_calls[0]["args"] == {"a": 17, "b": 25}, messages[1]
        assert messages[2].content == "42", messages[2]
        assert messages[3].text == ANSWER, messages[3]
    model = ChatOpenAI(model="policy", max_retries=0, use_responses_api=use_responses_api)
    for method in ("json_schema", "function_calling"):
        answer = model.with_structured_output(Verdict, method=method).invoke(QUESTION)
        assert isinstance(answer, Verdict), answer
print("ok")
