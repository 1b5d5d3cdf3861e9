"""The SDK openai: chat completions, completions, responses and models, whole and streamed, with tools."""

import json

import openai
from openai import OpenAI

from common import ANSWER, QUESTION, TOOL, Verdict, add

client = OpenAI(max_retries=0)
assert [model.id for model in client.models.list()] == ["policy"]


def chat(stream):
    messages = [{"role": "user", "content": QUESTION}]
    for turn in range(2):
        if stream:
            content, calls, finish, usage = "", {}, None, None
            chunks = client.chat.completions.create(
                model="policy", messages=messages, tools=[TOOL], stream=True, stream_options={"include_usage": True}
            )
            for chunk in chunks:
                usage = chunk.usage or usage
                for choice in chunk.choices:
                    content += choice.delta.content or ""
                    for call in choice.delta.tool_calls or []:
                        known = calls.setdefault(call.index, {"id": "", "name": "", "arguments": ""})
                        known["id"] += call.id or ""
                        known["name"] += call.function.name or ""
                        known["arguments"] += call.function.arguments or ""
                    finish = choice.finish_reason or finish
            calls = list(calls.values())
            assert usage.completion_tokens == 3, usage
        else:
            response = client.chat.completions.create(model="policy", messages=messages, tools=[TOOL])
            choice = response.choices[0]
            content, finish = choice.message.content or "", choice.finish_reason
            calls = [
                {"id": call.id, "name": call.function.name, "arguments": call.function.arguments}
                for call in choice.message.tool_calls or []
            ]
        if turn == 0:
            assert finish == "tool_calls" and content == "", (finish, content)
            (call,) = calls
            assert call["name"] == "add", call
            result = add(**json.loads(call["arguments"]))
            function = {"name": call["name"], "arguments": call["arguments"]}
            messages.append(
                {"role": "assistant", "content": None, "tool_calls": [{"id": call["id"], "type": "function", "function": function}]}
            )
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": str(result)})
        else:
            assert (content, finish, calls) == (ANSWER, "stop", []), (content, finish, calls)


def responses(stream):
    items = [{"role": "user", "content": QUESTION}]
    tool = {"type": "function", "strict": False, **TOOL["function"]}
    for turn in range(2):
        if stream:
            with client.responses.stream(model="policy", input=items, tools=[tool]) as events:
                kinds = [event.type for event in events]
                response = events.get_final_response()
            assert kinds[0] == "response.created" and kinds[-1] == "response.completed", kinds
            wanted = "response.function_call_arguments.done" if turn == 0 else "response.output_text.delta"
            assert wanted in kinds, kinds
        else:
            response = client.responses.create(model="policy", input=items, tools=[tool])
        assert response.status == "completed", response
        if turn == 0:
            (call,) = response.output
            assert (call.type, call.name) == ("function_call", "add"), call
            result = add(**json.loads(call.arguments))
            items += [call, {"type": "function_call_output", "call_id": call.call_id, "output": str(result)}]
        else:
            assert response.output_text == ANSWER, response.output_text


def parameters():
    asked = {"model": "policy", "messages": [{"role": "user", "content": QUESTION}]}
    response = client.chat.completions.create(
        **asked, tools=[TOOL], n=3, logprobs=True, top_logprobs=2, seed=7, extra_body={"return_token_ids": True, "top_k": 5, "min_p": 0.0}
    )
    assert [choice.index for choice in response.choices] == [0, 1, 2]
    for choice in response.choices:
        assert choice.token_ids == [256, 257, 261], choice.token_ids
        assert len(choice.logprobs.content) == 3 and len(choice.logprobs.content[0].top_logprobs) == 2
        assert choice.logprobs.content[0].logprob <= 0
    assert len(response.prompt_token_ids) == response.usage.prompt_tokens
    assert len({choice.message.tool_calls[0].id for choice in response.choices}) == 3
    # Without tools the same words are text, and a stop ends them.
    text = client.chat.completions.create(**asked, stop=[' "b"']).choices[0]
    assert text.message.content == '<tool_call>\n{"name": "add", "arguments": {"a": 17,', text.message.content
    assert text.finish_reason == "stop"
    cut = client.chat.completions.create(**asked, max_completion_tokens=1).choices[0]
    assert cut.finish_reason == "length", cut

    # A prompt that ends otherwise is followed by any token: the same seed, the same ones.
    def complete(seed, stream=False):
        return client.completions.create(model="policy", prompt="x", max_tokens=8, seed=seed, stream=stream, temperature=1.0)

    first, again, other = complete(1), complete(1), complete(2)
    assert first.choices[0].text == again.choices[0].text != other.choices[0].text
    streamed = "".join(chunk.choices[0].text for chunk in complete(1, stream=True) if chunk.choices)
    assert streamed == first.choices[0].text, (streamed, first.choices[0].text)


def structured():
    asked = {"model": "policy", "messages": [{"role": "user", "content": QUESTION}]}
    parsed = client.chat.completions.parse(**asked, response_format=Verdict, n=4)
    assert all(isinstance(choice.message.parsed, Verdict) for choice in parsed.choices), parsed
    with client.chat.completions.stream(**asked, response_format=Verdict) as events:
        for _ in events:
            pass
        assert isinstance(events.get_final_completion().choices[0].message.parsed, Verdict)
    assert isinstance(client.responses.parse(model="policy", input=QUESTION, text_format=Verdict).output_parsed, Verdict)
    plain = client.chat.completions.create(**asked, response_format={"type": "json_object"}).choices[0]
    assert isinstance(json.loads(plain.message.content), dict), plain
    named = {"type": "function", "function": {"name": "add"}}
    for choice in ("required", named):
        message = client.chat.completions.create(**asked, tools=[TOOL], tool_choice=choice).choices[0].message
        assert message.tool_calls[0].function.name == "add", message
        assert isinstance(json.loads(message.tool_calls[0].function.arguments)["a"], int), message


def refusals():
    def refused(error, **more):
        try:
            client.chat.completions.create(**{"model": "policy", "messages": [{"role": "user", "content": "q"}], "tools": [TOOL], **more})
        except error as caught:
            return caught
        raise AssertionError(f"{more} was not refused")

    assert refused(openai.BadRequestError, temperature=-1).param == "temperature"
    assert refused(openai.BadRequestError, tools=[], tool_choice="required").param == "tool_choice"
    assert refused(openai.BadRequestError, response_format={"type": "json_schema"}).param == "response_format"
    assert refused(openai.BadRequestError, messages=[{"role": "user", "content": "x" * 5000}]).code == "context_length_exceeded"
    try:
        OpenAI(api_key="wrong", max_retries=0).models.list()
    except openai.AuthenticationError:
        pass
    else:
        raise AssertionError("a wrong key was let in")


for stream in (False, True):
    chat(stream)
    responses(stream)
parameters()
structured()
refusals()
print("ok")
