//! How a rollout ended, and what it was worth.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How a rollout ended.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    pub status: Status,
    /// What went wrong, for people.
    pub message: Option<String>,
    /// Another attempt follows: this one is kept beside it, under a name of its own.
    pub retried: bool,
    /// More to say about the run, under keys of one's own.
    pub attributes: Vec<(String, Value)>,
}

/// Whose fault it is where a rollout went wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    #[default]
    Succeeded,
    /// The agent's fault: it counts.
    Failed,
    /// The agent took too long.
    Timeout,
    /// A server or a machine went away: never trained on.
    Infrastructure,
}

impl Status {
    /// The status that the record states.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Succeeded => "succeeded",
            Status::Failed => "failed",
            Status::Timeout => "timeout",
            Status::Infrastructure => "cancelled",
        }
    }

    pub fn failure_class(self) -> Option<&'static str> {
        match self {
            Status::Succeeded => None,
            Status::Failed => Some("agent"),
            Status::Timeout => Some("timeout"),
            Status::Infrastructure => Some("infrastructure"),
        }
    }
}

/// A reward, as `POST .../reward` takes it and graders state it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reward {
    #[serde(default = "reward_name")]
    pub name: String,
    /// Finite.
    #[serde(alias = "reward")]
    pub value: Option<f64>,
    /// Beside or instead of a value.
    #[serde(default)]
    pub label: Option<String>,
    /// agent, grader, human or fallback.
    #[serde(default = "agent")]
    pub source: String,
    #[serde(default)]
    pub comment: Option<String>,
    /// The main dimension.
    #[serde(default = "yes")]
    pub primary: bool,
    /// About the whole rollout, and not about what was done last.
    #[serde(default, rename = "final")]
    pub is_final: bool,
    /// What it is about.
    #[serde(default)]
    pub response_id: Option<String>,
    #[serde(default)]
    pub tool_call_id: Option<String>,
    #[serde(default)]
    pub span_id: Option<String>,
}

impl Reward {
    /// What a grader says about a whole rollout.
    pub fn outcome(value: f64, source: &str) -> Reward {
        Reward {
            name: reward_name(),
            value: Some(value),
            label: None,
            source: source.to_owned(),
            comment: None,
            primary: true,
            is_final: true,
            response_id: None,
            tool_call_id: None,
            span_id: None,
        }
    }

    /// Says what cannot be.
    pub fn check(&self) -> Result<(), String> {
        if self.value.is_some_and(|value| !value.is_finite()) {
            return Err(format!("the reward `{}` is no finite number", self.name));
        }
        if self.value.is_none() && self.label.is_none() {
            return Err(format!("the reward `{}` has neither a `value` nor a `label`", self.name));
        }
        if !matches!(self.source.as_str(), "agent" | "grader" | "human" | "fallback") {
            return Err(format!("the reward's source is `{}`; use agent, grader, human or fallback", self.source));
        }
        Ok(())
    }
}

fn reward_name() -> String {
    "reward".to_owned()
}

fn agent() -> String {
    "agent".to_owned()
}

fn yes() -> bool {
    true
}
