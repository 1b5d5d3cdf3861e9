//! Attribute sets of every convention, written by hand.

mod hostile;
mod recordings;

use serde_json::{Value as Json, json};

use super::*;
use crate::trace::message::messages_to_json;
use crate::trace::span::TaskIdSource;

/// Reads one span with a parent from its attributes; everything else is as a container without it would leave it.
fn read(name: &str, scope: &str, attributes: Json) -> Span {
    read_with(name, scope, attributes, vec![], &ReadOptions::default())
}

fn read_with(name: &str, scope: &str, attributes: Json, events: Vec<RawEvent<'static>>, options: &ReadOptions) -> Span {
    let raw = RawSpan {
        trace_id: Some("t".into()),
        span_id: "s".into(),
        parent_span_id: Some("p".into()),
        name: name.to_owned().into(),
        scope_name: Some(scope.to_owned().into()),
        attributes: flat(&attributes),
        events,
        ..RawSpan::default()
    };
    let mut sink = Sink::default();
    interpret(raw, options, &mut sink);
    assert_eq!(sink.rejects.len(), 0);
    sink.spans.pop().unwrap()
}

fn flat(attributes: &Json) -> Attributes<'static> {
    let value = |value: &Json| match value {
        Json::String(text) => Value::Str(text.clone().into()),
        Json::Bool(flag) => Value::Bool(*flag),
        Json::Number(number) if number.is_i64() => Value::Int(number.as_i64().unwrap()),
        Json::Number(number) => Value::Double(number.as_f64().unwrap()),
        Json::Null => Value::Null,
        other => Value::Json(other.to_string().into()),
    };
    Attributes::new(attributes.as_object().unwrap().iter().map(|(key, json)| (key.clone().into(), value(json))).collect())
}

/// What a call became, in the words of the tables.
fn check_llm(span: &Span, input: &str, output: &str, rest: Option<&str>) {
    let llm = span.llm.as_ref().expect("an LLM span has a call");
    assert_eq!(span.kind, Kind::Llm);
    assert_eq!(messages_to_json(&llm.input), input);
    let messages: Vec<_> = llm.choices.iter().map(|choice| choice.message.clone()).collect();
    assert_eq!(messages_to_json(&messages), output);
    assert_eq!(span.attributes_json.as_deref(), rest);
}

fn check_tool(span: &Span, name: &str, call_id: Option<&str>, arguments: Option<&str>, result: Option<&str>) {
    let tool = span.tool.as_ref().expect("a tool span has a tool");
    let found = (tool.name.as_deref(), tool.call_id.as_deref(), tool.arguments.as_deref(), tool.result.as_deref());
    assert_eq!(found, (Some(name), call_id, arguments, result));
}

const ASKED: &str = r#"[{"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}]}]"#;
const QUESTION: &str = r#"[{"role":"system","content":"s"},{"role":"user","content":"q"}]"#;

