//! The server: what is forwarded and recorded, and what ingest and derive make of it.

pub mod clients;
mod command;
mod constrained;
mod limits;
pub mod policy;
mod remembered;
pub mod scripted;

use std::time::Duration;

use fulgurite::generate::{Engine, GenerateConfig};
use fulgurite::ingest;
use fulgurite::lake::Lake;
use fulgurite::model::Model;
use fulgurite::serve::{Dialect, Options, Outcome, Policy, Rollout, ServeConfig, Server, Status, Update, publish};
use fulgurite::stage::Context;
use fulgurite::text::Text;
use serde_json::{Value, json};

use crate::cases::{self, BATCH};

const KEY: &str = "secret";

fn rollout(id: &str) -> Rollout {
    Rollout {
        id: id.to_owned(),
        task_id: Some("task-7".to_owned()),
        group_id: Some("group-7".to_owned()),
        split: "train".to_owned(),
        sample: 1,
        policy_version: Some(3),
        task: Some(json!({ "question": "17 + 25" })),
        ..Rollout::default()
    }
}

/// A server in front of a scripted one.
async fn proxy(dialect: Dialect) -> (Server, scripted::Upstream) {
    let upstream = scripted::Upstream::start().await;
    let config = ServeConfig { upstream: upstream.url.clone(), dialect, max_body_mib: 1, ..ServeConfig::default() };
    let options = Options { key: Some(KEY.to_owned()), ..Options::default() };
    let server = Server::start(&config, options, Policy::Upstream { version: Some(3) }).await.expect("starts");
    (server, upstream)
}

/// A server of the policy whose weights are set by hand.
async fn served(open: bool) -> Server {
    served_with(open, ServeConfig::default(), GenerateConfig::default()).await
}

async fn served_with(open: bool, config: ServeConfig, generate: GenerateConfig) -> Server {
    let folder = tempfile::tempdir().unwrap();
    policy::write(folder.path());
    let text = Text::load(folder.path()).expect("loads");
    tch::set_num_threads(1);
    let model = Model::load(folder.path(), tch::Device::Cpu, tch::Kind::Float).expect("loads");
    let engine = Engine::start(model, GenerateConfig { kv_mib: 8, ..generate }).expect("starts");
    let options = Options { key: Some(KEY.to_owned()), open, ..Options::default() };
    let policy = Policy::Local { engine, text, version: Some(3) };
    Server::start(&config, options, policy).await.expect("starts")
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().expect("builds")
}

async fn post(url: &str, body: &Value) -> (u16, Value) {
    let response = client().post(url).bearer_auth(KEY).json(body).send().await.expect("is answered");
    let status = response.status().as_u16();
    (status, response.json().await.expect("JSON"))
}

/// The data of a stream's events.
async fn stream(url: &str, body: &Value) -> Vec<Value> {
    let text = client().post(url).bearer_auth(KEY).json(body).send().await.unwrap().text().await.unwrap();
    text.lines().filter_map(|line| line.strip_prefix("data: ")).filter_map(|data| serde_json::from_str(data).ok()).collect()
}

fn chat(messages: Value) -> Value {
    json!({ "model": "m", "messages": messages, "tools": [{ "type": "function", "function": { "name": "add", "parameters": { "type": "object" } } }] })
}

fn question(text: &str) -> Value {
    json!([{ "role": "user", "content": text }])
}

/// Ingests what was recorded, and derives.
async fn derived(lake: &Lake) -> Context {
    let context = cases::context(lake, &[]).unwrap();
    let folder = lake.directory().unwrap().join(format!("traces/batch={BATCH}"));
    let summary = ingest::run(&context, &[folder.display().to_string()]).await.expect("ingests");
    assert_eq!(summary.rows["rejects"], 0);
    fulgurite::derive::run(&context).await.expect("derives");
    context
}

async fn table(context: &Context, sql: &str) -> Vec<Vec<String>> {
    let rows = cases::query(context, sql).await.expect("the query runs");
    let columns: Vec<Vec<String>> = rows.schema().fields().iter().map(|field| cases::texts(&rows, field.name())).collect();
    (0..rows.num_rows()).map(|row| columns.iter().map(|column| column[row].clone()).collect()).collect()
}

