//! A server of vLLM's kind that says what it was written to say, and the spans that an agent's instrumentation would send.

use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, TracesData};
use prost::Message as _;
use serde_json::{Value, json};

pub struct Upstream {
    pub url: String,
    script: Arc<Mutex<Script>>,
}

#[derive(Default)]
struct Script {
    last: Value,
    updates: Vec<Value>,
    hangs: bool,
    fails: Option<u16>,
}

impl Upstream {
    pub async fn start() -> Upstream {
        let script: Arc<Mutex<Script>> = Arc::default();
        let router = Router::new()
            .route("/v1/chat/completions", post(answer))
            .route("/v1/load_lora_adapter", post(updated))
            .route("/update_weights_from_disk", post(updated))
            .with_state(Arc::clone(&script));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Upstream { url, script }
    }

    /// The body of the last request.
    pub fn last(&self) -> Value {
        self.script.lock().unwrap().last.clone()
    }

    /// The bodies of all requests that gave it a new version.
    pub fn updates(&self) -> Vec<Value> {
        self.script.lock().unwrap().updates.clone()
    }

    pub fn hang_once(&self) {
        self.script.lock().unwrap().hangs = true;
    }

    pub fn fail_once(&self, status: Option<u16>) {
        self.script.lock().unwrap().fails = status;
    }
}

