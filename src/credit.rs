//! Stage `credit`: what each LLM call is held answerable for, and the table `transitions` that training reads.
//!
//! A method is either an allocation (a SQL file in `credit/` that writes `weights`), which goes with every comparison (a file that
//! writes `comparisons`), or an estimator (files `<method>_<comparison>` that write `estimates`), which goes with those comparisons that it
//! has a file for. Any other pair is refused by name. A user's own file adds an allocation, a comparison or an estimator.

mod compat;

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray};
use datafusion::scalar::ScalarValue;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::config::Config;
use crate::derive;
use crate::engine::{self, SqlFile, SqlFiles, SqlStage, StageInput};
use crate::exit::Fault;
use crate::explain::{self, Column, number, text};
use crate::lake::Freshness;
use crate::stage::{Context, Summary};
pub use compat::Compat;

/// Relations of which a method chooses the file that writes them.
const ALTERNATIVES: [&str; 8] = ["weights", "comparisons", "units", "estimates", "terms", "credits", "edges", "counts"];

/// Smallest power of the discount that a block of `credit/discounted_sums` holds: far from both ends of a double.
const SMALLEST_POWER: f64 = 1e-100;

/// Credit assignment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CreditConfig {
    /// How calls answer for their rollout: an allocation of its advantage (identical, terminal, uniform, discounted, by_agent), or an
    /// estimator of each call's own (return_to_go, state_group, gae); or one of your own.
    pub method: String,
    /// What the reward is compared with. Allocations: none, group_mean, group_std, batch_std, leave_one_out, batch_whiten, batch_mean,
    /// best_of. return_to_go: none, leave_one_out, batch_whiten. state_group: group_mean, group_std, leave_one_out. gae: none,
    /// batch_whiten.
    pub comparison: String,
    /// What is compared: rollouts, or their calls one by one, as in the paper of Agent Lightning: all of them, or those that become rows of
    /// the trainer. Rollouts where nothing is said; return_to_go and gae always compare calls.
    pub level: Option<Level>,
    /// Discount per call, 0 to 1; also that of AIR's potential.
    pub gamma: f64,
    /// Lambda of gae, 0 to 1.
    pub lambda: f64,
    /// Weight of the state's part in state_group, 0 or more.
    pub omega: f64,
    /// What becomes of a rollout that is alone in its group.
    pub singleton: Singleton,
    /// Whether rewards that the trace states for single calls count beside the outcome.
    pub step_rewards: StepRewards,
    /// Agents that are trained; every agent where the list is empty.
    pub agents: Vec<String>,
    /// Weight of each agent for by_agent; 1 where nothing is said.
    pub agent_weights: BTreeMap<String, f64>,
    /// What a rollout is worth that nobody stated a reward for.
    pub missing_reward: MissingReward,
    /// What becomes of calls whose advantage is 0 because all that they were compared with earned the same.
    pub equal_rewards: EqualRewards,
    /// Which edges between calls are written down: of a call to the one before it, where it goes on exactly where that one ended.
    pub edges: Edges,
    /// Gives what a version of Agent Lightning gives: settles every key that it depends on, so that these are left out beside it.
    pub compat: Compat,
    /// What long responses cost.
    pub overlong: OverlongConfig,
}

/// What long responses cost (DAPO, arXiv 2503.14476, section 3.4).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OverlongConfig {
    /// Tokens of a response at which the penalty is full.
    pub max_tokens: u64,
    /// Tokens before that over which the penalty grows, at least 1.
    pub buffer_tokens: u64,
    /// Full penalty, taken from the rollout's outcome, in units of reward; 0 for none.
    pub penalty: f64,
    /// What is not learned from where a response was cut at the limit: nothing is left out, that call, or its whole rollout.
    pub mask: OverlongMask,
}

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Each rollout counts once.
    Rollout,
    /// Each rollout counts once for every call.
    Transition,
    /// Each rollout counts once for every call that becomes a row of the trainer: an answered one, of an agent that is trained.
    Row,
}

/// What becomes of a rollout that is alone in its group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Singleton {
    /// Its advantage is 0, and its calls are dropped.
    #[default]
    Zero,
    /// Its reward is its advantage, as in verl.
    Keep,
}

/// What becomes of rewards stated for single calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepRewards {
    /// They count beside the outcome.
    #[default]
    Add,
    /// Only outcome and AIR count.
    Ignore,
    /// Only the outcome counts, and no AIR.
    OutcomeOnly,
}

