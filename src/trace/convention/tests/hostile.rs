//! Values that a broken or hostile producer might write under any key: never a panic, and the span always comes out.

use proptest::prelude::*;

use super::*;

const KEYS: [&str; 34] = [
    "agentlightning.link.0.key_match",
    "agentlightning.operation.output.choices.0.token_ids",
    "agentlightning.reward.0.value",
    "agentops.entity.output",
    "agentops.span.kind",
    "ai.operationId",
    "ai.prompt.messages",
    "ai.prompt.tools",
    "ai.response.toolCalls",
    "ai.toolCall.result",
    "annotations.0.annotation.score",
    "events",
    "gen_ai.completion.0.content",
    "gen_ai.input.messages",
    "gen_ai.operation.name",
    "gen_ai.output.messages",
    "gen_ai.prompt.99999999999.role",
    "gen_ai.response.finish_reasons",
    "gen_ai.system_instructions",
    "gen_ai.tool.call.result",
    "gen_ai.tool.definitions",
    "input.value",
    "langfuse.observation.input",
    "langfuse.observation.type",
    "llm.hosted_vllm.choices",
    "llm.hosted_vllm.prompt_token_ids",
    "llm.input_messages.0.message.function.0",
    "llm.tools.0.tool.json_schema",
    "logprobs.content",
    "metadata",
    "openinference.span.kind",
    "output.value",
    "response_token_ids",
    "traceloop.entity.input",
];

const VALUES: [&str; 22] = [
    "",
    "null",
    "[]",
    "{}",
    "[null]",
    "[[[[[[]]]]]]",
    r#"[{"role":3,"content":{"a":[]}}]"#,
    r#"[{"role":"user","parts":"x"}]"#,
    r#"{"choices":[{"message":null,"token_ids":[99999999999]}]}"#,
    r#"{"model":"m","messages":[null,3,"x",{"content":[1,null,{}]}]}"#,
    r#"{"output":{"output":{"output":{}}},"kwargs":{}}"#,
    r#"{"type":"reward","value":"NaN"}"#,
    r#"{"generations":[[{"message":{"kwargs":{"response_metadata":{"logprobs":{"content":[{}]}}}}}]]}"#,
    r#"[{"type":"tool_call"},{"type":"tool-result","output":{"type":"json"}}]"#,
    r#"{"a":1,"a":2}"#,
    "{'a': [1, (2, {3}), '\\x4",
    "[1, 2",
    "LLM",
    "TOOL",
    "chat",
    "generation",
    "ai.generateText.doGenerate",
];

proptest! {
    #[test]
    fn values_never_panic(entries in prop::collection::vec((0..KEYS.len(), 0..VALUES.len() + 4, any::<String>()), 0..12)) {
        let value = |which: usize, text: String| match which.checked_sub(VALUES.len()) {
            None => Value::Str(VALUES[which].into()),
            Some(0) => Value::Str(text.into()),
            Some(1) => Value::Double(f64::NAN),
            Some(2) => Value::Int(i64::MIN),
            Some(_) => Value::Json("[1,{\"a\":null}]".into()),
        };
        let entries = entries.into_iter().map(|(key, which, text)| (KEYS[key].into(), value(which, text))).collect();
        let mut sink = Sink::default();
        interpret(RawSpan { span_id: "s".into(), attributes: Attributes::new(entries), ..RawSpan::default() }, &ReadOptions::default(), &mut sink);
        prop_assert_eq!(sink.spans.len(), 1);
        let rest = sink.spans[0].attributes_json.as_deref().unwrap_or("{}");
        prop_assert!(serde_json::from_str::<Json>(rest).is_ok(), "{}", rest);
        let llm = sink.spans[0].llm.clone().unwrap_or_default();
        let messages = messages_to_json(&llm.input);
        prop_assert!(serde_json::from_str::<Json>(&messages).is_ok(), "{}", messages);
        let params = llm.params_json.as_deref().unwrap_or("{}");
        prop_assert!(serde_json::from_str::<Json>(params).is_ok(), "{}", params);
    }

    #[test]
    fn text_in_the_place_of_messages_never_panics(text in any::<String>(), which in 0..4usize) {
        let json = [text.clone(), format!("[{text}"), format!("[{{\"role\":{text}}}]"), format!("{{\"content\":\"{text}\"}}")];
        let _ = crate::trace::message::read_messages(&json[which]);
        let _ = python::to_json(&json[which]);
        let _ = crate::trace::message::text::compact(&json[which]);
    }
}
