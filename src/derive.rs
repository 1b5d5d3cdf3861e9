//! The stage `derive`: spans become rollouts, calls, tool calls and rewards, by the SQL files of `pipelines/derive/`.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::engine::{self, SqlStage, StageInput};
use crate::exit::Fault;
use crate::lake::Freshness;
use crate::stage::{Context, Summary};

/// How spans become tables.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DeriveConfig {
    /// Weight of each reward dimension in `rollouts.reward`, by the dimension's name; dimensions that are not named do not count. Where
    /// nothing is said, the primary dimension counts alone.
    pub reward_weights: BTreeMap<String, f64>,
}

/// Writes `rollouts`, `calls`, `tool_calls` and `rewards` of the batch, where they are stale.
pub async fn run(context: &Context) -> Result<Summary> {
    let mut summary = engine::run(context, stage(&context.config)?).await?;
    let told = [
        ("rewards_ambiguous", "rewards could be about several calls: they are kept, flagged, and attached to none"),
        (
            "rewards_unattached",
            "rewards belong to no call: stated before the first one, or about something that was not recorded",
        ),
        ("rollouts_without_calls", "runs have no LLM call, so they are no rollouts"),
    ];
    for (name, what) in told {
        if let Some(count) = summary.counts.get(name).filter(|count| **count > 0) {
            summary.warnings.push(format!("{count} {what}"));
        }
    }
    Ok(summary)
}

/// Whether the stage has to run, and why.
pub async fn freshness(context: &Context) -> Result<Freshness> {
    engine::freshness(context, &stage(&context.config)?).await
}

/// The stage as the configuration has it. `Fault::Usage` names a setting that cannot be.
pub fn stage(config: &Config) -> Result<SqlStage> {
    let files = engine::sql_files(config)?;
    let config = &config.derive;
    Ok(SqlStage {
        name: "derive",
        inputs: vec![StageInput::required("ingest")],
        files: files.stage("derive"),
        audits: engine::audits_of("derive", &files),
        relations: vec![("reward_weights", reward_weights(&config.reward_weights)?)],
        params: BTreeMap::new(),
        config: serde_json::to_value(config).context("the settings of derive cannot be written as JSON")?,
    })
}

/// The relation `reward_weights`: (name text, weight double), a row for each dimension that counts. `credit` weighs step rewards by it.
pub(crate) fn reward_weights(weights: &BTreeMap<String, f64>) -> Result<RecordBatch> {
    if let Some((name, weight)) = weights.iter().find(|(_, weight)| !weight.is_finite()) {
        return Err(Fault::Usage(format!("`derive.reward_weights.{name}` is {weight}; write a finite number")).into());
    }
    let names: ArrayRef = Arc::new(StringArray::from_iter_values(weights.keys()));
    let values: ArrayRef = Arc::new(Float64Array::from_iter_values(weights.values().copied()));
    Ok(RecordBatch::try_from_iter([("name", names), ("weight", values)])?)
}