/// What a rollout is worth that nobody stated a reward for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MissingReward {
    /// Nothing is known of it: it is compared with nothing, and its calls are dropped.
    #[default]
    Drop,
    /// 0.
    Zero,
}

/// What becomes of calls that were compared with nothing else than what they earned themselves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EqualRewards {
    /// They teach nothing, and are dropped.
    #[default]
    Drop,
    /// They stay, and count in the denominators of the loss.
    Keep,
}

/// Which edges between calls are written down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Edges {
    #[default]
    None,
    /// To the answered call before it, where the prompt begins with that call's prompt and response, id for id.
    Previous,
}

/// What is not learned from where a response was cut at the limit of tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OverlongMask {
    #[default]
    None,
    Call,
    Rollout,
}

impl Default for CreditConfig {
    fn default() -> CreditConfig {
        CreditConfig {
            method: "identical".to_owned(),
            comparison: "group_mean".to_owned(),
            level: None,
            gamma: 1.0,
            lambda: 0.95,
            omega: 1.0,
            singleton: Singleton::Zero,
            step_rewards: StepRewards::Add,
            agents: Vec::new(),
            agent_weights: BTreeMap::new(),
            missing_reward: MissingReward::Drop,
            equal_rewards: EqualRewards::Drop,
            edges: Edges::None,
            compat: Compat::None,
            overlong: OverlongConfig::default(),
        }
    }
}

impl Default for OverlongConfig {
    fn default() -> OverlongConfig {
        OverlongConfig { max_tokens: 4096, buffer_tokens: 1024, penalty: 0.0, mask: OverlongMask::None }
    }
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Level::Rollout => "rollout",
            Level::Transition => "transition",
            Level::Row => "row",
        }
    }
}

impl OverlongMask {
    fn as_str(self) -> &'static str {
        match self {
            OverlongMask::None => "none",
            OverlongMask::Call => "call",
            OverlongMask::Rollout => "rollout",
        }
    }
}

/// Runs the stage on the context's batch.
pub async fn run(context: &Context) -> Result<Summary> {
    let files = engine::sql_files(&context.config)?;
    let mut summary = engine::run(context, stage(&context.config, &files)?).await?;
    let calls = summary.rows.get("transitions").copied().unwrap_or_default();
    if calls > 0 && !summary.counts.contains_key("to_learn_from") {
        let dropped =
            summary.counts.iter().filter_map(|(name, count)| Some(format!("{count} {}", name.strip_prefix("dropped_")?)));
        let dropped = dropped.collect::<Vec<_>>().join(", ");
        summary.warnings.push(format!("none of the {calls} calls is left to learn from: {dropped}"));
    }
    Ok(summary)
}

/// Whether the stage has to run, and why.
pub async fn freshness(context: &Context) -> Result<Freshness> {
    let files = engine::sql_files(&context.config)?;
    engine::freshness(context, &stage(&context.config, &files)?).await
}

