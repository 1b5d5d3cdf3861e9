//! What is recorded of a call, a reward and a rollout: spans as OTLP JSON, GenAI attributes with ours beside them.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use super::outcome::{Outcome, Reward};
use super::rollout::Rollout;
use crate::trace::convention::fulgurite::{self as own, call, reward, rollout};

/// One call as far as it came.
#[derive(Debug, Clone, Default)]
pub struct CallRecord {
    /// Unique in its rollout; the span's id and the response's are made from it.
    pub response_id: String,
    pub span_id: String,
    /// Trace and span of the client, where it sent `traceparent`.
    pub parent: Option<(String, String)>,
    pub start_ns: i64,
    pub end_ns: i64,
    /// chat or text_completion.
    pub operation: &'static str,
    /// Who answered: fulgurite, or the kind of server that was asked.
    pub provider: String,
    pub model_requested: Option<String>,
    pub model: String,
    /// The prompt as chat messages; empty for a completion of token ids.
    pub messages: Vec<Value>,
    pub tools: Vec<Value>,
    /// Parameters of the request under GenAI's names.
    pub parameters: Map<String, Value>,
    pub policy_version: Option<i64>,
    pub prompt_ids: Option<Vec<u32>>,
    pub cached_tokens: Option<usize>,
    pub prefix: Option<&'static str>,
    pub input_tokens: Option<usize>,
    pub output_tokens: Option<usize>,
    pub choices: Vec<ChoiceRecord>,
    pub http_status: u16,
    /// Class and message, where it failed.
    pub error: Option<(String, String)>,
    pub cancelled: bool,
}

/// One choice of a call as far as it came.
#[derive(Debug, Clone, Default)]
pub struct ChoiceRecord {
    pub content: Option<String>,
    pub tool_calls: Vec<ToolCall>,
    /// Texts that began like a tool call and could not be read as one.
    pub malformed: Vec<String>,
    pub finish_reason: Option<String>,
    /// Sampled ids, the one that ended the turn included; `None` where the server behind gives none.
    pub ids: Option<Vec<u32>>,
    pub behaviour: Option<Vec<f32>>,
    pub sampled: Option<Vec<f32>>,
}

/// A tool call that the model asked for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ToolCall {
    pub id: String,
    pub name: String,
    /// JSON text as the model wrote it.
    pub arguments: String,
}

/// Nanoseconds since 1970 UTC.
pub fn now_ns() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// One `resourceSpans` of everything that the server itself recorded, as a line of OTLP JSON.
pub fn line(rollout: &Rollout, spans: Vec<Value>) -> String {
    let mut attributes = identity(rollout);
    attributes.insert(0, attribute("service.name", &json!("fulgurite")));
    let scope = json!({ "name": own::SCOPE, "version": env!("CARGO_PKG_VERSION") });
    json!({ "resourceSpans": [{ "resource": { "attributes": attributes }, "scopeSpans": [{ "scope": scope, "spans": spans }] }] })
        .to_string()
}

/// Resource attributes that tie any span to the rollout.
pub fn identity(rollout: &Rollout) -> Vec<Value> {
    let mut attributes = vec![
        attribute(own::ROLLOUT_ID, &json!(rollout.id)),
        attribute(own::ATTEMPT_ID, &json!(rollout.attempt.to_string())),
        attribute(own::SPLIT, &json!(rollout.split)),
        attribute(own::SAMPLE, &json!(rollout.sample)),
    ];
    for (key, value) in [(own::TASK_ID, &rollout.task_id), (own::GROUP_ID, &rollout.group_id)] {
        if let Some(value) = value {
            attributes.push(attribute(key, &json!(value)));
        }
    }
    if let Some(version) = rollout.policy_version {
        attributes.push(attribute(own::POLICY_VERSION, &json!(version)));
    }
    attributes
}

