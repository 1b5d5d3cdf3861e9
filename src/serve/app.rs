//! What the handlers share: settings, who answers, the rollouts under way, counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::HeaderMap;
use axum::response::Response;
use serde_json::{Value, json};

use super::call::Call;
use super::config::ServeConfig;
use super::local::Local;
use super::memory::Memory;
use super::metrics::Metrics;
use super::openai::ApiError;
use super::record::now_ns;
use super::rollout::Rollout;
use super::session::{Session, Sessions};
use super::upstream::Upstream;

/// Which of OpenAI's APIs a call came through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    Chat,
    Completions,
    Responses,
}

impl Api {
    /// The path below the base URL.
    pub fn path(self) -> &'static str {
        match self {
            Api::Chat => "chat/completions",
            Api::Completions => "completions",
            Api::Responses => "responses",
        }
    }

    fn operation(self) -> &'static str {
        match self {
            Api::Chat | Api::Responses => "chat",
            Api::Completions => "text_completion",
        }
    }
}

/// Who answers.
pub enum Backend {
    /// The policy, in this process.
    Local(Local),
    /// Another server.
    Upstream(Upstream),
}

pub struct App {
    pub config: ServeConfig,
    /// What clients have to send; `None` lets everybody in.
    pub key: Option<String>,
    pub backend: Backend,
    pub policy_version: Option<i64>,
    pub sessions: Sessions,
    /// Rollouts that nobody has begun are begun by their first call.
    pub open: bool,
    pub metrics: Metrics,
    /// What clients may go on with by the id of a response.
    pub memory: Memory,
    /// Random, so that ids of two runs of the server differ.
    pub run_id: String,
    calls: AtomicU64,
    started_ns: i64,
}

impl App {
    pub fn new(config: ServeConfig, key: Option<String>, backend: Backend, policy_version: Option<i64>, open: bool) -> App {
        App {
            config,
            key,
            backend,
            policy_version,
            sessions: Sessions::default(),
            open,
            metrics: Metrics::default(),
            memory: Memory::default(),
            run_id: uuid::Uuid::new_v4().simple().to_string(),
            calls: AtomicU64::new(0),
            started_ns: now_ns(),
        }
    }

    /// The number of a call that begins, from 0.
    pub fn next_call(&self) -> u64 {
        self.calls.fetch_add(1, Ordering::Relaxed)
    }

    /// The rollout under this name.
    pub fn session(&self, rollout: &str, attempt: u32) -> Result<Arc<Session>, ApiError> {
        if let Some(session) = self.sessions.get(rollout, attempt) {
            return Ok(session);
        }
        let unknown = || ApiError::not_found(format!("no attempt {attempt} at a rollout `{rollout}` is under way"));
        if !self.open {
            return Err(unknown());
        }
        let spec = Rollout {
            id: rollout.to_owned(),
            attempt,
            split: "train".to_owned(),
            policy_version: self.policy_version,
            ..Rollout::default()
        };
        // Another call may just have begun it.
        let begun = self.sessions.begin(spec);
        self.sessions.get(rollout, attempt).ok_or_else(|| match begun {
            Err(error) => ApiError::not_found(format!("{error:#}")),
            Ok(_) => unknown(),
        })
    }

    /// Answers a call. Whatever becomes of it, it is recorded.
    pub async fn answer(
        self: &Arc<App>,
        api: Api,
        session: Option<Arc<Session>>,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Response, ApiError> {
        let call = Call::begin(self, session, api.operation(), headers)?;
        let mut body: Value = match serde_json::from_slice(body) {
            Ok(body @ Value::Object(_)) => body,
            Ok(_) => return Err(call.fail(ApiError { param: None, ..ApiError::invalid("", "the body is no JSON object") })),
            Err(error) => {
                return Err(call.fail(ApiError { param: None, ..ApiError::invalid("", format!("the body is no JSON: {error}")) }));
            }
        };
        if let Some(session) = &call.session {
            session.rollout.impose(api, &mut body);
        }
        match &self.backend {
            Backend::Local(local) => local.answer(api, call, body).await,
            Backend::Upstream(upstream) => upstream.answer(api, call, headers, body).await,
        }
    }

    /// The one model, as `/v1/models` shows it.
    pub fn model(&self) -> Value {
        let mut model = json!({ "id": self.config.model, "object": "model", "created": self.started_ns / 1_000_000_000, "owned_by": "fulgurite" });
        if let Backend::Local(local) = &self.backend {
            model["max_model_len"] = json!(local.context_tokens());
        }
        model
    }

    pub fn metrics_text(&self) -> String {
        let more = match &self.backend {
            Backend::Local(local) => local.gauges(),
            Backend::Upstream(_) => Vec::new(),
        };
        self.metrics.text(&more)
    }
}
