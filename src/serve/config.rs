//! Settings of the server.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The OpenAI-compatible server: of `fulgurite serve`, and of rollouts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ServeConfig {
    /// Address to listen on. Anything but a loopback address is open to whoever has the key.
    pub host: String,
    /// Name of the model in answers and in `/v1/models`; requests may name any.
    pub model: String,
    /// Largest body of a request, in MiB; a larger one is answered with 413.
    pub max_body_mib: usize,
    /// Calls that may be under way or wait at once; one more is answered with 429.
    pub max_calls: usize,
    /// Most that an agent may send of its own spans for one rollout, in MiB.
    pub max_trace_mib: usize,
    /// Base URL of an OpenAI-compatible server that answers instead of the policy (`http://127.0.0.1:8000/v1`); empty for the policy
    /// itself. Requests are forwarded and recorded.
    pub upstream: String,
    /// What kind of server that is, which decides how it is asked for token ids and log-probabilities.
    pub dialect: Dialect,
    /// Name of the environment variable that holds its key; empty where it needs none.
    pub upstream_key_env: String,
    /// Model to ask it for, whatever the request names; empty for what the request names.
    pub upstream_model: String,
    /// How that server gets a new version of the policy: not by us, as a LoRA adapter under a new name (vLLM, with `train.lora.rank`; a policy
    /// without one has to be what it was started with), or as weights from the disk (SGLang).
    pub upstream_update: Update,
}

/// How another server gets a new version of the policy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Update {
    #[default]
    None,
    Adapter,
    Weights,
}

/// A kind of server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Dialect {
    /// Nothing but OpenAI's own fields: no token ids.
    #[default]
    Openai,
    Vllm,
    Sglang,
    LlamaCpp,
}

impl Default for ServeConfig {
    fn default() -> ServeConfig {
        ServeConfig {
            host: "127.0.0.1".to_owned(),
            model: "policy".to_owned(),
            max_body_mib: 32,
            max_calls: 1024,
            max_trace_mib: 256,
            upstream: String::new(),
            dialect: Dialect::Openai,
            upstream_key_env: String::new(),
            upstream_model: String::new(),
            upstream_update: Update::None,
        }
    }
}
