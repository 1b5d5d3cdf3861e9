//! Another server answers: requests are forwarded as they are, asked for token ids and log-probabilities where the server knows how, and
//! recorded.

use anyhow::{Context as _, Result};
use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures::StreamExt as _;
use serde_json::{Value, json};

use super::app::Api;
use super::call::Call;
use super::config::{Dialect, ServeConfig};
use super::gather::{self, Gathered};
use super::openai::ApiError;
use super::openai::chat::ChatRequest;
use super::openai::responses::ResponsesRequest;
use super::openai::shared::parse;
use super::sse::{self, Events};
use crate::exit::Fault;

/// A server with OpenAI's API.
pub struct Upstream {
    client: reqwest::Client,
    /// Without a slash at the end.
    url: String,
    key: Option<String>,
    model: Option<String>,
    dialect: Dialect,
}

impl Upstream {
    /// # Errors
    /// `Fault::Usage` for a URL that is none and for a key that is not in the environment.
    pub fn new(config: &ServeConfig) -> Result<Upstream> {
        let url = config.upstream.trim_end_matches('/').to_owned();
        let parsed = url::Url::parse(&url)
            .map_err(|error| Fault::Usage(format!("`serve.upstream` is `{url}`, which is no URL: {error}")))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(Fault::Usage(format!("`serve.upstream` is `{url}`; write `http://` or `https://`")).into());
        }
        let (client, key) = (client()?, key(config)?);
        let model = Some(config.upstream_model.clone()).filter(|model| !model.is_empty());
        Ok(Upstream { client, url, key, model, dialect: config.dialect })
    }

    pub async fn answer(&self, api: Api, mut call: Call, headers: &HeaderMap, mut body: Value) -> Result<Response, ApiError> {
        describe(api, &mut call, &body);
        call.record.provider = self.provider().to_owned();
        if let Some(model) = &self.model {
            body["model"] = json!(model);
        }
        let wanted = Wanted::of(&body);
        self.ask(api, &mut body);
        let sent = self.send(api, headers, &body).await;
        let response = match sent {
            Ok(response) => response,
            Err(error) => return Err(call.fail(unreachable(&error))),
        };
        let status = StatusCode::from_u16(response.status().as_u16()).unwrap_or(StatusCode::BAD_GATEWAY);
        if !status.is_success() {
            return Ok(refused(call, status, response).await);
        }
        if body["stream"] == json!(true) {
            let (events, streamed) = sse::stream();
            let dialect = self.dialect;
            tokio::spawn(async move { forward(response, call, wanted, dialect, &events).await });
            return Ok(streamed);
        }
        let mut answer: Value = match response.json().await {
            Ok(answer) => answer,
            Err(error) => return Err(call.fail(unreachable(&error))),
        };
        gather::whole(&answer, self.dialect).record_whole(&mut call.record);
        call.finish(Vec::new());
        wanted.take_off(&mut answer);
        Ok(axum::Json(answer).into_response())
    }

    fn provider(&self) -> &'static str {
        match self.dialect {
            Dialect::Openai => "openai",
            Dialect::Vllm => "vllm",
            Dialect::Sglang => "sglang",
            Dialect::LlamaCpp => "llama_cpp",
        }
    }

    /// Asks for what training needs, in the server's own words. What the client asked for stays.
    fn ask(&self, api: Api, body: &mut Value) {
        let defaults: &[(&str, Value)] = match (self.dialect, api) {
            (Dialect::Openai, _) | (_, Api::Responses) => &[],
            // Defaults of a model's own generation settings, and of llama.cpp, are no policy's.
            (_, _) => &[("temperature", json!(1.0)), ("top_p", json!(1.0))],
        };
        for (key, value) in defaults {
            put(body, key, value.clone());
        }
        let logprobs = if api == Api::Chat { json!(true) } else { json!(0) };
        match (self.dialect, api) {
            (Dialect::Openai, _) | (_, Api::Responses) => {}
            (Dialect::Vllm, _) => {
                body["return_token_ids"] = json!(true);
                put(body, "top_k", json!(-1));
                put(body, "min_p", json!(0.0));
                put(body, "logprobs", logprobs);
            }
            (Dialect::Sglang, _) => {
                body["return_token_ids"] = json!(true);
                body["return_prompt_token_ids"] = json!(true);
                put(body, "top_k", json!(-1));
                put(body, "min_p", json!(0.0));
                put(body, "logprobs", logprobs);
            }
            (Dialect::LlamaCpp, _) => {
                body["return_tokens"] = json!(true);
                body["cache_prompt"] = json!(true);
                put(body, "top_k", json!(0));
                put(body, "min_p", json!(0.0));
                put(body, "repeat_penalty", json!(1.0));
                put(body, "logprobs", if api == Api::Chat { json!(true) } else { json!(1) });
            }
        }
    }

    async fn send(&self, api: Api, headers: &HeaderMap, body: &Value) -> reqwest::Result<reqwest::Response> {
        let mut request = self.client.post(format!("{}/{}", self.url, api.path())).json(body);
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        if let Some(trace) = headers.get("traceparent") {
            request = request.header("traceparent", trace.as_bytes());
        }
        request.send().await
    }
}

/// No limit on the whole: an answer takes as long as it takes, and a client that waits no longer ends it.
pub fn client() -> Result<reqwest::Client> {
    reqwest::Client::builder().no_proxy().build().context("cannot make an HTTP client")
}

/// The key that the settings name a variable for.
pub fn key(config: &ServeConfig) -> Result<Option<String>, Fault> {
    match config.upstream_key_env.as_str() {
        "" => Ok(None),
        name => std::env::var(name)
            .map(Some)
            .map_err(|_| Fault::Usage(format!("the environment has no `{name}`, which `serve.upstream_key_env` names"))),
    }
}