/// A whole rollout through a server of vLLM's kind: calls whole and streamed, one given up and asked again, the agent's own spans of the
/// same calls and of its tool, a reward; then its tables.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_through_another_server_has_its_tables() {
    let folder = tempfile::tempdir().unwrap();
    let lake = Lake::open(folder.path().to_str().unwrap()).await.unwrap();
    let (server, upstream) = proxy(Dialect::Vllm).await;
    let session = server.sessions().begin(rollout("r-1")).unwrap();
    let url = format!("{}/chat/completions", server.base_url(&session));

    let begun = scripted::now();
    let (status, answer) = post(&url, &chat(question("17 + 25"))).await;
    let first = (begun, scripted::now());
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"], "add");
    assert!(
        answer.get("prompt_token_ids").is_none() && answer["choices"][0]["logprobs"].is_null(),
        "only we asked for them: {answer}"
    );
    assert_eq!(upstream.last()["return_token_ids"], true);
    assert_eq!(upstream.last()["logprobs"], true);

    // Given up by the client, which asks again.
    let history = json!([question("17 + 25")[0], answer["choices"][0]["message"], { "role": "tool", "tool_call_id": "call_1", "content": "42" }]);
    let mut slow = chat(history);
    slow["stream"] = json!(true);
    let begun = scripted::now();
    upstream.hang_once();
    let given_up = client().post(&url).bearer_auth(KEY).json(&slow).timeout(Duration::from_millis(300)).send().await;
    assert!(given_up.and_then(|response| response.error_for_status()).is_err());
    let chunks = stream(&url, &slow).await;
    let second = (begun, scripted::now());
    let said: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(said, "It is 42.");

    let endpoint = server.otlp_endpoint(&session);
    scripted::send_agent_spans(&client(), &endpoint, KEY, first, second).await;
    let (status, _) = post(&server.reward_url(&session), &json!({ "value": 0.5, "source": "grader", "final": true })).await;
    assert_eq!(status, 201);
    assert_eq!(session.calls(), 3);
    let path = server.sessions().finish(&session, &Outcome::default(), &lake, BATCH).await.unwrap();
    assert_eq!(path, format!("traces/batch={BATCH}/r-1.otlp.jsonl.zst"));
    server.stop().await.unwrap();

    let context = derived(&lake).await;
    let rollouts = table(&context, "select rollout_id, task_id, group_id, attempt_id, split, status, failure_class, policy_version, reward, reward_source, calls, tool_calls, task_input from rollouts").await;
    let expected =
        ["r-1", "task-7", "group-7", "0", "train", "succeeded", "", "3", "0.5", "grader", "3", "1", r#"{"question":"17 + 25"}"#];
    assert_eq!(rollouts, [expected.map(str::to_owned)]);
    let calls = table(&context, "select step, agent, status, abandoned, finish_reason, prompt_token_ids, response_token_ids, behaviour_logprobs, sampled_logprobs, policy_version, token_source, http_status from calls order by step").await;
    let expected = [
        [
            "0",
            "solver",
            "ok",
            "false",
            "tool_calls",
            "[1, 2, 3]",
            "[11, 12]",
            "[-0.5, -0.25]",
            "[-0.5, -0.25]",
            "3",
            "engine",
            "200",
        ],
        ["1", "solver", "error", "true", "", "", "", "", "", "3", "none", "499"],
        [
            "2",
            "solver",
            "ok",
            "false",
            "stop",
            "[1, 2, 3, 4]",
            "[21, 22, 23]",
            "[-1.0, -2.0, -0.125]",
            "[-1.0, -2.0, -0.125]",
            "3",
            "engine",
            "200",
        ],
    ];
    assert_eq!(calls, expected.map(|row| row.map(str::to_owned)));
    let tools = table(&context, "select name, status, step, result from tool_calls").await;
    assert_eq!(tools, [["add", "ok", "0", "42"].map(str::to_owned)]);
}