/// The stage as the configuration has it. `Fault::Usage` names a setting that cannot be, or a pair that is not defined.
pub fn stage(config: &Config, files: &SqlFiles) -> Result<SqlStage> {
    let credit = &compat::settled(&config.credit)?;
    check(credit)?;
    let pair = pair(credit, files)?;
    let reads_values = credit.method == "gae";
    let factor = if reads_values { credit.gamma * credit.lambda } else { credit.gamma };
    let mut chosen = pair.files;
    let edges = match credit.edges {
        Edges::None => "credit/edges_none",
        Edges::Previous => "credit/edges_previous",
    };
    let units = match credit.level {
        None | Some(Level::Rollout) => "credit/units_of_rollouts",
        Some(Level::Transition) => "credit/units_of_transitions",
        Some(Level::Row) => "credit/units_of_rows",
    };
    for name in [units, "credit/transitions", edges, "credit/counts"] {
        chosen.push(files.get(name)?.clone());
    }
    let mut inputs = vec![StageInput::required("derive"), StageInput::required("air")];
    inputs.push(if reads_values { StageInput::required("values") } else { StageInput::optional("values") });
    let overlong = &credit.overlong;
    Ok(SqlStage {
        name: "credit",
        inputs,
        files: files.with_what_they_read("credit", chosen, &ALTERNATIVES),
        audits: engine::audits_of("credit", files),
        relations: vec![
            ("agent_weights", agent_weights(credit)?),
            ("reward_weights", derive::reward_weights(&config.derive.reward_weights)?),
            ("trained_agents", trained_agents(credit)?),
        ],
        params: BTreeMap::from([
            ("add_air".to_owned(), ScalarValue::from(credit.step_rewards != StepRewards::OutcomeOnly)),
            ("add_stated".to_owned(), ScalarValue::from(credit.step_rewards == StepRewards::Add)),
            ("all_agents".to_owned(), ScalarValue::from(credit.agents.is_empty())),
            ("block".to_owned(), ScalarValue::from(block(factor))),
            ("comparison".to_owned(), ScalarValue::from(credit.comparison.as_str())),
            ("factor".to_owned(), ScalarValue::from(factor)),
            ("gamma".to_owned(), ScalarValue::from(credit.gamma)),
            ("keep_equal".to_owned(), ScalarValue::from(credit.equal_rewards == EqualRewards::Keep)),
            ("level".to_owned(), ScalarValue::from(pair.level.as_str())),
            ("mask_truncated".to_owned(), ScalarValue::from(overlong.mask.as_str())),
            ("missing_zero".to_owned(), ScalarValue::from(credit.missing_reward == MissingReward::Zero)),
            ("method".to_owned(), ScalarValue::from(credit.method.as_str())),
            ("omega".to_owned(), ScalarValue::from(credit.omega)),
            ("overlong_buffer".to_owned(), ScalarValue::from(overlong.buffer_tokens as f64)),
            ("overlong_penalty".to_owned(), ScalarValue::from(overlong.penalty)),
            ("overlong_tokens".to_owned(), ScalarValue::from(overlong.max_tokens as f64)),
            ("reason".to_owned(), ScalarValue::from(pair.reason)),
            ("singleton_keep".to_owned(), ScalarValue::from(credit.singleton == Singleton::Keep)),
        ]),
        config: json!({ "credit": credit, "derive.reward_weights": config.derive.reward_weights }),
    })
}

/// Calls in a block of `credit/discounted_sums`: as many as keep `factor^block` above the smallest power, at least 1.
fn block(factor: f64) -> f64 {
    if factor >= 1.0 {
        return 1e15; // more calls than any rollout has
    }
    (SMALLEST_POWER.ln() / factor.ln()).floor().max(1.0)
}

/// A method with its comparison.
struct Pair {
    files: Vec<SqlFile>,
    level: Level,
    /// What the two do, in the words of their files.
    reason: String,
}

/// Finds the files of the configured method and comparison. `Fault::Usage` names what there is instead.
fn pair(credit: &CreditConfig, files: &SqlFiles) -> Result<Pair> {
    let all = files.stage("credit");
    let writing = |relation: &str| all.iter().filter(|file| file.header.writes == relation).cloned().collect::<Vec<_>>();
    let (allocations, comparisons, estimators) = (writing("weights"), writing("comparisons"), writing("estimates"));
    let find = |list: &[SqlFile], stem: &str| list.iter().find(|file| file.stem() == stem).cloned();
    let CreditConfig { method, comparison, .. } = credit;

    if let Some(allocation) = find(&allocations, method) {
        let Some(comparison) = find(&comparisons, comparison) else {
            return Err(undefined(credit, comparisons.iter().map(SqlFile::stem)));
        };
        let reason = format!("{}; {}", sentence(&allocation), sentence(&comparison));
        let files = vec![allocation, comparison, files.get("credit/credits_of_weights")?.clone()];
        return Ok(Pair { files, level: credit.level.unwrap_or(Level::Rollout), reason });
    }
    let Some(estimator) = find(&estimators, &format!("{method}_{comparison}")) else {
        let prefix = format!("{method}_");
        let goes_with: Vec<&str> = estimators.iter().filter_map(|file| file.stem().strip_prefix(&prefix)).collect();
        if !goes_with.is_empty() {
            return Err(undefined(credit, goes_with.into_iter()));
        }
        let methods = allocations.iter().map(SqlFile::stem).chain(["return_to_go", "state_group", "gae"]);
        let message = format!(
            "`credit.method` is `{method}`, which is not defined; there are {} (and `{method}_{comparison}.sql` in your folder `credit` \
             would define it)",
            list(methods)
        );
        return Err(Fault::Usage(message).into());
    };
    let mut chosen = vec![estimator.clone(), files.get("credit/credits_of_estimates")?.clone()];
    if estimator.header.reads.iter().any(|read| read == "discounted_sums") {
        chosen.push(files.get(if method == "gae" { "credit/td_errors" } else { "credit/reward_terms" })?.clone());
    }
    let compares_rollouts = estimator.header.reads.iter().any(|read| read == "comparisons");
    if compares_rollouts {
        chosen.push(find(&comparisons, comparison).ok_or_else(|| undefined(credit, comparisons.iter().map(SqlFile::stem)))?);
    }
    let level = match (credit.level, compares_rollouts) {
        (level, true) => level.unwrap_or(Level::Rollout),
        (None | Some(Level::Transition), false) => Level::Transition,
        (Some(level), false) => {
            let level = level.as_str();
            let message =
                format!("`credit.level = \"{level}\"` is not defined for `{method}`, which compares calls; leave it out");
            return Err(Fault::Usage(message).into());
        }
    };
    Ok(Pair { level, reason: sentence(&estimator), files: chosen })
}