/// Sets what the client left open.
fn put(body: &mut Value, key: &str, value: Value) {
    if body.get(key).is_none_or(Value::is_null) {
        body[key] = value;
    }
}

/// Notes the request as far as it can be read; the server behind decides whether it is right.
fn describe(api: Api, call: &mut Call, body: &Value) {
    let conversation = match api {
        Api::Chat => parse::<ChatRequest>(body).and_then(|request| request.conversation()),
        Api::Responses => parse::<ResponsesRequest>(body).and_then(|request| request.conversation(request.chat()?.iter())),
        Api::Completions => {
            let messages = body["prompt"].as_str().map(|prompt| json!({ "role": "user", "content": prompt }));
            return call.asked(body, &Vec::from_iter(messages), &[]);
        }
    };
    match conversation {
        Ok(conversation) => call.asked(body, &conversation.messages, &conversation.tools),
        Err(_) => call.asked(body, body["messages"].as_array().map_or(&[], Vec::as_slice), &[]),
    }
}

/// What the client asked for itself, and so is to get.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    token_ids: bool,
    logprobs: bool,
}

impl Wanted {
    fn of(body: &Value) -> Wanted {
        let logprobs = body.get("logprobs").is_some_and(|logprobs| logprobs.is_number() || *logprobs == json!(true));
        Wanted { token_ids: body["return_token_ids"] == json!(true), logprobs }
    }

    /// Takes off an answer, or a chunk of one, what only we asked for.
    fn take_off(self, answer: &mut Value) {
        let Some(fields) = answer.as_object_mut() else { return };
        if !self.token_ids {
            fields.shift_remove("prompt_token_ids");
        }
        for choice in
            fields.get_mut("choices").and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
        {
            if !self.token_ids {
                for key in ["token_ids", "prompt_token_ids", "tokens"] {
                    choice.shift_remove(key);
                }
            }
            if !self.logprobs && choice.contains_key("logprobs") {
                choice.insert("logprobs".to_owned(), Value::Null);
            }
        }
    }
}

/// Passes a stream on, event by event, and gathers what it says.
async fn forward(response: reqwest::Response, mut call: Call, wanted: Wanted, dialect: Dialect, events: &Events) {
    let mut gathered = Gathered::new(dialect);
    let mut bytes = response.bytes_stream();
    let mut pending: Vec<u8> = Vec::new();
    loop {
        let chunk = tokio::select! {
            chunk = bytes.next() => chunk,
            () = events.gone() => {
                gathered.record_part(&mut call.record);
                return;
            }
        };
        match chunk {
            Some(Ok(chunk)) => pending.extend_from_slice(&chunk),
            Some(Err(error)) => {
                gathered.record_part(&mut call.record);
                let error = call.fail(unreachable(&error));
                let _ = events.data(&error.body()).await;
                return;
            }
            None => break,
        }
        while let Some(event) = take_event(&mut pending) {
            let passed = pass(&event, &mut gathered, wanted);
            if events.raw(passed).await.is_err() {
                gathered.record_part(&mut call.record);
                return;
            }
        }
    }
    if !pending.is_empty() {
        let _ = events.raw(pass(&pending, &mut gathered, wanted)).await;
    }
    gathered.record_whole(&mut call.record);
    call.finish(Vec::new());
}

/// The next whole event, its empty line included.
fn take_event(pending: &mut Vec<u8>) -> Option<Vec<u8>> {
    let ends = [&b"\n\n"[..], b"\r\n\r\n"].into_iter().filter_map(|end| Some(memchr::memmem::find(pending, end)? + end.len()));
    let end = ends.min()?;
    let rest = pending.split_off(end);
    Some(std::mem::replace(pending, rest))
}

/// An event as the client gets it. One that is no JSON (a comment, the end) is passed on as it is.
fn pass(event: &[u8], gathered: &mut Gathered, wanted: Wanted) -> Bytes {
    let text = String::from_utf8_lossy(event);
    let data = text.lines().find_map(|line| line.strip_prefix("data:")).map(str::trim);
    let Some(mut chunk) = data.and_then(|data| serde_json::from_str::<Value>(data).ok()) else {
        return Bytes::copy_from_slice(event);
    };
    gathered.add(&chunk);
    if chunk.get("choices").is_none() || (wanted.token_ids && wanted.logprobs) {
        return Bytes::copy_from_slice(event);
    }
    wanted.take_off(&mut chunk);
    Bytes::from(format!("data: {chunk}\n\n"))
}

/// The server behind refused: the client gets its words.
async fn refused(call: Call, status: StatusCode, response: reqwest::Response) -> Response {
    let bytes = response.bytes().await.unwrap_or_default();
    let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let message = body["error"]["message"].as_str().or(body["message"].as_str()).or(body["detail"].as_str());
    let message = message.map_or_else(|| String::from_utf8_lossy(&bytes).chars().take(1000).collect(), str::to_owned);
    let kind = if status.is_server_error() { "server_error" } else { "invalid_request_error" };
    call.fail(ApiError { status, message, kind, param: None, code: None });
    let mut response = Response::new(bytes.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The server behind is not there, or went away in the middle.
fn unreachable(error: &reqwest::Error) -> ApiError {
    let kind = if error.is_timeout() { "upstream_timeout" } else { "upstream_connection_error" };
    ApiError {
        status: StatusCode::BAD_GATEWAY,
        code: Some(kind),
        ..ApiError::server(format!("the server behind this one does not answer: {error}"))
    }
}
