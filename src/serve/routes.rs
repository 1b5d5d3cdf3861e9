//! Where what is: the router, keys, sizes, and the handlers that need no model.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, FromRequestParts, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use subtle::ConstantTimeEq as _;

use super::app::{Api, App};
use super::openai::ApiError;
use super::outcome::Reward;
use super::receiver::{self, Signal};
use super::session::Session;

const MIB: usize = 1 << 20;

/// The whole of the server.
pub fn router(app: Arc<App>) -> Router {
    let api = || {
        Router::new()
            .route("/v1/models", get(models))
            .route("/v1/models/{model}", get(model))
            .route("/v1/chat/completions", post(chat))
            .route("/v1/completions", post(completions))
            .route("/v1/responses", post(responses))
    };
    let rollout = api()
        .route("/v1/traces", post(traces))
        .route("/v1/logs", post(logs))
        .route("/v1/metrics", post(dropped))
        .route("/reward", post(reward));
    api()
        .nest("/rollout/{rollout}/attempt/{attempt}", rollout)
        .route("/metrics", get(metrics))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), check_key))
        .route("/health", get(|| async { Json(json!({ "status": "ok" })) }))
        .fallback(|| async { ApiError::not_found("there is nothing under this path") })
        .method_not_allowed_fallback(|| async {
            ApiError { status: StatusCode::METHOD_NOT_ALLOWED, ..ApiError::not_found("this path does not take this method") }
        })
        .layer(DefaultBodyLimit::max(app.config.max_body_mib.saturating_mul(MIB)))
        .with_state(app)
}

/// Lets in who has the key. The comparison takes the same time whatever is wrong with it.
async fn check_key(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    if let Some(key) = &app.key {
        let bearer = |value: &str| {
            value.strip_prefix("Bearer ").or_else(|| value.strip_prefix("bearer ")).map(str::trim).map(str::to_owned)
        };
        let headers = request.headers();
        let text = |name| headers.get(name).and_then(|value: &header::HeaderValue| value.to_str().ok());
        let sent = text(header::AUTHORIZATION.as_str())
            .and_then(bearer)
            .or_else(|| text("api-key").map(str::to_owned))
            .unwrap_or_default();
        if !bool::from(sent.as_bytes().ct_eq(key.as_bytes())) {
            return ApiError::unauthorized().into_response();
        }
    }
    next.run(request).await
}

/// The rollout that a path names; `None` where it names none.
pub struct Place(Option<Arc<Session>>);

impl FromRequestParts<Arc<App>> for Place {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Place, ApiError> {
        let params =
            RawPathParams::from_request_parts(parts, app).await.map_err(|error| ApiError::not_found(error.to_string()))?;
        let param = |name: &str| params.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned());
        let (Some(rollout), Some(attempt)) = (param("rollout"), param("attempt")) else { return Ok(Place(None)) };
        let attempt: u32 = attempt.parse().map_err(|_| ApiError::not_found(format!("the attempt `{attempt}` is no number")))?;
        app.session(&rollout, attempt).map(|session| Place(Some(session)))
    }
}

type Body = Result<Bytes, BytesRejection>;

async fn chat(State(app): State<Arc<App>>, place: Place, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    app.answer(Api::Chat, place.0, &headers, &body?).await
}

async fn completions(State(app): State<Arc<App>>, place: Place, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    app.answer(Api::Completions, place.0, &headers, &body?).await
}

async fn responses(State(app): State<Arc<App>>, place: Place, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    app.answer(Api::Responses, place.0, &headers, &body?).await
}

async fn models(State(app): State<Arc<App>>) -> Json<Value> {
    Json(json!({ "object": "list", "data": [app.model()] }))
}

/// Any name is that of the one model, as in requests.
async fn model(State(app): State<Arc<App>>) -> Json<Value> {
    Json(app.model())
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], app.metrics_text()).into_response()
}

async fn traces(State(app): State<Arc<App>>, place: Place, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    receive(&app, place, &headers, &body?, Signal::Traces)
}

async fn logs(State(app): State<Arc<App>>, place: Place, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    receive(&app, place, &headers, &body?, Signal::Logs)
}

/// Metrics of an agent's exporter are taken, so that it does not complain, and say nothing that is kept.
async fn dropped(headers: HeaderMap) -> Response {
    received(is_json(&headers))
}

fn receive(app: &App, place: Place, headers: &HeaderMap, body: &[u8], signal: Signal) -> Result<Response, ApiError> {
    let Some(session) = place.0 else { return Err(ApiError::not_found("spans belong to a rollout")) };
    let limit = app.config.max_trace_mib.saturating_mul(MIB);
    let encoding = headers.get(header::CONTENT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or("identity");
    let is_gzip = match encoding {
        "gzip" => true,
        "identity" | "" => false,
        other => {
            return Err(ApiError {
                param: None,
                ..ApiError::invalid("", format!("the encoding `{other}` is not taken; send gzip"))
            });
        }
    };
    let is_json = is_json(headers);
    session.receive(receiver::lines(signal, body, is_json, is_gzip, limit, &session.rollout)?, limit)?;
    Ok(received(is_json))
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.to_ascii_lowercase().starts_with("application/json")
}

/// An empty answer, in the encoding of the request: everything was taken.
fn received(is_json: bool) -> Response {
    let (kind, body) = if is_json { ("application/json", "{}") } else { ("application/x-protobuf", "") };
    ([(header::CONTENT_TYPE, kind)], body).into_response()
}

async fn reward(place: Place, body: Body) -> Result<Response, ApiError> {
    let Some(session) = place.0 else { return Err(ApiError::not_found("a reward belongs to a rollout")) };
    let wrong = |error: String| ApiError { param: None, ..ApiError::invalid("", error) };
    let reward: Reward = serde_json::from_slice(&body?).map_err(|error| wrong(format!("the body is no reward: {error}")))?;
    reward.check().map_err(wrong)?;
    session.reward(reward);
    Ok((StatusCode::CREATED, Json(json!({ "status": "recorded" }))).into_response())
}
