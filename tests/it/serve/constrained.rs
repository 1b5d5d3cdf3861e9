//! Answers that are held to a form: JSON that fits a schema and calls that must be made, on the engine, through every API.

use fulgurite::generate::GenerateConfig;
use fulgurite::lake::Lake;
use fulgurite::serve::{Outcome, ServeConfig};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{derived, post, rollout, served, served_with, stream, table};
use crate::cases::BATCH;

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "verdict": { "enum": ["yes", "no", "maybe – später"] },
            "sum": { "type": "integer", "minimum": 0, "maximum": 99 },
            "path": { "type": "array", "items": { "type": "array", "items": { "type": "number", "minimum": -9, "maximum": 9 }, "maxItems": 2 }, "maxItems": 3 },
            "note": { "type": "string", "maxLength": 5 },
        },
        "required": ["verdict", "sum", "path", "note"],
        "additionalProperties": false,
    })
}

fn fits(text: &str) -> Value {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    assert!(jsonschema::is_valid(&schema(), &value), "{text}");
    value
}

fn tools() -> Value {
    let of = |name: &str, properties: Value| {
        let required: Vec<&String> = properties.as_object().unwrap().keys().collect();
        json!({ "type": "function", "function": { "name": name, "strict": true, "parameters": {
            "type": "object", "properties": properties, "required": required, "additionalProperties": false } } })
    };
    json!([
        of("add", json!({ "a": { "type": "integer" }, "b": { "type": "integer" } })),
        of("find", json!({ "what": { "enum": ["sum", "product"] } }))
    ])
}

