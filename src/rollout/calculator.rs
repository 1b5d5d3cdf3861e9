//! The built-in agent: answers questions with a calculator. It talks to the server as any agent does, over HTTP, and needs no Python.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::expression;
use super::urls::Urls;

/// What the agent tells the policy before the question.
const SYSTEM: &str = "Use the calculator, then answer with the number.";

/// Longest answer that it asks for, in tokens.
const MAX_TOKENS: u64 = 64;

/// Calls of the policy before it gives up: a policy that asks the calculator over and over.
const MOST_CALLS: usize = 4;

/// The one tool that it offers, as OpenAI's API has it.
fn tool() -> Value {
    json!({
        "type": "function",
        "function": {
            "name": "calculator",
            "description": "Computes an expression.",
            "parameters": {
                "type": "object",
                "properties": { "expression": { "type": "string" } },
                "required": ["expression"],
            },
        },
    })
}

/// Asks the policy until it answers without a tool. Returns the text of the answer, empty where it never answers.
///
/// Errors: the server cannot be reached, or refuses a call.
pub async fn run(client: &reqwest::Client, urls: &Urls, question: &str) -> Result<String> {
    let mut messages = vec![json!({ "role": "system", "content": SYSTEM }), json!({ "role": "user", "content": question })];
    let mut spans = Vec::new();
    let mut answer = String::new();
    for _ in 0..MOST_CALLS {
        let message = ask(client, urls, &messages).await?;
        let calls = message["tool_calls"].as_array().cloned().unwrap_or_default();
        if calls.is_empty() {
            answer = message["content"].as_str().unwrap_or_default().to_owned();
            break;
        }
        messages.push(message);
        for call in &calls {
            let done = Done::call(call, spans.len());
            messages.push(json!({ "role": "tool", "tool_call_id": call["id"], "content": done.result.as_ref().unwrap_or_else(|error| error) }));
            spans.push(done.span(urls));
        }
    }
    if !spans.is_empty() {
        send(client, urls, spans).await?;
    }
    Ok(answer)
}

async fn ask(client: &reqwest::Client, urls: &Urls, messages: &[Value]) -> Result<Value> {
    let body =
        json!({ "model": urls.model, "messages": messages, "tools": [tool()], "temperature": 1.0, "max_tokens": MAX_TOKENS });
    let request = client.post(format!("{}/chat/completions", urls.base)).bearer_auth(&urls.key).json(&body);
    let response = request.send().await.context("cannot reach the server")?;
    let status = response.status();
    let mut answer: Value = response.json().await.with_context(|| format!("the server answered {status} and no JSON"))?;
    if !status.is_success() {
        bail!("the server answered {status}: {}", answer["error"]["message"].as_str().unwrap_or_default());
    }
    Ok(answer["choices"][0]["message"].take())
}

/// A tool call that was carried out.
struct Done<'a> {
    call: &'a Value,
    /// Number of the tool call in its rollout.
    number: usize,
    result: Result<String, String>,
    start_ns: u128,
    end_ns: u128,
}

impl Done<'_> {
    fn call(call: &Value, number: usize) -> Done<'_> {
        let start_ns = now_ns();
        let result = compute(&call["function"]);
        Done { call, number, result, start_ns, end_ns: now_ns() }
    }

    /// The span that an instrumented framework would send.
    fn span(&self, urls: &Urls) -> Value {
        let text = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
        let id = |what: &str, digits: usize| {
            blake3::hash(format!("{what} {} {} {}", urls.rollout_id, urls.attempt, self.number).as_bytes()).to_hex()[..digits]
                .to_owned()
        };
        let (status, result) = match &self.result {
            Ok(result) => (json!({ "code": 1 }), result),
            Err(error) => (json!({ "code": 2, "message": error }), error),
        };
        json!({
            // The spans of one rollout have one trace, which its other calls share by its id.
            "traceId": blake3::hash(urls.rollout_id.as_bytes()).to_hex()[..32],
            "spanId": id("tool", 16),
            "name": "execute_tool calculator",
            "kind": 1,
            "startTimeUnixNano": self.start_ns.to_string(),
            "endTimeUnixNano": self.end_ns.to_string(),
            "status": status,
            "attributes": [
                text("gen_ai.operation.name", "execute_tool"),
                text("gen_ai.tool.name", self.call["function"]["name"].as_str().unwrap_or_default()),
                text("gen_ai.tool.call.id", self.call["id"].as_str().unwrap_or_default()),
                text("gen_ai.tool.call.arguments", self.call["function"]["arguments"].as_str().unwrap_or_default()),
                text("gen_ai.tool.call.result", result),
            ],
        })
    }
}

/// The result as the policy reads it, or what was wrong with the call.
fn compute(function: &Value) -> Result<String, String> {
    let name = function["name"].as_str().unwrap_or_default();
    if name != "calculator" {
        return Err(format!("error: there is no tool {name}"));
    }
    let arguments: Value = serde_json::from_str(function["arguments"].as_str().unwrap_or_default()).unwrap_or_default();
    let Some(expression) = arguments["expression"].as_str() else {
        return Err("error: the calculator needs an expression".to_owned());
    };
    let value = expression::evaluate(expression).map_err(|error| format!("error: {error}"))?;
    Ok(expression::shown(value))
}

async fn send(client: &reqwest::Client, urls: &Urls, spans: Vec<Value>) -> Result<()> {
    let body = json!({ "resourceSpans": [{ "scopeSpans": [{ "scope": { "name": "fulgurite.calculator" }, "spans": spans }] }] });
    let request = client.post(format!("{}/v1/traces", urls.otlp)).bearer_auth(&urls.key).json(&body);
    request.send().await.context("cannot reach the server")?.error_for_status().context("the server refused the spans")?;
    Ok(())
}

fn now_ns() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos())
}
