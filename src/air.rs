//! Stage `air`: automatic intermediate rewards, from calls and tool calls to the table `air_rewards`.
//!
//! Every SQL file in `air/` that writes `air_findings` is a rule; a user's own adds one or takes the place of one. A finding's value is
//! the rule's weight. What a rollout's findings come to is bounded by `air/scaled` or `air/potential`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Result;
use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray};
use datafusion::scalar::ScalarValue;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;

use crate::config::Config;
use crate::engine::{self, SqlFile, SqlFiles, SqlStage, StageInput};
use crate::exit::Fault;
use crate::explain::{self, Column};
use crate::lake::Freshness;
use crate::stage::{Context, Summary};

/// The relation that makes a SQL file a rule.
const FINDINGS: &str = "air_findings";

/// Weights of the built-in rules. Errors cost a tenth, recovery gives back at most what was lost, and success gives nothing, so that
/// going round in circles earns nothing. What need not be a fault weighs 0: it is found, and waits for a weight.
const WEIGHTS: [(&str, f64); 11] = [
    ("empty_result", 0.0),
    ("guardrail_tripped", -0.1),
    ("malformed_arguments", -0.1),
    ("recovery", 0.1),
    ("refusal_or_empty", -0.1),
    ("repeated_call", -0.1),
    ("slow_tool", 0.0),
    ("tool_error", -0.1),
    ("tool_success", 0.0),
    ("truncated_response", -0.1),
    ("unknown_tool", -0.1),
];

/// Automatic intermediate rewards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AirConfig {
    /// How findings become rewards: scaled down to the cap, or as the shaping of a potential.
    pub form: Form,
    /// Most that the rewards of a rollout may come to, in units of reward, 0 or more. Outcomes that differ by more than twice the cap
    /// keep their order. In the potential form, the bound of the potential.
    pub cap: f64,
    /// Milliseconds that a tool call may take before `slow_tool` finds it.
    pub slow_tool_ms: f64,
    /// Rules that run, by name; every rule where the list is empty.
    pub rules: Vec<String>,
    /// What one finding of each rule weighs, in units of reward. Rules that are not named keep their default, a user's own 0.
    #[serde(deserialize_with = "over_the_defaults")]
    pub weights: BTreeMap<String, f64>,
}

/// How findings become rewards.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// The weight, times `min(1, cap / sum of the rollout's absolute weights)`.
    #[default]
    Scaled,
    /// `gamma * phi_{t+1} - phi_t`, phi the clipped sum of what was found before.
    Potential,
}

impl Default for AirConfig {
    fn default() -> AirConfig {
        AirConfig { form: Form::Scaled, cap: 0.4, slow_tool_ms: 30_000.0, rules: Vec::new(), weights: default_weights() }
    }
}

fn default_weights() -> BTreeMap<String, f64> {
    WEIGHTS.iter().map(|(rule, weight)| ((*rule).to_owned(), *weight)).collect()
}

/// The default weights, with those stated put over them.
fn over_the_defaults<'de, D: Deserializer<'de>>(stated: D) -> Result<BTreeMap<String, f64>, D::Error> {
    let mut weights = default_weights();
    weights.extend(BTreeMap::<String, f64>::deserialize(stated)?);
    Ok(weights)
}

/// Runs the stage on the context's batch. A rule of the user's own that has no weight is warned of.
pub async fn run(context: &Context) -> Result<Summary> {
    let files = engine::sql_files(&context.config)?;
    let unweighted = unweighted(&context.config.air, &rules(&context.config.air, &files)?);
    let mut summary = engine::run(context, stage(&context.config, &files)?).await?;
    for rule in unweighted {
        summary.warnings.push(format!("rule `{rule}` has no weight, so what it finds is worth 0; set `air.weights.{rule}`"));
    }
    if let Some(count) = summary.counts.get("failed_tools_without_asker") {
        summary
            .warnings
            .push(format!("{count} failed tool calls belong to no LLM call, so that no rule can hold one answerable for them"));
    }
    Ok(summary)
}

/// Whether the stage has to run, and why.
pub async fn freshness(context: &Context) -> Result<Freshness> {
    let files = engine::sql_files(&context.config)?;
    engine::freshness(context, &stage(&context.config, &files)?).await
}

/// The stage as the configuration has it. `Fault::Usage` names a setting that cannot be.
pub fn stage(config: &Config, files: &SqlFiles) -> Result<SqlStage> {
    let air = &config.air;
    check(air, files)?;
    let mut chosen = rules(air, files)?;
    let form = match air.form {
        Form::Scaled => "air/scaled",
        Form::Potential => "air/potential",
    };
    chosen.push(files.get(form)?.clone());
    chosen.push(files.get("air/counts")?.clone());
    let weights = weights(air, &chosen)?;
    Ok(SqlStage {
        name: "air",
        inputs: vec![StageInput::required("ingest"), StageInput::required("derive")],
        files: files.with_what_they_read("air", chosen, &[FINDINGS, "air_rewards", "counts"]),
        audits: engine::audits_of("air", files),
        relations: vec![("air_weights", weights)],
        params: BTreeMap::from([
            ("cap".to_owned(), ScalarValue::from(air.cap)),
            ("gamma".to_owned(), ScalarValue::from(config.credit.gamma)),
            ("potential".to_owned(), ScalarValue::from(air.form == Form::Potential)),
            ("slow_tool_ms".to_owned(), ScalarValue::from(air.slow_tool_ms)),
        ]),
        config: match air.form {
            Form::Scaled => json!({ "air": air }),
            Form::Potential => json!({ "air": air, "credit.gamma": config.credit.gamma }),
        },
    })
}