/// The span of a call.
///
/// * `abandoned`: the client went away, and asked the same again.
pub fn call_span(trace_id: &str, record: &CallRecord, abandoned: bool) -> Value {
    let mut attributes = Attributes::default();
    attributes.put("gen_ai.operation.name", json!(record.operation));
    attributes.put("gen_ai.provider.name", json!(record.provider));
    attributes.put("gen_ai.request.model", json!(record.model_requested.as_deref().unwrap_or(&record.model)));
    attributes.put("gen_ai.response.model", json!(record.model));
    attributes.put("gen_ai.response.id", json!(record.response_id));
    for (key, value) in &record.parameters {
        attributes.put(key, value.clone());
    }
    if !record.messages.is_empty() {
        let messages: Vec<Value> = record.messages.iter().map(message_parts).collect();
        attributes.put("gen_ai.input.messages", json!(Value::Array(messages).to_string()));
    }
    if record.operation == "chat" {
        attributes.put("gen_ai.tool.definitions", json!(Value::Array(record.tools.clone()).to_string()));
    }
    let answered = record.choices.iter().any(|choice| choice.finish_reason.is_some());
    if answered {
        let messages: Vec<Value> = record.choices.iter().map(choice_parts).collect();
        attributes.put("gen_ai.output.messages", json!(Value::Array(messages).to_string()));
        let reasons: Vec<&str> =
            record.choices.iter().map(|choice| choice.finish_reason.as_deref().unwrap_or_default()).collect();
        attributes.put("gen_ai.response.finish_reasons", json!(reasons));
    }
    let counts = [
        ("gen_ai.usage.input_tokens", record.input_tokens),
        ("gen_ai.usage.output_tokens", record.output_tokens),
        ("gen_ai.usage.cache_read.input_tokens", record.cached_tokens),
    ];
    for (key, count) in counts {
        if let Some(count) = count {
            attributes.put(key, json!(count));
        }
    }
    if let Some(version) = record.policy_version {
        attributes.put(own::POLICY_VERSION, json!(version));
    }
    token_attributes(&mut attributes, record);
    attributes.put(call::HTTP_STATUS, json!(record.http_status));
    if let Some(prefix) = record.prefix {
        attributes.put(call::PREFIX_REUSE, json!(prefix));
    }
    if record.choices.iter().any(|choice| !choice.malformed.is_empty()) {
        let malformed: Vec<&Vec<String>> = record.choices.iter().map(|choice| &choice.malformed).collect();
        attributes.put(call::MALFORMED_TOOL_CALLS, json!(json!(malformed).to_string()));
    }
    if record.cancelled {
        attributes.put(call::CANCELLED, json!(true));
        attributes.put(call::ABANDONED, json!(abandoned));
    }
    let (status, message) = match &record.error {
        Some((class, message)) => {
            attributes.put("error.type", json!(class));
            (2, message.as_str())
        }
        None => (1, ""),
    };
    let (trace_id, parent) = match &record.parent {
        Some((trace, span)) => (trace.as_str(), span.as_str()),
        None => (trace_id, ""),
    };
    json!({
        "traceId": trace_id, "spanId": record.span_id, "parentSpanId": parent, "name": format!("{} {}", record.operation, record.model), "kind": 2,
        "startTimeUnixNano": record.start_ns.to_string(), "endTimeUnixNano": record.end_ns.to_string(),
        "attributes": attributes.0, "status": { "code": status, "message": message },
    })
}

/// Ids and log-probabilities, where every choice has them.
fn token_attributes(attributes: &mut Attributes, record: &CallRecord) {
    if let Some(ids) = &record.prompt_ids {
        attributes.put(call::PROMPT_TOKEN_IDS, json!(json!(ids).to_string()));
    }
    fn of_all<'a, T>(
        choices: &'a [ChoiceRecord],
        field: impl Fn(&'a ChoiceRecord) -> Option<&'a Vec<T>>,
    ) -> Option<Vec<&'a Vec<T>>> {
        choices.iter().map(field).collect::<Option<Vec<_>>>().filter(|all| !all.is_empty())
    }
    if let Some(ids) = of_all(&record.choices, |choice| choice.ids.as_ref()) {
        attributes.put(call::RESPONSE_TOKEN_IDS, json!(json!(ids).to_string()));
    }
    let logprobs = [
        (call::BEHAVIOUR_LOGPROBS, of_all(&record.choices, |choice| choice.behaviour.as_ref())),
        (call::SAMPLED_LOGPROBS, of_all(&record.choices, |choice| choice.sampled.as_ref())),
    ];
    for (key, values) in logprobs {
        if let Some(values) = values {
            // As text, so that each keeps the digits of its own width.
            attributes.put(key, json!(serde_json::to_string(&values).unwrap_or_default()));
        }
    }
}

