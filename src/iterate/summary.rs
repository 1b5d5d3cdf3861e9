//! What an iteration came to, for the person who watches.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Result;

use crate::explain;
use crate::rollout::MODEL_MS;
use crate::stage::Context;

/// What an iteration came to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Iteration {
    pub batch: String,
    pub rollouts: f64,
    /// Mean reward of its rollouts.
    pub reward: Option<f64>,
    /// Mean of what AIR gave a rollout.
    pub air: f64,
    /// Mean tokens of a response.
    pub tokens: Option<f64>,
    /// Mean LLM calls of a rollout.
    pub calls: f64,
    /// Share of tool calls that failed.
    pub tool_errors: Option<f64>,
    /// Rollouts by failure class, where there are any.
    pub failures: BTreeMap<String, u64>,
    /// Metrics of the optimiser's steps, where it ran.
    pub train: BTreeMap<String, f64>,
    pub learned_from: u64,
    /// Seconds that passes through the model took, forward and backward, with the loss between them.
    pub model_seconds: f64,
    /// Seconds by stage, and under `loop` those between them.
    pub seconds: BTreeMap<String, f64>,
}

/// Metrics of training that are shown, as `explain/steps` names them, and how they are called here.
const SHOWN: [(&str, &str); 5] = [
    ("kl", "KL"),
    ("entropy", "entropy"),
    ("clipped", "clipped"),
    ("grad_norm", "gradient"),
    ("mismatch", "sampler and trainer apart by at most"),
];

/// Reads the tables of the context's batch.
///
/// * `counts`: what the stages told at their end.
pub async fn of(context: &Context, seconds: BTreeMap<String, f64>, counts: BTreeMap<String, u64>) -> Result<Iteration> {
    let session = explain::session(context, &["derive", "air"]).await?;
    let query = include_str!("../../pipelines/explain/iteration.sql");
    let rows = explain::rows(&session, query, "").await?;
    let row = rows.first().cloned().unwrap_or_default();
    let number = |name: &str| row.get(name).and_then(|text| text.parse::<f64>().ok());
    let mut train = BTreeMap::new();
    if context.lake.manifest("train", &context.batch).await?.is_some() {
        let session = explain::session(context, &["train"]).await?;
        let rows = explain::rows(&session, include_str!("../../pipelines/explain/steps.sql"), "").await?;
        let numbers = rows.iter().flatten().filter_map(|(name, text)| Some((name.clone(), text.parse().ok()?)));
        train.extend(numbers);
    }
    let failures = counts.iter().filter_map(|(name, count)| Some((name.strip_prefix("failed_")?.to_owned(), *count)));
    let failures =
        failures.filter(|(class, _)| ["agent", "timeout", "infrastructure", "reward_missing"].contains(&class.as_str()));
    Ok(Iteration {
        batch: context.batch.clone(),
        rollouts: number("rollouts").unwrap_or(0.0),
        reward: number("reward"),
        air: number("air").unwrap_or(0.0),
        tokens: number("tokens"),
        calls: number("calls").unwrap_or(0.0),
        tool_errors: number("tool_errors"),
        failures: failures.collect(),
        model_seconds: counts.get(MODEL_MS).map_or(0.0, |ms| *ms as f64 / 1e3) + train.get("seconds").copied().unwrap_or(0.0),
        train,
        learned_from: counts.get("to_learn_from").copied().unwrap_or(0),
        seconds,
    })
}

impl fmt::Display for Iteration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.batch)?;
        match self.reward {
            Some(reward) => write!(f, "reward {reward:.3}")?,
            None => write!(f, "no reward")?,
        }
        write!(f, " over {} rollouts, AIR {:+.3}, {:.1} calls", self.rollouts, self.air, self.calls)?;
        if let Some(tokens) = self.tokens {
            write!(f, " of {tokens:.1} tokens")?;
        }
        if let Some(share) = self.tool_errors {
            write!(f, ", {:.0} % of tools failed", 100.0 * share)?;
        }
        for (class, count) in &self.failures {
            write!(f, ", {count} {}", class.replace('_', " "))?;
        }
        write!(f, ", learned from {} calls", self.learned_from)?;
        for (name, shown) in SHOWN {
            if let Some(value) = self.train.get(name) {
                write!(f, ", {shown} {value:.4}")?;
            }
        }
        let total: f64 = self.seconds.values().sum();
        let stages: Vec<String> = self.seconds.iter().map(|(stage, seconds)| format!("{stage} {seconds:.1}")).collect();
        let share = 100.0 * self.model_seconds / total.max(1e-9);
        write!(f, "; {total:.1} s ({}), {share:.0} % of it in the model", stages.join(", "))
    }
}