/// The rules in force.
fn rules(air: &AirConfig, files: &SqlFiles) -> Result<Vec<SqlFile>> {
    let all: Vec<SqlFile> = files.stage("air").into_iter().filter(|file| file.header.writes == FINDINGS).collect();
    if let Some(unknown) = air.rules.iter().find(|name| !all.iter().any(|file| file.stem() == name.as_str())) {
        return Err(
            Fault::Usage(format!("`air.rules` names `{unknown}`, but there is no such rule; there are {}", names(&all))).into()
        );
    }
    Ok(all.into_iter().filter(|file| air.rules.is_empty() || air.rules.iter().any(|name| name == file.stem())).collect())
}

fn names(rules: &[SqlFile]) -> String {
    rules.iter().map(|file| format!("`{}`", file.stem())).collect::<Vec<_>>().join(", ")
}

fn check(air: &AirConfig, files: &SqlFiles) -> Result<()> {
    if !(air.cap >= 0.0 && air.cap.is_finite()) {
        return Err(Fault::Usage(format!("`air.cap` is {}; it has to be 0 or more", air.cap)).into());
    }
    if air.slow_tool_ms.is_nan() {
        return Err(Fault::Usage("`air.slow_tool_ms` is no number".to_owned()).into());
    }
    let all: Vec<SqlFile> = files.stage("air").into_iter().filter(|file| file.header.writes == FINDINGS).collect();
    for (rule, weight) in &air.weights {
        if !all.iter().any(|file| file.stem() == rule) {
            return Err(Fault::Usage(format!(
                "`air.weights` names `{rule}`, but there is no such rule; there are {}",
                names(&all)
            ))
            .into());
        }
        if !weight.is_finite() {
            return Err(Fault::Usage(format!("`air.weights.{rule}` is {weight}; it has to be finite")).into());
        }
    }
    Ok(())
}

/// Rules that ask for a weight and have none.
fn unweighted(air: &AirConfig, rules: &[SqlFile]) -> BTreeSet<String> {
    let asks = |file: &&SqlFile| file.header.reads.iter().any(|read| read == "air_weights");
    rules.iter().filter(asks).map(|file| file.stem().to_owned()).filter(|rule| !air.weights.contains_key(rule)).collect()
}

/// The relation `air_weights`: every weight that is stated or a default, and 0 for the rules without.
fn weights(air: &AirConfig, rules: &[SqlFile]) -> Result<RecordBatch> {
    let mut weights = air.weights.clone();
    weights.extend(unweighted(air, rules).into_iter().map(|rule| (rule, 0.0)));
    let rules: ArrayRef = Arc::new(weights.keys().map(|rule| Some(rule.as_str())).collect::<StringArray>());
    let values: ArrayRef = Arc::new(weights.values().map(|weight| Some(*weight)).collect::<Float64Array>());
    Ok(RecordBatch::try_from_iter([("rule", rules), ("weight", values)])?)
}

/// What was found in a rollout, call by call, as a table for a person: the evidence, what it weighs and what the cap left of it.
pub async fn explain(context: &Context, rollout: &str) -> Result<String> {
    let session = explain::session(context, &["ingest", "derive", "air"]).await?;
    let about = explain::rollout(context, &session, rollout).await?;
    let mut rows = explain::rows(&session, include_str!("../pipelines/explain/air.sql"), rollout).await?;
    for row in &mut rows {
        row.insert("said".to_owned(), explain::said(row));
        row.insert("evidence".to_owned(), explain::evidence(row));
    }
    let columns = [
        Column::new("step", 5),
        Column::new("agent", 16),
        Column::new("said", 44),
        Column::new("rule", 20),
        Column::new("weight", 8),
        Column::new("scale", 8),
        Column::new("value", 8),
        Column::new("evidence", 60),
    ];
    let total: f64 = rows.iter().filter_map(|row| row.get("value")).filter_map(|value| value.parse::<f64>().ok()).sum();
    let form = match context.config.air.form {
        Form::Scaled => "scaled",
        Form::Potential => "potential",
    };
    let air = format!("AIR {total:.4}, form {form}, cap {}", context.config.air.cap);
    Ok(format!("{about}\n{air}\n{}", explain::table(&columns, &["step", "agent", "said"], &rows)?))
}