/// A tool call for a question, the answer for a tool's result; the fields and their places as vLLM documents them.
async fn answer(State(script): State<Arc<Mutex<Script>>>, Json(body): Json<Value>) -> Response {
    let (hangs, fails) = {
        let mut script = script.lock().unwrap();
        script.last = body.clone();
        (std::mem::take(&mut script.hangs), script.fails.take())
    };
    if hangs {
        tokio::time::sleep(Duration::from_secs(600)).await;
    }
    if let Some(status) = fails {
        let error = json!({ "error": { "message": "overloaded", "type": "server_error", "code": status } });
        return (StatusCode::from_u16(status).unwrap(), Json(error)).into_response();
    }
    let last = body["messages"].as_array().unwrap().last().unwrap();
    if body["stream"] == json!(true) {
        return stream().into_response();
    }
    let asks = last["content"] == "17 + 25";
    let call =
        json!({ "id": "call_1", "type": "function", "function": { "name": "add", "arguments": "{\"a\": 17, \"b\": 25}" } });
    let message = match asks {
        true => json!({ "role": "assistant", "content": null, "tool_calls": [call] }),
        false => json!({ "role": "assistant", "content": "hello" }),
    };
    Json(json!({
        "id": "chatcmpl-up-1", "object": "chat.completion", "created": 1, "model": "up", "prompt_token_ids": [1, 2, 3],
        "choices": [{ "index": 0, "message": message, "finish_reason": if asks { "tool_calls" } else { "stop" }, "token_ids": [11, 12],
            "logprobs": { "content": [{ "token": "a", "logprob": -0.5, "bytes": null, "top_logprobs": [] },
                                      { "token": "b", "logprob": -0.25, "bytes": null, "top_logprobs": [] }] } }],
        "usage": { "prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5 },
    }))
    .into_response()
}

/// A new version: refused where it does not lie where the server looks.
async fn updated(State(script): State<Arc<Mutex<Script>>>, Json(body): Json<Value>) -> Response {
    {
        let mut script = script.lock().unwrap();
        script.last = body.clone();
        script.updates.push(body.clone());
    }
    let path = body["lora_path"].as_str().or(body["model_path"].as_str()).unwrap();
    let success = !path.contains("missing");
    Json(json!({ "success": success, "message": if success { "" } else { "no such folder" } })).into_response()
}

fn stream() -> String {
    let chunk = |delta: Value, reason: Value, ids: Value, logprobs: &[f64], prompt: Option<Value>| {
        let content: Vec<Value> =
            logprobs.iter().map(|logprob| json!({ "token": "t", "logprob": logprob, "top_logprobs": [] })).collect();
        let mut chunk = json!({ "id": "chatcmpl-up-2", "object": "chat.completion.chunk", "created": 1, "model": "up",
            "choices": [{ "index": 0, "delta": delta, "finish_reason": reason, "token_ids": ids,
                "logprobs": if content.is_empty() { Value::Null } else { json!({ "content": content }) } }] });
        if let Some(prompt) = prompt {
            chunk["prompt_token_ids"] = prompt;
        }
        format!("data: {chunk}\n\n")
    };
    let null = || Value::Null;
    [
        chunk(json!({ "role": "assistant", "content": "" }), null(), null(), &[], Some(json!([1, 2, 3, 4]))),
        chunk(json!({ "content": "It is" }), null(), json!([21, 22]), &[-1.0, -2.0], None),
        chunk(json!({ "content": " 42." }), json!("stop"), json!([23]), &[-0.125], None),
        "data: [DONE]\n\n".to_owned(),
    ]
    .concat()
}

/// Nanoseconds since 1970 UTC.
pub fn now() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

/// The agent `solver` with its two calls, found once by the id of a tool call and once by time and text, and its tool: the agent and its calls
/// as gzipped protobuf, the tool as JSON.
pub async fn send_agent_spans(client: &reqwest::Client, endpoint: &str, key: &str, first: (u64, u64), second: (u64, u64)) {
    let trace = vec![7; 16];
    let span = |id: u8, parent: Option<u8>, name: &str, times: (u64, u64), attributes: &[(&str, &str)]| Span {
        trace_id: trace.clone(),
        span_id: vec![id; 8],
        parent_span_id: parent.map_or_else(Vec::new, |parent| vec![parent; 8]),
        name: name.to_owned(),
        start_time_unix_nano: times.0,
        end_time_unix_nano: times.1,
        attributes: attributes.iter().map(|(key, value)| text(key, value)).collect(),
        ..Span::default()
    };
    let asked = r#"[{"role":"user","parts":[{"type":"text","content":"17 + 25"}]}]"#;
    let told = r#"[{"role":"tool","parts":[{"type":"tool_call_response","id":"call_1","response":"42"}]}]"#;
    let asks = r#"[{"role":"assistant","parts":[{"type":"tool_call","id":"call_1","name":"add","arguments":{"a":17,"b":25}}],"finish_reason":"tool_calls"}]"#;
    let said = r#"[{"role":"assistant","parts":[{"type":"text","content":"It is 42."}],"finish_reason":"stop"}]"#;
    let chat = ("gen_ai.operation.name", "chat");
    let spans = vec![
        span(
            1,
            None,
            "invoke_agent solver",
            (first.0 - 1000, second.1 + 1000),
            &[("gen_ai.operation.name", "invoke_agent"), ("gen_ai.agent.name", "solver")],
        ),
        span(2, Some(1), "chat m", first, &[chat, ("gen_ai.input.messages", asked), ("gen_ai.output.messages", asks)]),
        span(3, Some(1), "chat m", second, &[chat, ("gen_ai.input.messages", told), ("gen_ai.output.messages", said)]),
    ];
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    let traces = TracesData { resource_spans: vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }] };
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&traces.encode_to_vec()).unwrap();
    let request = client.post(format!("{endpoint}/v1/traces")).bearer_auth(key);
    let request = request.header("content-type", "application/x-protobuf").header("content-encoding", "gzip");
    assert_eq!(request.body(gzip.finish().unwrap()).send().await.unwrap().status(), 200);

    let attribute = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
    let tool = json!({ "resourceSpans": [{ "scopeSpans": [{ "spans": [{
        "traceId": "07".repeat(16), "spanId": "04".repeat(8), "parentSpanId": "01".repeat(8), "name": "execute_tool add",
        "startTimeUnixNano": (first.1 + 10).to_string(), "endTimeUnixNano": (first.1 + 20).to_string(), "status": { "code": 1 },
        "attributes": [attribute("gen_ai.operation.name", "execute_tool"), attribute("gen_ai.tool.name", "add"),
            attribute("gen_ai.tool.call.id", "call_1"), attribute("gen_ai.tool.call.result", "42")] }] }] }] });
    let sent = client.post(format!("{endpoint}/v1/traces")).bearer_auth(key).json(&tool).send().await.unwrap();
    assert_eq!(sent.status(), 200);
}

fn text(key: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) };
    KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() }
}
