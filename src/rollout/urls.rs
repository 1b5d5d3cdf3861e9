//! What an agent is told: where its model answers, where its spans and rewards go, and with which key.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// The addresses of one attempt at a rollout.
#[derive(Debug, Clone, PartialEq)]
pub struct Urls {
    pub rollout_id: String,
    pub attempt: u32,
    /// Base URL of OpenAI's API.
    pub base: String,
    /// Base URL of OTLP over HTTP, to which exporters add `/v1/traces`.
    pub otlp: String,
    pub reward: String,
    /// Key of this run; goes as a bearer token everywhere.
    pub key: String,
    /// Name to ask for.
    pub model: String,
}

impl Urls {
    /// * `server`: such as `http://127.0.0.1:8080`.
    pub fn new(server: &str, key: &str, model: &str, rollout_id: &str, attempt: u32) -> Urls {
        let rollout = format!("{server}/rollout/{rollout_id}/attempt/{attempt}");
        Urls {
            rollout_id: rollout_id.to_owned(),
            attempt,
            base: format!("{rollout}/v1"),
            reward: format!("{rollout}/reward"),
            otlp: rollout,
            key: key.to_owned(),
            model: model.to_owned(),
        }
    }

    /// As the variables that OpenAI's and OpenTelemetry's SDKs read, and some of our own.
    pub fn environment(&self) -> BTreeMap<String, String> {
        let own = self.attempt.to_string();
        // Values of OTLP headers are percent-encoded: W3C Baggage, which the specification of the variable names.
        let headers = format!("authorization=Bearer%20{}", self.key);
        let variables = [
            ("OPENAI_BASE_URL", self.base.as_str()),
            ("OPENAI_API_BASE", self.base.as_str()),
            ("OPENAI_API_KEY", self.key.as_str()),
            ("OPENAI_MODEL", self.model.as_str()),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", self.otlp.as_str()),
            ("OTEL_EXPORTER_OTLP_HEADERS", headers.as_str()),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("FULGURITE_ROLLOUT_ID", self.rollout_id.as_str()),
            ("FULGURITE_ATTEMPT", own.as_str()),
            ("FULGURITE_REWARD_URL", self.reward.as_str()),
        ];
        let mut environment: BTreeMap<String, String> =
            variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        // The server is on this machine, where no proxy may come between.
        for name in ["NO_PROXY", "no_proxy"] {
            let before = std::env::var(name).ok().filter(|before| !before.is_empty());
            let hosts = before.map_or_else(String::new, |before| format!("{before},")) + "127.0.0.1,localhost";
            environment.insert(name.to_owned(), hosts);
        }
        environment
    }

    /// For a worker, whose environment cannot change between two tasks.
    pub fn json(&self) -> Value {
        json!({
            "id": self.rollout_id,
            "attempt": self.attempt,
            "base_url": self.base,
            "api_key": self.key,
            "model": self.model,
            "otlp_endpoint": self.otlp,
            "reward_url": self.reward,
        })
    }
}
