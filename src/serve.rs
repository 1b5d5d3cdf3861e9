//! The server: OpenAI's APIs in front of a policy or of another server, and the record of every call.
//!
//! ```text
//! /v1/{chat/completions, completions, responses, models}     OpenAI's APIs
//! /rollout/<id>/attempt/<n>/v1/...                           the same, tied to a rollout by nothing but the base URL
//! /rollout/<id>/attempt/<n>/v1/{traces, logs}                what the agent's own OpenTelemetry exporter sends
//! /rollout/<id>/attempt/<n>/reward                           {"value": 1.0}
//! /metrics, /health
//!
//! routes ─► app ─► local ─► answer ─► write        (the policy: prompt with spliced turns, engine, pieces, OpenAI's shapes)
//!              └─► upstream ─► gather              (another server: forwarded and read)
//!           call ─► session ─► record              (every call, however it ends, becomes a span of its rollout)
//! ```
//!
//! A rollout is begun by whoever runs its agent ([`Sessions::begin`]), who gives the agent [`Server::base_url`], and in the end writes
//! everything that was recorded with [`Sessions::finish`] as one file of the lake.

mod answer;
mod app;
mod call;
mod config;
mod gather;
mod local;
mod memory;
mod metrics;
mod openai;
mod outcome;
mod publish;
mod receiver;
mod record;
mod rollout;
mod routes;
mod session;
mod speaker;
mod splice;
mod sse;
mod upstream;
mod write;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::exit::Fault;
use crate::generate::Engine;
use crate::text::Text;

pub use config::{Dialect, ServeConfig, Update};
pub use outcome::{Outcome, Reward, Status};
pub use publish::publish;
pub use rollout::Rollout;
pub use session::{Session, Sessions, trace_path};

use app::{App, Backend};

/// How long calls under way may go on after the server was told to stop.
const GRACE: Duration = Duration::from_secs(5);

/// Who answers. Made once for each server, so that its size does not matter.
#[allow(clippy::large_enum_variant)]
pub enum Policy {
    /// The policy itself.
    Local { engine: Engine, text: Text, version: Option<i64> },
    /// The server that `ServeConfig::upstream` names, and which version of the policy it serves.
    Upstream { version: Option<i64> },
}

/// How to serve, beside the settings.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// 0 takes a free one.
    pub port: u16,
    /// What clients have to send as their API key; `None` lets everybody in.
    pub key: Option<String>,
    /// Rollouts that nobody has begun are begun by their first call.
    pub open: bool,
}

/// A server that is running. Dropping it stops it without waiting.
pub struct Server {
    address: SocketAddr,
    app: Arc<App>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<std::io::Result<()>>,
}

impl Server {
    /// Listens, and answers from then on.
    ///
    /// # Errors
    /// `Fault::Usage` for an address or port that cannot be had and for settings of an upstream that cannot be.
    pub async fn start(config: &ServeConfig, options: Options, policy: Policy) -> Result<Server> {
        let (backend, version) = match policy {
            Policy::Local { engine, text, version } => (Backend::Local(local::Local::new(engine, text)), version),
            Policy::Upstream { version } => (Backend::Upstream(upstream::Upstream::new(config)?), version),
        };
        let listener = TcpListener::bind((config.host.as_str(), options.port)).await.map_err(|error| {
            Fault::Usage(format!("cannot listen on `{}:{}`: {error}; choose another `--port`", config.host, options.port))
        })?;
        let address = listener.local_addr().context("the listener has no address")?;
        let app = Arc::new(App::new(config.clone(), options.key, backend, version, options.open));
        let router = routes::router(Arc::clone(&app));
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let ended = async move {
                // A sender that is dropped is a wish to end as well.
                let _ = stopped.await;
            };
            axum::serve(listener, router).with_graceful_shutdown(ended).await
        });
        Ok(Server { address, app, stop: Some(stop), task })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Base URL of an attempt at a rollout: what an OpenAI client is given.
    pub fn base_url(&self, session: &Session) -> String {
        format!("{}/v1", self.otlp_endpoint(session))
    }

    /// Endpoint of an attempt at a rollout: what an OTLP/HTTP exporter is given, which adds `/v1/traces` itself.
    pub fn otlp_endpoint(&self, session: &Session) -> String {
        format!("http://{}/rollout/{}/attempt/{}", self.address, session.rollout.id, session.rollout.attempt)
    }

    /// Where an agent or a grader states a reward.
    pub fn reward_url(&self, session: &Session) -> String {
        format!("{}/reward", self.otlp_endpoint(session))
    }

    /// The rollouts under way.
    pub fn sessions(&self) -> &Sessions {
        &self.app.sessions
    }

    /// Of the prompts that hold something that this server said, the share whose ids were kept; `None` before the first.
    pub fn prefix_reuse(&self) -> Option<f64> {
        self.app.metrics.prefix_reuse()
    }

    /// Seconds in passes through the model so far; 0 where another server answers.
    pub fn model_seconds(&self) -> f64 {
        match &self.app.backend {
            Backend::Local(local) => local.model_seconds(),
            Backend::Upstream(_) => 0.0,
        }
    }

    /// Takes no new connections, waits a little for the calls under way, and ends the engine.
    pub async fn stop(mut self) -> Result<()> {
        if let Some(stop) = self.stop.take() {
            // The server may have ended by itself.
            let _ = stop.send(());
        }
        match tokio::time::timeout(GRACE, &mut self.task).await {
            Ok(ended) => ended.context("the server ended with a panic")?.context("the server ended with an error")?,
            Err(_) => self.task.abort(),
        }
        Ok(())
    }
}