/// The span of a reward.
pub fn reward_span(trace_id: &str, span_id: &str, at_ns: i64, stated: &Reward) -> Value {
    let mut attributes = Attributes::default();
    attributes.put(reward::NAME, json!(stated.name));
    attributes.put(reward::SOURCE, json!(stated.source));
    attributes.put(reward::PRIMARY, json!(stated.primary));
    attributes.put(reward::FINAL, json!(stated.is_final));
    if let Some(value) = stated.value {
        attributes.put(reward::VALUE, json!(value));
    }
    let texts = [
        (reward::LABEL, &stated.label),
        (reward::COMMENT, &stated.comment),
        (reward::RESPONSE_ID, &stated.response_id),
        (reward::TOOL_CALL_ID, &stated.tool_call_id),
        (reward::SPAN_ID, &stated.span_id),
    ];
    for (key, text) in texts {
        if let Some(text) = text {
            attributes.put(key, json!(text));
        }
    }
    plain_span(trace_id, span_id, "reward", at_ns, at_ns, attributes)
}

/// The record about the rollout.
pub fn rollout_span(trace_id: &str, span_id: &str, begun_ns: i64, ended_ns: i64, spec: &Rollout, outcome: &Outcome) -> Value {
    let mut attributes = Attributes::default();
    attributes.put(rollout::STATUS, json!(outcome.status.as_str()));
    if let Some(task) = &spec.task {
        attributes.put(rollout::TASK, json!(task.to_string()));
    }
    if let Some(message) = &outcome.message {
        attributes.put(rollout::MESSAGE, json!(message));
    }
    if let Some(class) = outcome.status.failure_class() {
        attributes.put(rollout::FAILURE_CLASS, json!(class));
    }
    for (key, value) in &outcome.attributes {
        attributes.put(key, value.clone());
    }
    plain_span(trace_id, span_id, "rollout", begun_ns, ended_ns, attributes)
}

fn plain_span(trace_id: &str, span_id: &str, name: &str, start_ns: i64, end_ns: i64, attributes: Attributes) -> Value {
    json!({
        "traceId": trace_id, "spanId": span_id, "parentSpanId": "", "name": name, "kind": 1,
        "startTimeUnixNano": start_ns.to_string(), "endTimeUnixNano": end_ns.to_string(), "attributes": attributes.0, "status": {},
    })
}

/// A chat message in the shape of GenAI's messages.
fn message_parts(message: &Value) -> Value {
    let mut parts = Vec::new();
    let text = message["content"].as_str().unwrap_or_default();
    if message["role"] == "tool" {
        parts.push(json!({ "type": "tool_call_response", "id": message["tool_call_id"], "response": text }));
    } else {
        if let Some(thought) = message["reasoning_content"].as_str() {
            parts.push(json!({ "type": "reasoning", "content": thought }));
        }
        if !text.is_empty() {
            parts.push(json!({ "type": "text", "content": text }));
        }
    }
    for call in message["tool_calls"].as_array().into_iter().flatten() {
        let function = &call["function"];
        let arguments = match &function["arguments"] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        parts.push(json!({ "type": "tool_call", "id": call["id"], "name": function["name"], "arguments": arguments }));
    }
    let mut out = json!({ "role": message["role"], "parts": parts });
    if let Some(name) = message["name"].as_str() {
        out["name"] = json!(name);
    }
    out
}

fn choice_parts(choice: &ChoiceRecord) -> Value {
    let mut parts = Vec::new();
    if let Some(content) = choice.content.as_ref().filter(|content| !content.is_empty()) {
        parts.push(json!({ "type": "text", "content": content }));
    }
    for call in &choice.tool_calls {
        parts.push(json!({ "type": "tool_call", "id": call.id, "name": call.name, "arguments": call.arguments }));
    }
    json!({ "role": "assistant", "parts": parts, "finish_reason": choice.finish_reason })
}

/// Attributes in OTLP's JSON.
#[derive(Debug, Default)]
struct Attributes(Vec<Value>);

impl Attributes {
    fn put(&mut self, key: &str, value: Value) {
        self.0.push(attribute(key, &value));
    }
}

fn attribute(key: &str, value: &Value) -> Value {
    json!({ "key": key, "value": any_value(value) })
}

fn any_value(value: &Value) -> Value {
    match value {
        Value::String(text) => json!({ "stringValue": text }),
        Value::Bool(flag) => json!({ "boolValue": flag }),
        Value::Number(number) if number.is_f64() => json!({ "doubleValue": number }),
        Value::Number(number) => json!({ "intValue": number.to_string() }),
        Value::Array(items) => json!({ "arrayValue": { "values": items.iter().map(any_value).collect::<Vec<_>>() } }),
        Value::Null => json!({}),
        Value::Object(_) => json!({ "stringValue": value.to_string() }),
    }
}