/// What a file does, ready to stand in a row.
fn sentence(file: &SqlFile) -> String {
    file.header.about.trim_end_matches('.').to_owned()
}

fn undefined<'a>(credit: &CreditConfig, goes_with: impl Iterator<Item = &'a str>) -> anyhow::Error {
    let CreditConfig { method, comparison, .. } = credit;
    let goes_with = list(goes_with);
    Fault::Usage(format!(
        "`credit.comparison = \"{comparison}\"` is not defined for the method `{method}`, which goes with {goes_with}"
    ))
    .into()
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn check(credit: &CreditConfig) -> Result<()> {
    let between = |name: &str, value: f64| match (0.0..=1.0).contains(&value) {
        true => Ok(()),
        false => Err(Fault::Usage(format!("`credit.{name}` is {value}; it has to be between 0 and 1"))),
    };
    let at_least_0 = |name: &str, value: f64| match value >= 0.0 && value.is_finite() {
        true => Ok(()),
        false => Err(Fault::Usage(format!("`credit.{name}` is {value}; it has to be 0 or more"))),
    };
    between("gamma", credit.gamma)?;
    between("lambda", credit.lambda)?;
    at_least_0("omega", credit.omega)?;
    at_least_0("overlong.penalty", credit.overlong.penalty)?;
    if credit.overlong.buffer_tokens == 0 {
        return Err(Fault::Usage("`credit.overlong.buffer_tokens` is 0; it has to be at least 1".to_owned()).into());
    }
    for (agent, weight) in &credit.agent_weights {
        if !weight.is_finite() {
            return Err(Fault::Usage(format!("`credit.agent_weights.{agent}` is {weight}; it has to be finite")).into());
        }
    }
    Ok(())
}

fn agent_weights(credit: &CreditConfig) -> Result<RecordBatch> {
    let agents: ArrayRef = Arc::new(credit.agent_weights.keys().map(|agent| Some(agent.as_str())).collect::<StringArray>());
    let weights: ArrayRef = Arc::new(credit.agent_weights.values().map(|weight| Some(*weight)).collect::<Float64Array>());
    Ok(RecordBatch::try_from_iter([("agent", agents), ("weight", weights)])?)
}

fn trained_agents(credit: &CreditConfig) -> Result<RecordBatch> {
    let mut names = credit.agents.clone();
    names.sort();
    names.dedup();
    let agents: ArrayRef = Arc::new(names.iter().map(|agent| Some(agent.as_str())).collect::<StringArray>());
    Ok(RecordBatch::try_from_iter([("agent", agents)])?)
}

/// What each call of a rollout was given and why, as a table for a person, under the rollouts that it was compared with.
pub async fn explain(context: &Context, rollout: &str) -> Result<String> {
    let session = explain::session(context, &["derive", "air", "credit"]).await?;
    let about = explain::rollout(context, &session, rollout).await?;
    let group = explain::rows(&session, include_str!("../pipelines/explain/group.sql"), rollout).await?;
    let earned = explain::rows(&session, include_str!("../pipelines/explain/step_rewards.sql"), rollout).await?;
    let mut rows = explain::rows(&session, include_str!("../pipelines/explain/credit.sql"), rollout).await?;
    for row in &mut rows {
        let step = text(row, "step");
        let parts = earned.iter().filter(|part| text(part, "step") == step);
        let parts: Vec<String> = parts.map(|part| format!("{} {}", text(part, "what"), number(text(part, "value")))).collect();
        row.insert("earned".to_owned(), parts.join(", "));
        row.insert("said".to_owned(), explain::said(row));
        let from = ["return_value", "baseline", "scale"].map(|name| row.get(name).map(|value| number(value)));
        if let [Some(value), Some(baseline), Some(scale)] = from {
            row.insert("compared".to_owned(), format!("({value} - {baseline}) / {scale}"));
        }
        let dropped = row.get("drop_reason").map(|reason| format!("dropped: {reason}; ")).unwrap_or_default();
        row.insert("why".to_owned(), format!("{dropped}{}", text(row, "reason")));
    }
    let members: Vec<String> = group
        .iter()
        .map(|member| {
            let class = member.get("failure_class").map(|class| format!(" ({class})")).unwrap_or_default();
            format!(
                "{} {}{class}",
                text(member, "member"),
                member.get("total_reward").map_or("-".to_owned(), |total| number(total))
            )
        })
        .collect();
    let mut lines = vec![about, format!("compared with: {}", members.join(", "))];
    if let Some(row) = rows.first() {
        let value = |name: &str| row.get(name).map_or("-".to_owned(), |value| number(value));
        lines.push(format!(
            "{} with {}, level {}: outcome {}, in all {}",
            value("method"),
            value("comparison"),
            value("level"),
            value("outcome"),
            value("total_reward")
        ));
    }
    let columns = [
        Column::new("step", 5),
        Column::new("agent", 16),
        Column::new("said", 40),
        Column::new("earned", 40),
        Column::new("compared", 28),
        Column::new("allocation", 10),
        Column::new("advantage", 10),
        Column::new("why", 80),
    ];
    lines.push(explain::table(&columns, &[], &rows)?);
    Ok(lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(settings: &[(&str, &str)], level: Option<Level>) -> String {
        let mut config = Config::default();
        for (key, value) in settings {
            match *key {
                "method" => config.credit.method = (*value).to_owned(),
                "comparison" => config.credit.comparison = (*value).to_owned(),
                _ => panic!("{key}"),
            }
        }
        config.credit.level = level;
        let files = SqlFiles::builtin().expect("built-in files parse");
        stage(&config, &files).expect_err("has to be refused").to_string()
    }

    #[test]
    fn every_defined_pair_is_accepted() {
        let files = SqlFiles::builtin().expect("built-in files parse");
        let allocations = ["identical", "terminal", "uniform", "discounted", "by_agent"];
        let comparisons =
            ["none", "group_mean", "group_std", "batch_std", "leave_one_out", "batch_whiten", "batch_mean", "best_of"];
        let estimators: [(&str, &[&str]); 3] = [
            ("return_to_go", &["none", "leave_one_out", "batch_whiten"]),
            ("state_group", &["group_mean", "group_std", "leave_one_out"]),
            ("gae", &["none", "batch_whiten"]),
        ];
        let pairs = allocations.iter().map(|method| (*method, &comparisons[..])).chain(estimators);
        for (method, comparisons) in pairs {
            for comparison in comparisons {
                let mut config = Config::default();
                (config.credit.method, config.credit.comparison) = (method.to_owned(), (*comparison).to_owned());
                let stage = stage(&config, &files).unwrap_or_else(|error| panic!("{method} with {comparison}: {error}"));
                assert_eq!(stage.files.iter().filter(|file| file.header.writes == "credits").count(), 1);
            }
        }
    }

    #[test]
    fn undefined_pairs_are_refused_by_name() {
        let error = refused(&[("method", "gae"), ("comparison", "group_std")], None);
        assert!(error.contains("`gae`") && error.contains("`group_std`".trim_matches('`')), "{error}");
        assert!(error.contains("goes with `batch_whiten`, `none`"), "{error}");
        let error = refused(&[("comparison", "group_median")], None);
        assert!(error.contains("group_median") && error.contains("`leave_one_out`"), "{error}");
        let error = refused(&[("method", "identcal")], None);
        assert!(error.contains("`identcal`") && error.contains("`identical`") && error.contains("`gae`"), "{error}");
        let error = refused(&[("method", "return_to_go"), ("comparison", "none")], Some(Level::Rollout));
        assert!(error.contains("`return_to_go`, which compares calls"), "{error}");
    }

    #[test]
    fn a_block_keeps_its_powers_in_range() {
        assert_eq!(block(0.0), 1.0);
        assert_eq!(block(1.0), 1e15);
        // ln(1e-100) / ln(0.9) = -230.2585 / -0.1053605 = 2185.43
        assert_eq!(block(0.9), 2185.0);
    }
}