/// Each failure of the server behind is recorded with its status, and the class of the rollout follows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_are_recorded_and_classed() {
    let folder = tempfile::tempdir().unwrap();
    let lake = Lake::open(folder.path().to_str().unwrap()).await.unwrap();
    let (server, upstream) = proxy(Dialect::Openai).await;
    let outcomes = [
        ("a-agent", Some(200), Status::Failed),
        ("b-server", Some(503), Status::Failed),
        ("c-late", Some(200), Status::Timeout),
        ("d-machine", Some(200), Status::Infrastructure),
        ("e-silent", Some(200), Status::Succeeded),
    ];
    for (id, status, outcome) in outcomes {
        let session = server.sessions().begin(rollout(id)).unwrap();
        upstream.fail_once(status.filter(|status| *status != 200));
        let (got, _) = post(&format!("{}/chat/completions", server.base_url(&session)), &chat(question("hello"))).await;
        assert_eq!(Some(got), status);
        assert!(!upstream.last().as_object().unwrap().contains_key("return_token_ids"), "OpenAI knows no such field");
        let outcome = Outcome { status: outcome, ..Outcome::default() };
        server.sessions().finish(&session, &outcome, &lake, BATCH).await.unwrap();
    }
    let context = derived(&lake).await;
    let found = table(&context, "select rollout_id, status, failure_class from rollouts order by rollout_id").await;
    let expected = [
        ["a-agent", "failed", "agent"],
        ["b-server", "failed", "infrastructure"],
        ["c-late", "failed", "timeout"],
        ["d-machine", "failed", "infrastructure"],
        ["e-silent", "succeeded", "reward_missing"],
    ];
    assert_eq!(found, expected.map(|row| row.map(str::to_owned)));
    let http = table(&context, "select http_status from calls order by rollout_id").await;
    assert_eq!(http, [["200"], ["503"], ["200"], ["200"], ["200"]].map(|row| row.map(str::to_owned)));
}

/// What is refused, how, and that none of it stops the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_is_refused_in_the_shape_of_the_api() {
    let (server, _upstream) = proxy(Dialect::Vllm).await;
    let root = format!("http://{}", server.address());
    let plain = client();
    let health = plain.get(format!("{root}/health")).send().await.unwrap();
    assert_eq!(health.status(), 200);
    for key in ["", "wrong", "secret2", "secre"] {
        let refused = plain.get(format!("{root}/v1/models")).bearer_auth(key).send().await.unwrap();
        assert_eq!(refused.status(), 401);
        assert_eq!(refused.json::<Value>().await.unwrap()["error"]["code"], "invalid_api_key");
    }
    let models: Value = plain.get(format!("{root}/v1/models")).bearer_auth(KEY).send().await.unwrap().json().await.unwrap();
    assert_eq!(models["data"][0]["id"], "policy");

    let chat_url = format!("{root}/v1/chat/completions");
    let huge = json!({ "messages": question(&"x".repeat(2 << 20)) });
    let (status, body) = post(&chat_url, &huge).await;
    assert_eq!((status, body["error"]["code"].as_str()), (413, Some("request_too_large")));
    let broken = plain.post(&chat_url).bearer_auth(KEY).body("{").send().await.unwrap();
    assert_eq!(broken.status(), 400);
    assert_eq!(broken.json::<Value>().await.unwrap()["error"]["type"], "invalid_request_error");
    let (status, body) = post(&format!("{root}/rollout/none/attempt/0/v1/chat/completions"), &chat(question("q"))).await;
    assert_eq!((status, body["error"]["type"].as_str()), (404, Some("invalid_request_error")));
    let (status, _) = post(&format!("{root}/v1/embeddings"), &json!({})).await;
    assert_eq!(status, 404);

    let session = server.sessions().begin(Rollout { max_calls: Some(1), ..rollout("r") }).unwrap();
    let (status, body) = post(&server.reward_url(&session), &json!({ "value": "much" })).await;
    assert_eq!(status, 400, "{body}");
    let url = format!("{}/chat/completions", server.base_url(&session));
    assert_eq!(post(&url, &chat(question("hello"))).await.0, 200);
    let (status, body) = post(&url, &chat(question("hello"))).await;
    assert_eq!((status, body["error"]["code"].as_str()), (400, Some("max_calls")));
    assert!(server.sessions().begin(rollout("r")).is_err(), "one attempt is under way once");
    assert!(server.sessions().begin(rollout("../r")).is_err(), "an id is a file's name");

    let text = plain.get(format!("{root}/metrics")).bearer_auth(KEY).send().await.unwrap().text().await.unwrap();
    assert!(text.contains("\nfulgurite_calls_answered_total 1\n"), "{text}");
    assert!(text.contains("\nfulgurite_calls_under_way 0\n"), "{text}");
}