#[test]
fn genai_latest() {
    let span = read(
        "chat m",
        "x",
        json!({
            "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "m",
            "gen_ai.response.model": "m-1", "gen_ai.response.id": "r1", "gen_ai.request.temperature": 0.7, "gen_ai.request.seed": 3,
            "gen_ai.system_instructions": r#"[{"type":"text","content":"s"}]"#,
            "gen_ai.input.messages": r#"[{"role":"user","parts":[{"type":"text","content":"q"}]}]"#,
            "gen_ai.output.messages": r#"[{"role":"assistant","parts":[{"type":"tool_call","id":"c1","name":"f","arguments":{"a": 1}}],"finish_reason":"tool_call"}]"#,
            "gen_ai.response.finish_reasons": ["tool_call"], "gen_ai.conversation.id": "conv",
            "gen_ai.tool.definitions": r#"[{"type":"function","name":"f","parameters":{"type":"object"}}]"#,
            "gen_ai.usage.input_tokens": 13, "gen_ai.usage.output_tokens": "7", "gen_ai.usage.cache_read.input_tokens": 2,
            "gen_ai.usage.reasoning.output_tokens": 1, "custom": true,
        }),
    );
    check_llm(&span, QUESTION, ASKED, Some(r#"{"custom":true,"gen_ai.operation.name":"chat"}"#));
    let llm = span.llm.unwrap();
    assert_eq!(
        (llm.input_tokens, llm.output_tokens, llm.cached_tokens, llm.reasoning_tokens),
        (Some(13), Some(7), Some(2), Some(1))
    );
    assert_eq!((llm.temperature, llm.params_json.as_deref()), (Some(0.7), Some(r#"{"seed":3,"temperature":0.7}"#)));
    assert_eq!((llm.tools[0].name.as_str(), llm.tools_known), ("f", true));
    assert_eq!(llm.choices[0].finish_reason.as_deref(), Some("tool_call"));
    assert_eq!((span.convention, span.identity.session_id.as_deref()), (Some(Convention::GenAi), Some("conv")));

    let span = read(
        "execute_tool f",
        "autogen-core",
        json!({"gen_ai.operation.name": "execute_tool", "gen_ai.system": "autogen", "gen_ai.tool.name": "f", "gen_ai.tool.call.id": "c1",
            "gen_ai.tool.call.arguments": {"a": 1}, "gen_ai.tool.call.result": "4", "error.type": "ZeroDivisionError"}),
    );
    check_tool(&span, "f", Some("c1"), Some(r#"{"a":1}"#), Some("4"));
    assert_eq!((span.convention, span.error_type.as_deref()), (Some(Convention::AutoGen), Some("ZeroDivisionError")));
}

#[test]
fn one_response_that_a_bridge_split_is_one_choice() {
    let split = json!({
        "gen_ai.operation.name": "chat", "gen_ai.response.finish_reasons": ["stop", "tool_call"],
        "gen_ai.output.messages": r#"[{"role":"assistant","parts":[{"type":"text","content":"t"}]},
            {"role":"assistant","parts":[{"type":"tool_call","id":"c1","name":"f","arguments":"{}"}]}]"#,
    });
    let llm = read("chat", "x", split).llm.unwrap();
    assert_eq!((llm.choices.len(), llm.choices[0].message.content.as_deref()), (1, Some("t")));
    assert_eq!(llm.choices[0].finish_reason.as_deref(), Some("tool_call"));

    let siblings = json!({
        "gen_ai.operation.name": "chat", "gen_ai.request.choice.count": 2,
        "gen_ai.output.messages": r#"[{"role":"assistant","parts":[{"type":"text","content":"a"}],"finish_reason":"stop"},
            {"role":"assistant","parts":[{"type":"text","content":"b"}],"finish_reason":"length"}]"#,
    });
    assert_eq!(read("chat", "x", siblings).llm.unwrap().choices.len(), 2);
}

#[test]
fn traceloop_and_agentops_indices() {
    let span = read(
        "ChatOpenAI.chat",
        "opentelemetry.instrumentation.langchain",
        json!({
            "llm.request.type": "chat", "gen_ai.system": "Langchain", "gen_ai.prompt.0.role": "system", "gen_ai.prompt.0.content": "s",
            "gen_ai.prompt.1.role": "user", "gen_ai.prompt.1.content": "q", "gen_ai.completion.0.finish_reason": "tool_calls",
            "gen_ai.completion.0.role": "assistant", "gen_ai.completion.0.tool_calls.0.id": "c1",
            "gen_ai.completion.0.tool_calls.0.name": "f", "gen_ai.completion.0.tool_calls.0.arguments": r#"{"a":1}"#,
            "gen_ai.usage.prompt_tokens": 3, "llm.request.functions.0.name": "f", "llm.request.functions.0.description": "d",
            "traceloop.entity.path": "agent", "traceloop.association.properties.task_id": "calc-001",
        }),
    );
    let rest =
        r#"{"llm.request.type":"chat","traceloop.association.properties.task_id":"calc-001","traceloop.entity.path":"agent"}"#;
    check_llm(&span, QUESTION, ASKED, Some(rest));
    let llm = span.llm.unwrap();
    assert_eq!((llm.input_tokens, llm.tools[0].name.as_str()), (Some(3), "f"));
    assert_eq!(span.identity.task_id, Some((TaskIdSource::Metadata, "calc-001".into())));
    assert_eq!((span.identity.agent_hint.as_deref(), span.convention), (Some("agent"), Some(Convention::Traceloop)));

    let span = read(
        "f.tool",
        "opentelemetry.instrumentation.langchain",
        json!({
            "traceloop.span.kind": "tool", "traceloop.entity.name": "f", "traceloop.entity.path": "tools",
            "traceloop.entity.input": r#"{"input_str": "{'a': '20 / 5'}", "tags": ["x"]}"#,
            "traceloop.entity.output": r#"{"output": {"lc": 1, "type": "constructor", "id": ["langchain", "schema", "messages", "ToolMessage"], "kwargs": {"content": "4", "type": "tool", "tool_call_id": "c1", "status": "success"}}, "kwargs": {}}"#,
        }),
    );
    check_tool(&span, "f", Some("c1"), Some(r#"{"a":"20 / 5"}"#), Some("4"));
    assert_eq!(span.tool.unwrap().result_is_error, Some(false));
    // What was beside the arguments and the result is not lost.
    assert!(span.attributes_json.unwrap().contains(r#"\"tags\""#));
}

#[test]
fn openinference() {
    let span = read(
        "ChatCompletion",
        "openinference.instrumentation.openai",
        json!({
            "openinference.span.kind": "LLM", "llm.model_name": "m-1", "llm.system": "openai",
            "input.value": r#"{"model":"m","temperature":0.7,"messages":[{"role":"system","content":"s"},{"role":"user","content":"q"}]}"#,
            "llm.input_messages.0.message.role": "system", "llm.input_messages.0.message.content": "s",
            "output.value": r#"{"id":"r1","model":"m-1","prompt_token_ids":[1,2],"choices":[{"index":0,"finish_reason":"tool_calls","token_ids":[5,6],"logprobs":null,
                "message":{"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}]}}]}"#,
            "llm.output_messages.0.message.role": "assistant", "llm.token_count.prompt": 13, "llm.token_count.completion": 7,
        }),
    );
    check_llm(&span, QUESTION, ASKED, Some(r#"{"openinference.span.kind":"LLM"}"#));
    let llm = span.llm.unwrap();
    assert_eq!((llm.prompt_token_ids, llm.choices[0].token_ids.as_deref()), (Some(vec![1, 2]), Some([5, 6].as_slice())));
    assert_eq!(
        (llm.model_requested.as_deref(), llm.model.as_deref(), llm.response_id.as_deref()),
        (Some("m"), Some("m-1"), Some("r1"))
    );
    assert_eq!((llm.input_tokens, llm.output_tokens, llm.temperature), (Some(13), Some(7), Some(0.7)));

    let span = read(
        "generation",
        "openinference.instrumentation.openai_agents",
        json!({
            "openinference.span.kind": "LLM", "input.value": r#"[{"role":"system","content":"s"},{"role":"user","content":"q"}]"#,
            "output.value": r#"[{"id":"__fake_id__","object":"response","output":[{"type":"function_call","call_id":"c1","name":"f","arguments":"{\"a\":1}","id":"__fake_id__","provider_data":{"response_id":"r1"}}]}]"#,
        }),
    );
    let call = span.llm.as_ref().unwrap();
    assert_eq!((messages_to_json(&call.input).as_str(), call.response_id.as_deref()), (QUESTION, Some("r1")));
    assert_eq!(messages_to_json(&[call.choices[0].message.clone()]), ASKED);

    let span = read(
        "calculator",
        "openinference.instrumentation.langchain",
        json!({
            "openinference.span.kind": "TOOL", "tool.name": "calculator", "input.value": "20 / 5",
            "output.value": r#"{"type":"tool","data":{"content":"boom","type":"tool","tool_call_id":"c1","status":"error"}}"#,
            "metadata": r#"{"task_id":"t1","thread_id":"th","lc_agent_name":"calc_agent","langgraph_checkpoint_ns":"tools:1"}"#,
        }),
    );
    check_tool(&span, "calculator", Some("c1"), Some("20 / 5"), Some("boom"));
    assert_eq!(span.tool.unwrap().result_is_error, Some(true));
    let identity = span.identity;
    assert_eq!(identity.task_id, Some((TaskIdSource::Metadata, "t1".into())));
    assert_eq!((identity.session_id.as_deref(), identity.agent_hint.as_deref()), (Some("th"), Some("calc_agent")));

    // AutoGen's arguments; the schema that others write under the same key.
    let kind = json!("TOOL");
    let span = read(
        "a.f",
        "x",
        json!({"openinference.span.kind": kind, "tool.name": "f", "tool.parameters": r#"{"a":1}"#, "output.value": "4"}),
    );
    check_tool(&span, "f", None, Some(r#"{"a":1}"#), Some("4"));
    let schema = r#"{"type":"object","properties":{}}"#;
    let span = read("f", "x", json!({"openinference.span.kind": kind, "tool.name": "f", "tool.parameters": schema}));
    check_tool(&span, "f", None, None, None);

    let span = read(
        "x",
        "x",
        json!({"openinference.span.kind": "CHAIN", "annotations.0.annotation.name": "correct", "annotations.0.annotation.score": 0.5,
            "annotations.0.annotation.annotator_kind": "HUMAN", "annotations.1.annotation.name": "style", "annotations.1.annotation.label": "good"}),
    );
    let rewards: Vec<_> =
        span.rewards.iter().map(|reward| (reward.name.as_str(), reward.value, reward.label.as_deref())).collect();
    assert_eq!(rewards, [("correct", Some(0.5), None), ("style", None, Some("good"))]);
    assert_eq!(span.rewards[0].source.as_deref(), Some("human"));
}

#[test]
fn vercel() {
    let span = read(
        "ai.generateText.doGenerate",
        "ai",
        json!({
            "ai.operationId": "ai.generateText.doGenerate", "ai.model.id": "m", "ai.model.provider": "p", "ai.response.finishReason": "tool-calls",
            "ai.prompt.messages": r#"[{"role":"system","content":"s"},{"role":"user","content":[{"type":"text","text":"q"}]}]"#,
            "ai.prompt.tools": [r#"{"type":"function","name":"f","inputSchema":{"type":"object"}}"#],
            "ai.response.toolCalls": r#"[{"toolCallId":"c1","toolName":"f","input":"{\"a\":1}"}]"#,
            "ai.usage.inputTokens": 3, "ai.telemetry.functionId": "math_agent", "ai.telemetry.metadata.task_id": "t1",
            "gen_ai.request.model": "m", "gen_ai.response.finish_reasons": ["tool-calls"],
        }),
    );
    let rest = r#"{"ai.operationId":"ai.generateText.doGenerate","ai.telemetry.functionId":"math_agent","ai.telemetry.metadata.task_id":"t1"}"#;
    check_llm(&span, QUESTION, ASKED, Some(rest));
    let llm = span.llm.unwrap();
    assert_eq!((llm.tools[0].parameters.as_deref(), llm.stream), (Some(r#"{"type":"object"}"#), Some(false)));
    assert_eq!(span.identity.agent_hint.as_deref(), Some("math_agent"));
    assert_eq!(span.identity.task_id, Some((TaskIdSource::Metadata, "t1".into())));

    let tool = json!({"ai.operationId": "ai.toolCall", "ai.toolCall.name": "f", "ai.toolCall.id": "c1", "ai.toolCall.args": r#"{"a":1}"#, "ai.toolCall.result": "\"5\""});
    check_tool(&read("ai.toolCall", "ai", tool), "f", Some("c1"), Some(r#"{"a":1}"#), Some("5"));
}

#[test]
fn pydantic_ai() {
    let span = read(
        "running tool",
        "pydantic-ai",
        json!({"gen_ai.tool.name": "f", "gen_ai.tool.call.id": "c1", "tool_arguments": r#"{"a":1}"#, "tool_response": "4", "logfire.msg": "m",
            "pydantic_ai.tool.retry.cause": "model_retry"}),
    );
    check_tool(&span, "f", Some("c1"), Some(r#"{"a":1}"#), Some("4"));
    assert!(span.tool.unwrap().retry_marker);
    let span = read(
        "chat m",
        "pydantic-ai",
        json!({"gen_ai.operation.name": "chat", "logfire.msg": "m",
            "events": r#"[{"event.name":"gen_ai.system.message","content":"s"},{"event.name":"gen_ai.user.message","content":"q"},
                {"event.name":"gen_ai.choice","index":0,"message":{"role":"assistant","tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":{"a": 1}}}]}}]"#}),
    );
    check_llm(&span, QUESTION, ASKED, Some(r#"{"gen_ai.operation.name":"chat","logfire.msg":"m"}"#));
}

#[test]
fn langfuse() {
    let span = read(
        "OpenAI-generation",
        "langfuse-sdk",
        json!({
            "langfuse.observation.type": "generation", "langfuse.observation.model.name": "m-1",
            "langfuse.observation.input": r#"{"tools":[{"type":"function","function":{"name":"f"}}],"messages":[{"role":"system","content":"s"},{"role":"user","content":"q"}]}"#,
            "langfuse.observation.output": r#"{"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}]}"#,
            "langfuse.observation.model.parameters": r#"{"temperature":0.7,"max_tokens":"Infinity"}"#,
            "langfuse.trace.metadata.task_id": "\"t1\"", "session.id": "sess",
        }),
    );
    check_llm(
        &span,
        QUESTION,
        ASKED,
        Some(r#"{"langfuse.observation.type":"generation","langfuse.trace.metadata.task_id":"\"t1\""}"#),
    );
    let llm = span.llm.unwrap();
    assert_eq!((llm.temperature, llm.max_tokens, llm.tools.len()), (Some(0.7), None, 1));
    assert_eq!(span.identity.task_id, Some((TaskIdSource::Metadata, "t1".into())));

    let span = read(
        "f",
        "langfuse-sdk",
        json!({"langfuse.observation.type": "tool", "langfuse.observation.input": r#"{"args":[],"kwargs":{"a":1}}"#, "langfuse.observation.level": "ERROR"}),
    );
    check_tool(&span, "f", None, Some(r#"{"a":1}"#), None);
    assert_eq!(span.status, Status::Error);
}

#[test]
fn litellm_writes_python() {
    let span = read(
        "raw_gen_ai_request",
        "litellm",
        json!({
            "llm.hosted_vllm.prompt_token_ids": "[1, 2]", "llm.hosted_vllm.id": "r1",
            "llm.hosted_vllm.choices": "[{'index': 0, 'finish_reason': 'stop', 'message': {'role': 'assistant', 'content': \"it's\"}, 'token_ids': [3, 4]}]",
            "metadata.requester_custom_headers": "{'x-rollout-id': 'ro-1', 'x-attempt-id': 'at-1', 'x-sequence-id': '2'}",
        }),
    );
    let llm = span.llm.as_ref().unwrap();
    assert_eq!(
        (llm.prompt_token_ids.as_deref(), llm.choices[0].token_ids.as_deref()),
        (Some([1, 2].as_slice()), Some([3, 4].as_slice()))
    );
    assert_eq!((llm.choices[0].message.content.as_deref(), llm.response_id.as_deref()), (Some("it's"), Some("r1")));
    assert_eq!((span.identity.rollout_id.as_deref(), span.identity.attempt_id.as_deref()), (Some("ro-1"), Some("at-1")));

    let ids = json!({"llm.hosted_vllm.prompt_token_ids": "[1]", "llm.hosted_vllm.response_token_ids": "[[3, 4]]"});
    let llm = read("raw_gen_ai_request", "litellm", ids).llm.unwrap();
    assert_eq!(llm.choices[0].token_ids.as_deref(), Some([3, 4].as_slice()));
}

#[test]
fn agent_lightning() {
    let span = read(
        "openai.chat.completion",
        "agentops",
        json!({
            "gen_ai.request.type": "chat", "gen_ai.prompt.0.role": "system", "gen_ai.prompt.0.content": "s", "gen_ai.prompt.1.role": "user",
            "gen_ai.prompt.1.content": "q", "gen_ai.completion.0.role": "assistant", "gen_ai.completion.0.finish_reason": "stop",
            "gen_ai.completion.0.content": "a", "gen_ai.request.functions.0.name": "f", "gen_ai.request.model": "m",
            "prompt_token_ids": [1, 2], "response_token_ids": [3, 4], "gen_ai.request.temperature": 1,
            "logprobs.content": r#"[{"token":"a","logprob":-0.5,"top_logprobs":[]},{"token":"b","logprob":-0.25,"top_logprobs":[]}]"#,
        }),
    );
    check_llm(&span, QUESTION, r#"[{"role":"assistant","content":"a"}]"#, Some(r#"{"gen_ai.request.type":"chat"}"#));
    let llm = span.llm.unwrap();
    assert_eq!(
        (llm.prompt_token_ids.as_deref(), llm.choices[0].token_ids.as_deref()),
        (Some([1, 2].as_slice()), Some([3, 4].as_slice()))
    );
    assert_eq!((llm.choices[0].logprobs.as_deref(), llm.tools[0].name.as_str()), (Some([-0.5, -0.25].as_slice()), "f"));

    for (name, attributes, expected) in [
        (
            "agentlightning.annotation",
            json!({"agentlightning.reward.0.name": "task", "agentlightning.reward.0.value": 1.0, "agentlightning.reward.1.name": "style",
                "agentlightning.reward.1.value": 0.5, "agentlightning.link.0.key_match": "gen_ai.response.id", "agentlightning.link.0.value_match": "r1"}),
            vec![("task", 1.0, true), ("style", 0.5, false)],
        ),
        ("agentlightning.reward", json!({"reward": 0.25}), vec![("primary", 0.25, true)]),
        (
            "agentops_reward_operation.task",
            json!({"agentops.span.kind": "task", "agentops.entity.output": r#"{"type":"reward","value":-1}"#}),
            vec![("primary", -1.0, true)],
        ),
    ] {
        let span = read(name, "agentlightning", attributes);
        let rewards: Vec<_> =
            span.rewards.iter().map(|reward| (reward.name.as_str(), reward.value.unwrap(), reward.primary)).collect();
        assert_eq!((span.kind, rewards), (Kind::Reward, expected), "{name}");
        let response_id = span.rewards[0].target.as_ref().and_then(|target| target.response_id.as_deref());
        assert_eq!(response_id, (span.rewards.len() == 2).then_some("r1"));
    }

    let span = read(
        "openai.chat.completions.create",
        "weave",
        json!({
            "agentlightning.operation.input.model": "m", "agentlightning.operation.input.messages.0.role": "user",
            "agentlightning.operation.input.messages.0.content": "q", "agentlightning.operation.output.id": "r1",
            "agentlightning.operation.output.prompt_token_ids": [1], "agentlightning.operation.output.choices.0.token_ids": [2, 3],
            "agentlightning.operation.output.choices.0.message.content": "a", "agentlightning.operation.output.choices.0.finish_reason": "stop",
        }),
    );
    check_llm(&span, r#"[{"role":"user","content":"q"}]"#, r#"[{"role":"assistant","content":"a"}]"#, None);
    assert_eq!(span.llm.unwrap().choices[0].token_ids.as_deref(), Some([2, 3].as_slice()));
}

#[test]
fn rewards_that_are_no_numbers_are_set_aside() {
    let attributes = Attributes::new(vec![("agentlightning.reward.0.value".into(), Value::Double(f64::NAN))]);
    let raw = RawSpan { span_id: "s".into(), name: "agentlightning.annotation".into(), attributes, ..RawSpan::default() };
    let mut sink = Sink::default();
    interpret(raw, &ReadOptions::default(), &mut sink);
    assert_eq!((sink.spans.len(), sink.spans[0].rewards.len(), sink.rejects.len()), (1, 0, 1));
}

#[test]
fn identity_comes_from_span_metadata_and_resource() {
    let options = ReadOptions { task_id_keys: vec!["my.case".into(), "case".into()] };
    let metadata = json!({"metadata": r#"{"case":"c7","task_id":"t1","split":"validation","group_id":"g"}"#});
    let identity = read_with("x", "x", metadata, vec![], &options).identity;
    assert_eq!(identity.task_id, Some((TaskIdSource::Configured, "c7".into())));
    assert_eq!((identity.split.as_deref(), identity.group_id.as_deref()), (Some("val"), Some("g")));

    let property = json!({"traceloop.association.properties.case": "c8"});
    assert_eq!(read_with("x", "x", property, vec![], &options).identity.task_id, Some((TaskIdSource::Configured, "c8".into())));

    let raw = RawSpan {
        span_id: "s".into(),
        resource_json: Some(r#"{"agentlightning.rollout_id":"ro-1","agentlightning.attempt_id":"","service.name":"x"}"#.into()),
        ..RawSpan::default()
    };
    let mut sink = Sink::default();
    interpret(raw, &options, &mut sink);
    let identity = &sink.spans[0].identity;
    assert_eq!((identity.rollout_id.as_deref(), identity.attempt_id.as_deref()), (Some("ro-1"), None));
    assert!(sink.spans[0].resource_json.is_some());
}

#[test]
fn events_of_a_span() {
    let event =
        |name: &'static str, attributes: Json| RawEvent { name: name.into(), time_ns: Some(1), attributes: flat(&attributes) };
    let events = vec![
        event(
            "gen_ai.content.prompt",
            json!({"gen_ai.prompt": r#"[{"role":"system","content":"s"},{"role":"user","content":"q"}]"#}),
        ),
        event("gen_ai.content.completion", json!({"gen_ai.completion": r#"[{"role":"assistant","content":"a"}]"#})),
        event("gen_ai.evaluation.result", json!({"gen_ai.evaluation.name": "ok", "gen_ai.evaluation.score.value": 1})),
        event("exception", json!({"exception.type": "langgraph.errors.ParentCommand"})),
    ];
    let span = read_with("chat m", "x", json!({"gen_ai.operation.name": "chat"}), events, &ReadOptions::default());
    check_llm(&span, QUESTION, r#"[{"role":"assistant","content":"a"}]"#, Some(r#"{"gen_ai.operation.name":"chat"}"#));
    assert_eq!((span.rewards[0].name.as_str(), span.rewards[0].value), ("ok", Some(1.0)));
    let rest = r#"[{"name":"exception","time_ns":1,"attributes":{"exception.type":"langgraph.errors.ParentCommand"}}]"#;
    assert_eq!(span.events_json.as_deref(), Some(rest));
    // Not failed, so the exception is no error; a tool still says what was raised.
    assert_eq!(span.error_type, None);
    let handoff = vec![event("exception", json!({"exception.type": "langgraph.errors.ParentCommand"}))];
    let span =
        read_with("f", "x", json!({"openinference.span.kind": "TOOL", "tool.name": "f"}), handoff, &ReadOptions::default());
    assert_eq!(span.tool.unwrap().exceptions, ["langgraph.errors.ParentCommand"]);
}

#[test]
fn log_records() {
    let log = |event: &'static str, body: Value<'static>, attributes: Json| {
        let raw = RawLog {
            origin: Origin::default(),
            format: Format::OtlpJson,
            trace_id: Some("t".into()),
            span_id: Some("s".into()),
            event_name: Some(event.into()),
            time_ns: Some(1),
            time_precision_ns: Some(1),
            severity: None,
            body,
            attributes: flat(&attributes),
            service_name: None,
            scope_name: None,
            scope_version: None,
            resource_json: None,
        };
        let mut sink = Sink::default();
        interpret_log(raw, &ReadOptions::default(), &mut sink);
        sink.spans.pop().unwrap()
    };
    let tool =
        log("gen_ai.tool.message", Value::Json(r#"{"content":"boom","id":"c1"}"#.into()), json!({"gen_ai.system": "openai"}));
    assert_eq!((tool.kind, tool.parent_span_id.as_deref()), (Kind::Message, Some("s")));
    assert_eq!(messages_to_json(&tool.llm.unwrap().input), r#"[{"role":"tool","content":"boom","tool_call_id":"c1"}]"#);
    let body = r#"{"index":"0","finish_reason":"tool_calls","message":{"role":"assistant","tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}]}}"#;
    let choice = log("gen_ai.choice", Value::Json(body.into()), json!({})).llm.unwrap();
    assert_eq!(messages_to_json(&[choice.choices[0].message.clone()]), ASKED);
    assert_eq!(choice.choices[0].finish_reason.as_deref(), Some("tool_calls"));
    let details = json!({"gen_ai.input.messages": [{"role": "user", "parts": [{"type": "text", "content": "q"}]}], "gen_ai.request.model": "m"});
    let details = log("gen_ai.client.inference.operation.details", Value::Null, details);
    assert_eq!(messages_to_json(&details.llm.unwrap().input), r#"[{"role":"user","content":"q"}]"#);
    let score = json!({"gen_ai.evaluation.name": "ok", "gen_ai.evaluation.score.value": 0.5, "gen_ai.response.id": "r1"});
    let score = log("gen_ai.evaluation.result", Value::Null, score);
    assert_eq!((score.kind, score.rewards[0].value), (Kind::Reward, Some(0.5)));
    assert_eq!(score.rewards[0].target.as_ref().unwrap().response_id.as_deref(), Some("r1"));
    let other = log("app.started", Value::Str("hello".into()), json!({"a": 1}));
    assert_eq!((other.kind, other.attributes_json.as_deref()), (Kind::Other, Some(r#"{"a":1,"log.body":"hello"}"#)));
}

#[test]
fn our_own_call_has_ids_and_both_logprobs_of_every_choice() {
    let span = read(
        "chat m",
        fulgurite::SCOPE,
        json!({
            "gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "gen_ai.response.id": "r1", "gen_ai.request.choice.count": 2,
            "gen_ai.input.messages": r#"[{"role":"system","parts":[{"type":"text","content":"s"}]},{"role":"user","parts":[{"type":"text","content":"q"}]}]"#,
            "gen_ai.output.messages": r#"[{"role":"assistant","parts":[{"type":"text","content":"a"}]},{"role":"assistant","parts":[{"type":"tool_call","id":"c1","name":"f","arguments":"{\"a\":1}"}]}]"#,
            "gen_ai.response.finish_reasons": ["stop", "tool_calls"],
            "fulgurite.rollout_id": "r-1", "fulgurite.attempt_id": "0", "fulgurite.task_id": "t", "fulgurite.group_id": "g", "fulgurite.split": "test",
            "fulgurite.policy_version": 3, "fulgurite.sample": 2,
            "fulgurite.call.prompt_token_ids": "[1,2]", "fulgurite.call.response_token_ids": "[[3],[4,5]]",
            "fulgurite.call.behaviour_logprobs": "[[-0.5],[-1.0,-2.5]]", "fulgurite.call.sampled_logprobs": "[[-0.25],[-0.75,-2.0]]",
            "fulgurite.call.http_status": 200, "fulgurite.call.malformed_tool_calls": r#"[["<tool_call>{"],[]]"#,
        }),
    );
    assert_eq!((span.kind, span.convention), (Kind::Llm, Some(Convention::Fulgurite)));
    let identity = &span.identity;
    assert_eq!((identity.rollout_id.as_deref(), identity.attempt_id.as_deref()), (Some("r-1"), Some("0")));
    assert_eq!(
        (identity.group_id.as_deref(), identity.split.as_deref(), identity.policy_version),
        (Some("g"), Some("test"), Some(3))
    );
    assert_eq!(identity.task_id, Some((TaskIdSource::Metadata, "t".to_owned())));
    let llm = span.llm.unwrap();
    assert_eq!((llm.prompt_token_ids, llm.http_status), (Some(vec![1, 2]), Some(200)));
    let choices: Vec<_> = llm
        .choices
        .iter()
        .map(|choice| (choice.token_ids.clone(), choice.logprobs.clone(), choice.sampled_logprobs.clone()))
        .collect();
    assert_eq!(
        choices,
        [
            (Some(vec![3]), Some(vec![-0.5]), Some(vec![-0.25])),
            (Some(vec![4, 5]), Some(vec![-1.0, -2.5]), Some(vec![-0.75, -2.0])),
        ]
    );
    assert_eq!(llm.choices[1].message.tool_calls[0].id.as_deref(), Some("c1"));
    assert_eq!((llm.choices[0].malformed.as_slice(), llm.choices[1].malformed.len()), (&["<tool_call>{".to_owned()][..], 0));
}

#[test]
fn our_own_rewards_and_record() {
    let span = read(
        "reward",
        fulgurite::SCOPE,
        json!({ "fulgurite.reward.name": "accuracy", "fulgurite.reward.value": 0.5, "fulgurite.reward.source": "grader",
                "fulgurite.reward.primary": true, "fulgurite.reward.final": true, "fulgurite.reward.response_id": "r1" }),
    );
    assert_eq!((span.kind, span.attributes_json.as_deref()), (Kind::Reward, None));
    let reward = &span.rewards[0];
    assert_eq!((reward.name.as_str(), reward.value, reward.source.as_deref()), ("accuracy", Some(0.5), Some("grader")));
    assert!(reward.primary && reward.is_final);
    assert_eq!(reward.target.as_ref().unwrap().response_id.as_deref(), Some("r1"));

    let span = read(
        "rollout",
        fulgurite::SCOPE,
        json!({ "fulgurite.rollout.status": "timeout", "fulgurite.rollout.task": "{\"q\":1}", "fulgurite.rollout.message": "60 s",
                "fulgurite.rollout.failure_class": "timeout" }),
    );
    let record = span.rollout.unwrap();
    assert_eq!(span.kind, Kind::Rollout);
    assert_eq!(
        (record.task_input.as_deref(), record.status.as_deref(), record.status_message.as_deref()),
        (Some("{\"q\":1}"), Some("timeout"), Some("60 s"))
    );
}
