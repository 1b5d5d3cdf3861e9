//! What the server does not take: too much at once, too long, and what it says then. And what it gives beside the text.

use fulgurite::generate::GenerateConfig;
use fulgurite::serve::ServeConfig;
use serde_json::{Value, json};

use super::{KEY, chat, client, post, question, served, served_with, stream};

/// Goes on until the context is full: the ends of turns are forbidden.
fn endless() -> Value {
    json!({ "prompt": "x", "max_tokens": 4000, "stream": true, "logit_bias": { "261": -100, "262": -100 } })
}

async fn metrics(root: &str) -> String {
    client().get(format!("{root}/metrics")).bearer_auth(KEY).send().await.unwrap().text().await.unwrap()
}

/// Beyond the calls that may be under way, and beyond the requests that may wait for the engine, clients are asked to come again; once
/// there is room they are answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_at_once_are_asked_to_come_again() {
    let one = ServeConfig { max_calls: 1, ..ServeConfig::default() };
    let queue = GenerateConfig { max_batch: 1, queue_limit: 1, ..GenerateConfig::default() };
    for (config, generate, first) in [(one, GenerateConfig::default(), 1), (ServeConfig::default(), queue, 2)] {
        let server = served_with(false, config, generate).await;
        let root = format!("http://{}", server.address());
        let mut running = Vec::new();
        for _ in 0..first {
            let response =
                client().post(format!("{root}/v1/completions")).bearer_auth(KEY).json(&endless()).send().await.unwrap();
            assert_eq!(response.status(), 200);
            running.push(response);
            // The first has a place before the next comes to wait.
            for _ in 0..200 {
                if metrics(&root).await.contains("\nfulgurite_engine_running 1\n") {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        }
        let url = format!("{root}/v1/chat/completions");
        let refused = client().post(&url).bearer_auth(KEY).json(&chat(question("q"))).send().await.unwrap();
        assert_eq!((refused.status().as_u16(), refused.headers()["retry-after"].to_str().unwrap()), (429, "1"));
        let error = refused.json::<Value>().await.unwrap()["error"].clone();
        assert_eq!((error["type"].as_str(), error["code"].as_str()), (Some("rate_limit_error"), Some("queue_full")), "{error}");
        // Whoever goes away makes room.
        drop(running);
        let mut status = 0;
        for _ in 0..200 {
            status = post(&url, &chat(question("q"))).await.0;
            if status == 200 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        assert_eq!(status, 200);
        server.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_long_is_refused() {
    let server = served_with(false, ServeConfig { max_body_mib: 1, ..ServeConfig::default() }, GenerateConfig::default()).await;
    let root = format!("http://{}/v1", server.address());
    let long = "x".repeat(5000);
    for (api, body) in [
        ("chat/completions", chat(question(&long))),
        ("completions", json!({ "prompt": long })),
        ("responses", json!({ "input": long })),
    ] {
        let (status, body) = post(&format!("{root}/{api}"), &body).await;
        assert_eq!((status, body["error"]["code"].as_str()), (400, Some("context_length_exceeded")), "{api}: {body}");
        let huge = json!({ "messages": question(&"x".repeat(2 << 20)), "prompt": "x", "input": "x" });
        let (status, body) = post(&format!("{root}/{api}"), &huge).await;
        assert_eq!((status, body["error"]["code"].as_str()), (413, Some("request_too_large")), "{api}");
    }
    // A prompt that leaves room for a little is answered with that little.
    let (status, body) = post(
        &format!("{root}/completions"),
        &json!({ "prompt": "x".repeat(4090), "max_tokens": 50, "logit_bias": { "261": -100, "262": -100 } }),
    )
    .await;
    assert_eq!(
        (status, &body["usage"]["completion_tokens"], &body["choices"][0]["finish_reason"]),
        (200, &json!(6), &json!("length")),
        "{body}"
    );
    server.stop().await.unwrap();
}

/// Each sampled token with its log-probability and the likeliest others, through every API, whole and streamed, for every choice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logprobs_through_every_api() {
    let server = served(false).await;
    let root = format!("http://{}/v1", server.address());
    let tokens = |entries: &Value| -> Vec<(String, f64, usize)> {
        let entry = |entry: &Value| {
            let top = &entry["top_logprobs"];
            (entry["token"].as_str().unwrap().to_owned(), entry["logprob"].as_f64().unwrap(), top.as_array().map_or(0, Vec::len))
        };
        entries.as_array().into_iter().flatten().map(entry).collect()
    };
    let check = |found: &[(String, f64, usize)], what: &str| {
        let said: Vec<&str> = found.iter().map(|(token, ..)| token.as_str()).collect();
        assert_eq!(
            said.concat(),
            "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 17, \"b\": 25}}\n</tool_call><|im_end|>",
            "{what}"
        );
        assert!(found.iter().all(|(_, logprob, top)| (-1e-3..=0.0).contains(logprob) && *top == 2), "{what}: {found:?}");
    };
    // Without tools its words are text.
    let mut body = json!({ "messages": question("q"), "logprobs": true, "top_logprobs": 2, "n": 3, "temperature": 1.0 });
    let url = format!("{root}/chat/completions");
    let (_, answer) = post(&url, &body).await;
    (0..3).for_each(|index| check(&tokens(&answer["choices"][index]["logprobs"]["content"]), "chat"));
    body["stream"] = json!(true);
    let chunks = stream(&url, &body).await;
    for index in 0..3 {
        let choices =
            chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap()).filter(|choice| choice["index"] == index);
        let choices: Vec<&Value> = choices.collect();
        let found: Vec<_> = choices.iter().flat_map(|choice| tokens(&choice["logprobs"]["content"])).collect();
        check(&found, "chat, streamed");
        assert_eq!(choices.iter().filter(|choice| choice["finish_reason"] == "stop").count(), 1);
    }

    let mut body = json!({ "input": "q", "include": ["message.output_text.logprobs"], "top_logprobs": 2 });
    let url = format!("{root}/responses");
    let (_, answer) = post(&url, &body).await;
    check(&tokens(&answer["output"][0]["content"][0]["logprobs"]), "responses");
    body["stream"] = json!(true);
    let events = stream(&url, &body).await;
    let done = events.iter().find(|event| event["type"] == "response.output_text.done").unwrap();
    check(&tokens(&done["logprobs"]), "responses, streamed");

    let mut body = json!({ "prompt": "\n", "logprobs": 2, "max_tokens": 3, "n": 2 });
    let url = format!("{root}/completions");
    let of = |choice: &Value| -> Vec<(String, f64, usize)> {
        let list = |key: &str| choice["logprobs"][key].as_array().cloned().unwrap_or_default();
        let (texts, values, top) = (list("tokens"), list("token_logprobs"), list("top_logprobs"));
        let entry = |index: usize| {
            (texts[index].as_str().unwrap().to_owned(), values[index].as_f64().unwrap(), top[index].as_object().unwrap().len())
        };
        (0..texts.len()).map(entry).collect()
    };
    let (_, answer) = post(&url, &body).await;
    (0..2).for_each(|index| check(&of(&answer["choices"][index]), "completions"));
    body["stream"] = json!(true);
    let chunks = stream(&url, &body).await;
    for index in 0..2 {
        let choices =
            chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap()).filter(|choice| choice["index"] == index);
        check(&choices.flat_map(of).collect::<Vec<_>>(), "completions, streamed");
    }
    server.stop().await.unwrap();
}