/// The ids of a second prompt begin with those of the first and those that were sampled for it, which no tokenizer would make of their text;
/// both log-probabilities are recorded, and a fork where the history was changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sampled_ids_stay_what_they_are_across_turns() {
    let folder = tempfile::tempdir().unwrap();
    let lake = Lake::open(folder.path().to_str().unwrap()).await.unwrap();
    let server = served(false).await;
    let session = server.sessions().begin(rollout("r-1")).unwrap();
    let url = format!("{}/chat/completions", server.base_url(&session));
    let mut messages = question("What is 17 + 25?");
    for turn in 0..3 {
        let (status, answer) = post(&url, &chat(messages.clone())).await;
        assert_eq!(status, 200, "{answer}");
        let message = answer["choices"][0]["message"].clone();
        let call = message["tool_calls"][0]["id"].clone();
        messages.as_array_mut().unwrap().push(message);
        let next = match turn {
            0 => json!({ "role": "tool", "tool_call_id": call, "content": "42" }),
            _ => json!({ "role": "user", "content": "Are you sure?" }),
        };
        messages.as_array_mut().unwrap().push(next);
    }
    assert_eq!(server.prefix_reuse(), Some(1.0));
    messages[0]["content"] = json!("What is 1 + 1?");
    assert_eq!(post(&url, &chat(messages)).await.0, 200);
    assert_eq!(server.prefix_reuse(), Some(2.0 / 3.0));
    let path = server.sessions().finish(&session, &Outcome::default(), &lake, BATCH).await.unwrap();
    assert_eq!(path, format!("traces/batch={BATCH}/r-1.otlp.jsonl.zst"));
    server.stop().await.unwrap();

    let context = derived(&lake).await;
    let calls = table(&context, "select step, prompt_token_ids, response_token_ids, behaviour_logprobs, sampled_logprobs, policy_version, temperature from calls order by step").await;
    let ids = |text: &String| -> Vec<u32> { serde_json::from_str(text).unwrap() };
    let (prompts, said): (Vec<Vec<u32>>, Vec<Vec<u32>>) = calls.iter().map(|call| (ids(&call[1]), ids(&call[2]))).unzip();
    assert_eq!(said, [policy::CALL_IDS, policy::ANSWER_IDS, policy::ANSWER_IDS, policy::ANSWER_IDS]);
    for turn in 1..3 {
        let earlier = [&prompts[turn - 1][..], &said[turn - 1]].concat();
        assert!(prompts[turn].starts_with(&earlier), "turn {turn}: {:?} after {earlier:?}", prompts[turn]);
    }
    // A prompt that was tokenised from text has bytes where the policy said words of its own.
    assert!(!prompts[3].contains(&policy::CALL_IDS[0]) && !prompts[3].contains(&policy::ANSWER_IDS[0]));
    for call in &calls {
        let (behaviour, sampled): (Vec<f32>, Vec<f32>) =
            (serde_json::from_str(&call[3]).unwrap(), serde_json::from_str(&call[4]).unwrap());
        assert_eq!((behaviour.len(), sampled.len(), call[5].as_str(), call[6].as_str()), (3, 3, "3", "1.0"));
        assert!(behaviour.iter().chain(&sampled).all(|logprob| (-1e-3..=0.0).contains(logprob)), "{call:?}");
    }
    let forks =
        table(&context, "select count(*) as n from spans where json_get_str(attributes, 'fulgurite.call.prefix_reuse') = 'fork'")
            .await;
    assert_eq!(forks, [["1"]]);
}