fn asked(more: Value) -> Value {
    let mut body = json!({ "model": "m", "messages": [{ "role": "user", "content": "q" }], "temperature": 1.0, "seed": 3 });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn format() -> Value {
    json!({ "type": "json_schema", "json_schema": { "name": "verdict", "schema": schema(), "strict": true } })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_fits_the_schema() {
    let server = served(false).await;
    let root = format!("http://{}/v1", server.address());
    let (status, answer) =
        post(&format!("{root}/chat/completions"), &asked(json!({ "response_format": format(), "n": 16 }))).await;
    assert_eq!(status, 200, "{answer}");
    let mut sums = std::collections::BTreeSet::new();
    for choice in answer["choices"].as_array().unwrap() {
        assert_eq!(choice["finish_reason"], "stop");
        sums.insert(fits(choice["message"]["content"].as_str().unwrap())["sum"].as_u64());
    }
    assert!(sums.len() > 4, "{sums:?}");

    let chunks =
        stream(&format!("{root}/chat/completions"), &asked(json!({ "response_format": format(), "stream": true, "n": 3 }))).await;
    let said = |index: u64| -> String {
        let choices = chunks.iter().map(|chunk| &chunk["choices"][0]).filter(|choice| choice["index"] == index);
        choices.filter_map(|choice| choice["delta"]["content"].as_str()).collect()
    };
    (0..3).for_each(|index| drop(fits(&said(index))));

    let text = json!({ "format": { "type": "json_schema", "name": "verdict", "schema": schema(), "strict": true } });
    let body = json!({ "input": "q", "text": text, "seed": 3 });
    let (status, answer) = post(&format!("{root}/responses"), &body).await;
    assert_eq!(status, 200, "{answer}");
    fits(answer["output"][0]["content"][0]["text"].as_str().unwrap());
    assert_eq!(answer["text"]["format"]["name"], "verdict");
    let mut body = body;
    body["stream"] = json!(true);
    let events = stream(&format!("{root}/responses"), &body).await;
    let deltas = events.iter().filter(|event| event["type"] == "response.output_text.delta");
    let streamed: String = deltas.map(|event| event["delta"].as_str().unwrap()).collect();
    assert_eq!(streamed, answer["output"][0]["content"][0]["text"], "the seed is the same");

    let (_, answer) =
        post(&format!("{root}/chat/completions"), &asked(json!({ "response_format": { "type": "json_object" }, "n": 8 }))).await;
    for choice in answer["choices"].as_array().unwrap() {
        // Numbers may be larger than any that Rust reads.
        let text = choice["message"]["content"].as_str().unwrap();
        assert!(text.starts_with('{') && serde_json::from_str::<&RawValue>(text).is_ok(), "{text}");
    }
    // A limit may cut it anywhere.
    let (_, answer) =
        post(&format!("{root}/chat/completions"), &asked(json!({ "response_format": format(), "max_tokens": 4 }))).await;
    assert_eq!((&answer["choices"][0]["finish_reason"], &answer["usage"]["completion_tokens"]), (&json!("length"), &json!(4)));
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tool_that_must_be_called_is() {
    let server = served(false).await;
    let root = format!("http://{}/v1", server.address());
    let url = format!("{root}/chat/completions");
    let named = json!({ "type": "function", "function": { "name": "find" } });
    for (choice, allowed) in [(json!("required"), &["add", "find"][..]), (named, &["find"][..])] {
        for parallel in [true, false] {
            let more = json!({ "tools": tools(), "tool_choice": choice, "parallel_tool_calls": parallel, "n": 16, "logit_bias": { "256": -100 } });
            let (status, answer) = post(&url, &asked(more)).await;
            assert_eq!(status, 200, "{answer}");
            let mut names = std::collections::BTreeSet::new();
            for choice in answer["choices"].as_array().unwrap() {
                assert_eq!((&choice["finish_reason"], &choice["message"]["content"]), (&json!("tool_calls"), &Value::Null));
                let calls = choice["message"]["tool_calls"].as_array().unwrap();
                assert!(parallel || calls.len() == 1, "{calls:?}");
                for call in calls {
                    let function = &call["function"];
                    let tools = tools();
                    let tool =
                        tools.as_array().unwrap().iter().find(|tool| tool["function"]["name"] == function["name"]).unwrap();
                    let arguments: Value = serde_json::from_str(function["arguments"].as_str().unwrap()).unwrap();
                    assert!(jsonschema::is_valid(&tool["function"]["parameters"], &arguments), "{function}");
                    names.insert(function["name"].as_str().unwrap().to_owned());
                }
            }
            assert_eq!(names.iter().map(String::as_str).collect::<Vec<_>>(), allowed);
        }
    }
    // After a tool's result this policy would answer; it must not.
    let flat: Vec<Value> = tools()
        .as_array()
        .unwrap()
        .iter()
        .map(|tool| {
            let mut flat = tool["function"].clone();
            flat["type"] = json!("function");
            flat
        })
        .collect();
    let items = json!([{ "role": "user", "content": "q" }, { "type": "function_call", "call_id": "c", "name": "add", "arguments": "{\"a\":1,\"b\":2}" },
        { "type": "function_call_output", "call_id": "c", "output": "3" }]);
    let body = json!({ "input": items, "tools": flat, "tool_choice": { "type": "function", "name": "find" }, "parallel_tool_calls": false });
    let (status, answer) = post(&format!("{root}/responses"), &body).await;
    assert_eq!((status, answer["output"][0]["name"].as_str()), (200, Some("find")), "{answer}");
    let mut body = body;
    body["stream"] = json!(true);
    let events = stream(&format!("{root}/responses"), &body).await;
    let done: Vec<&Value> = events.iter().filter(|event| event["type"] == "response.function_call_arguments.done").collect();
    assert_eq!((done.len(), done[0]["name"].as_str()), (1, Some("find")));
    // A text of the format or a call, as the policy likes: both come up.
    let more = json!({ "tools": tools(), "response_format": format(), "n": 24, "logit_bias": { "256": -100 } });
    let (_, answer) = post(&url, &asked(more)).await;
    let choices = answer["choices"].as_array().unwrap();
    let (texts, calls): (Vec<&Value>, Vec<&Value>) = choices.iter().partition(|choice| choice["message"]["tool_calls"].is_null());
    assert!(!texts.is_empty() && !calls.is_empty(), "{answer}");
    texts.iter().for_each(|choice| drop(fits(choice["message"]["content"].as_str().unwrap())));
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forms_that_cannot_be_are_refused_with_the_reason() {
    let server = served(false).await;
    let url = format!("http://{}/v1/chat/completions", server.address());
    let schema = |schema: Value| json!({ "response_format": { "type": "json_schema", "json_schema": { "name": "n", "schema": schema, "strict": true } } });
    for (more, param, said) in [
        (schema(json!({ "type": "integer", "minimum": 2, "maximum": 1 })), "response_format", "minimum"),
        (schema(json!({ "$ref": "#/$defs/x" })), "response_format", "$defs"),
        (
            json!({ "tools": tools(), "tool_choice": { "type": "function", "function": { "name": "sub" } } }),
            "tool_choice",
            "`sub`",
        ),
        (json!({ "tool_choice": "required" }), "tool_choice", "no `tools`"),
    ] {
        let (status, body) = post(&url, &asked(more.clone())).await;
        let error = &body["error"];
        assert_eq!((status, error["param"].as_str()), (400, Some(param)), "{more}: {body}");
        assert!(error["message"].as_str().unwrap().contains(said), "{more}: {body}");
    }
    server.stop().await.unwrap();
}

/// The same seed gives the same ids and log-probabilities, however many are worked on at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn held_answers_are_the_same_bytes_at_any_concurrency() {
    let mut found = Vec::new();
    for max_batch in [1, 3, 16] {
        let generate = GenerateConfig { deterministic: true, max_batch, ..GenerateConfig::default() };
        let server = served_with(false, ServeConfig::default(), generate).await;
        let url = format!("http://{}/v1/chat/completions", server.address());
        let body = |more: Value| {
            let mut body = asked(more);
            body.as_object_mut()
                .unwrap()
                .extend(json!({ "n": 8, "logprobs": true, "return_token_ids": true }).as_object().unwrap().clone());
            body
        };
        let format = body(json!({ "response_format": format() }));
        let call = body(json!({ "tools": tools(), "tool_choice": "required", "parallel_tool_calls": false }));
        let (texts, calls) = tokio::join!(post(&url, &format), post(&url, &call));
        assert_eq!((texts.0, calls.0), (200, 200));
        found.push([texts.1["choices"].to_string(), calls.1["choices"].to_string()]);
        server.stop().await.unwrap();
    }
    assert!(found[0] == found[1] && found[0] == found[2]);
}

/// The trainer recomputes what the policy alone would have said; beside it stands what was drawn from.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_logprobs_of_a_held_answer_are_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let lake = Lake::open(folder.path().to_str().unwrap()).await.unwrap();
    let server = served(false).await;
    let session = server.sessions().begin(rollout("r-1")).unwrap();
    let url = format!("{}/chat/completions", server.base_url(&session));
    let format = json!({ "type": "json_schema", "json_schema": { "name": "n", "schema": { "const": "ab" }, "strict": true } });
    let (_, answer) = post(&url, &asked(json!({ "response_format": format, "return_token_ids": true }))).await;
    assert_eq!(answer["choices"][0]["message"]["content"], "\"ab\"");
    server.sessions().finish(&session, &Outcome::default(), &lake, BATCH).await.unwrap();
    server.stop().await.unwrap();
    let context = derived(&lake).await;
    let rows = table(&context, "select response_token_ids, behaviour_logprobs, sampled_logprobs from calls").await;
    let ids: Vec<u32> = serde_json::from_str(&rows[0][0]).unwrap();
    let (behaviour, sampled): (Vec<f64>, Vec<f64>) =
        (serde_json::from_str(&rows[0][1]).unwrap(), serde_json::from_str(&rows[0][2]).unwrap());
    // The four bytes of `"ab"`, and the end of the turn; after any of these bytes every one of the 264 ids is equally likely.
    assert_eq!(ids, [34, 97, 98, 34, 261]);
    assert!(behaviour[1..].iter().all(|logprob| (logprob + 264f64.ln()).abs() < 1e-5), "{behaviour:?}");
    // After the line break it would rather have asked for its tool.
    assert!(behaviour[0] < -6.0, "{behaviour:?}");
    assert_eq!(sampled, [0.0; 5], "nothing else fits");
}