/// A client that goes away frees its place, and what was sampled for it is recorded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_frees_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let lake = Lake::open(folder.path().to_str().unwrap()).await.unwrap();
    let server = served(false).await;
    let session = server.sessions().begin(rollout("r-1")).unwrap();
    let url = format!("{}/completions", server.base_url(&session));
    // Ends of turns are forbidden, so that it would go on until the context is full.
    let endless = json!({ "prompt": "x", "max_tokens": 4000, "stream": true, "logit_bias": { "261": -100, "262": -100 } });
    let mut response = client().post(&url).bearer_auth(KEY).json(&endless).send().await.unwrap();
    assert!(response.chunk().await.unwrap().is_some());
    drop(response);
    // The end of the rollout waits for what its agent left behind.
    let outcome = Outcome { status: Status::Timeout, ..Outcome::default() };
    server.sessions().finish(&session, &outcome, &lake, BATCH).await.unwrap();
    let metrics = format!("http://{}/metrics", server.address());
    let mut text = String::new();
    for _ in 0..200 {
        text = client().get(&metrics).bearer_auth(KEY).send().await.unwrap().text().await.unwrap();
        if text.contains("\nfulgurite_engine_running 0\n") && text.contains("\nfulgurite_calls_cancelled_total 1\n") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(text.contains("\nfulgurite_calls_under_way 0\n") && text.contains("\nfulgurite_calls_cancelled_total 1\n"), "{text}");
    let context = derived(&lake).await;
    let calls =
        table(&context, "select status, abandoned, http_status, array_length(response_token_ids) > 0 as some from calls").await;
    assert_eq!(calls, [["error", "false", "499", "true"].map(str::to_owned)]);
}

/// The requests by which vLLM and SGLang take a new version, as they document them.
#[tokio::test]
async fn other_servers_are_given_each_version() {
    let upstream = scripted::Upstream::start().await;
    let config = |dialect, upstream_update| ServeConfig {
        upstream: upstream.url.clone(),
        dialect,
        upstream_update,
        ..ServeConfig::default()
    };
    let policy = tempfile::tempdir().unwrap();
    let adapter = policy.path().join("adapter");
    let served = publish(&config(Dialect::Vllm, Update::Adapter), 7, policy.path()).await.unwrap();
    assert_eq!(
        (served.upstream_model.as_str(), upstream.updates().len()),
        ("", 0),
        "it was started with a policy that has no adapter"
    );
    std::fs::create_dir(&adapter).unwrap();
    std::fs::write(adapter.join("adapter_config.json"), "{}").unwrap();
    let served = publish(&config(Dialect::Vllm, Update::Adapter), 7, policy.path()).await.unwrap();
    assert_eq!(served.upstream_model, "policy-0007");
    assert_eq!(upstream.last(), json!({ "lora_name": "policy-0007", "lora_path": adapter }));
    let folder = std::path::Path::new("/policies/0007");
    let served = publish(&config(Dialect::Sglang, Update::Weights), 7, folder).await.unwrap();
    assert_eq!(served.upstream_model, "");
    assert_eq!(upstream.last(), json!({ "model_path": "/policies/0007", "weight_version": "7", "flush_cache": true }));
    let missing = std::path::Path::new("/missing");
    let refused = publish(&config(Dialect::Sglang, Update::Weights), 7, missing).await.unwrap_err().to_string();
    assert!(refused.contains("refuses policy 7") && refused.contains("no such folder"), "{refused}");
    assert!(publish(&config(Dialect::LlamaCpp, Update::Weights), 7, folder).await.is_err());
    let untouched = config(Dialect::Openai, Update::None);
    assert_eq!(publish(&untouched, 7, folder).await.unwrap(), untouched);
}
