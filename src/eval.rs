//! The stage `eval`: what a policy earns on tasks that it was not trained on, greedy and at k tries.
//!
//! The batch of an evaluation is named after the policy and the split (`eval-v0003-val`), so that each is made once. It never feeds training:
//! its traces stay in `traces/`, its rows in the table `evals`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::exit::Fault;
use crate::lake::{Freshness, Input, Lineage};
use crate::rollout::run::{Done, Job, Work};
use crate::rollout::served::Served;
use crate::rollout::tasks::{self, SPLITS, Task};
use crate::rollout::{self, plan, rollout_id};
use crate::schema;
use crate::stage::{Context, Summary};

/// Standard normal quantile of a two-sided interval of 95 %.
const Z95: f64 = 1.959_963_984_540_054;

/// Evaluation of a policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EvalConfig {
    /// Split that is evaluated: train, val or test.
    pub split: String,
    /// Tasks, the same ones every time; 0 for all of the split.
    pub tasks: usize,
    /// Whether each task is answered greedily once.
    pub greedy: bool,
    /// Answers to each task that are drawn at `temperature`: the mean reward is over them, and pass@k counts a task that one of them solves.
    pub samples: usize,
    /// Temperature of those.
    pub temperature: f64,
    /// Least reward of an answer that solves its task, for pass@k.
    pub pass_reward: f64,
}

impl Default for EvalConfig {
    fn default() -> EvalConfig {
        EvalConfig { split: "val".to_owned(), tasks: 0, greedy: true, samples: 1, temperature: 1.0, pass_reward: 1.0 }
    }
}

/// What an evaluation came to.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Scores {
    pub policy_version: u64,
    pub split: String,
    pub tasks: u64,
    /// Mean reward of the drawn answers, over tasks.
    pub sampled: Option<Mean>,
    /// Mean reward of the greedy answers.
    pub greedy: Option<Mean>,
    /// Share of tasks that at least one of the drawn answers solves.
    pub pass_at_k: Option<f64>,
    pub k: usize,
}

/// A mean over tasks with its interval of 95 %.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Mean {
    pub mean: f64,
    /// Half the width of the interval: normal, from the spread over tasks.
    pub margin: f64,
}

/// The name of an evaluation's batch.
pub fn batch_of(version: u64, split: &str) -> String {
    format!("eval-v{version:04}-{split}")
}

/// Evaluates a policy, the newest where no version is given. The context's batch is not looked at.
pub async fn run(context: &Context, version: Option<u64>) -> Result<(Summary, Scores)> {
    let started = Instant::now();
    let (config, settings) = (&context.config.eval, &context.config.rollout);
    context.config.agent.check()?;
    check(config)?;
    let folder = context.config.folder.clone().unwrap_or_else(|| ".".into());
    let all = tasks::read(&folder.join(&settings.tasks))?;
    let chosen = tasks::choose(&all, &config.split, config.tasks, 0, 0);
    if chosen.is_empty() {
        return Err(Fault::Usage(format!("`{}` has no task of the split `{}`", settings.tasks, config.split)).into());
    }
    let policy = context.lake.policy_manifest(version).await?;
    let policy_version = policy.policy_version().unwrap_or(0);
    let batch = batch_of(policy_version, &config.split);
    let mut run = context.lake.begin("eval", &batch).await?;
    let lineage = Lineage {
        inputs: vec![
            policy.input(&["policy"])?,
            Input { name: settings.tasks.clone(), tables: Vec::new(), hash: rollout::hash_of(&chosen)?, size_bytes: 0 },
        ],
        ..Lineage::new(
            "eval",
            rollout::settings(json!({ "eval": config, "agent": context.config.agent, "seed": settings.seed })),
        )?
    };
    let context = &Context {
        lake: context.lake.clone(),
        batch: batch.clone(),
        config: context.config.clone(),
        rebuild: context.rebuild,
        dry_run: context.dry_run,
        progress: context.progress.clone(),
        stop: context.stop.clone(),
    };
    let jobs = jobs(&batch, &chosen, config);
    let freshness = lineage.freshness(run.previous());
    if let Some(summary) = context.would_run("eval", &freshness).filter(|_| !matches!(freshness, Freshness::Fresh)) {
        return Ok((summary, Scores::default()));
    }
    let standing = context.standing(&freshness, run.previous(), started);
    if standing.is_none() {
        let stale = matches!(freshness, Freshness::Stale(_));
        plan::begin(&context.lake, &batch, &plan::of(&lineage), context.rebuild || stale).await?;
    }
    let done = match &standing {
        Some(_) => rollout::run::read_all(context, &jobs).await?,
        None => {
            let served = Served::start(context, &policy).await?;
            let work =
                Work { context, served: &served, folder: &folder, seed: settings.seed, iteration: 0, split: &config.split };
            let worked = work.all(&jobs).await;
            served.stop().await?;
            worked?
        }
    };
    let scores = scores(config, policy_version, &jobs, &done);
    if let Some(summary) = standing {
        return Ok((summary, scores));
    }
    context.stop.check()?;
    let mut writer = run.writer("evals", 0)?;
    writer.write(&rows(config, policy_version, &jobs, &done)?)?;
    writer.finish().await?;
    run.name_traces(&jobs.iter().map(|job| job.rollout_id.clone()).collect::<Vec<_>>()).await?;
    let summary = Summary::of(&run.commit(lineage, rollout::counts(&done)).await?, "done", started);
    Ok((summary, scores))
}

fn check(config: &EvalConfig) -> Result<()> {
    if !SPLITS.contains(&config.split.as_str()) {
        return Err(Fault::Usage(format!("`eval.split` is `{}`; it is one of train, val and test", config.split)).into());
    }
    if !config.greedy && config.samples == 0 {
        return Err(Fault::Usage("`eval.greedy` is off and `eval.samples` is 0; nothing would run".to_owned()).into());
    }
    if !(config.temperature >= 0.0 && config.temperature.is_finite()) {
        return Err(Fault::Usage("`eval.temperature` has to be 0 or more".to_owned()).into());
    }
    Ok(())
}

/// Sample 0 of each task is greedy, the others are drawn.
fn jobs<'a>(batch: &str, chosen: &[&'a Task], config: &EvalConfig) -> Vec<Job<'a>> {
    let mut chosen = chosen.to_vec();
    chosen.sort_by(|one, other| one.id.cmp(&other.id));
    let samples = |task: &'a Task| {
        let job = move |sample: usize| Job {
            rollout_id: rollout_id(batch, &task.id, sample),
            task,
            sample: sample as u64,
            temperature: Some(if sample == 0 { 0.0 } else { config.temperature }),
            top_p: None,
            max_tokens: None,
        };
        let first = usize::from(!config.greedy);
        (first..=config.samples).map(job)
    };
    chosen.into_iter().flat_map(samples).collect()
}

fn rows(config: &EvalConfig, version: u64, jobs: &[Job<'_>], done: &[Done]) -> Result<RecordBatch> {
    let text = |column: Vec<&str>| -> ArrayRef { Arc::new(StringArray::from(column)) };
    let columns: Vec<ArrayRef> = vec![
        text(done.iter().map(|done| done.task_id.as_str()).collect()),
        Arc::new(Int64Array::from_iter_values(done.iter().map(|done| done.sample.cast_signed()))),
        text(done.iter().map(|done| done.rollout_id.as_str()).collect()),
        text(vec![config.split.as_str(); done.len()]),
        Arc::new(Int64Array::from_value(version.cast_signed(), done.len())),
        Arc::new(Float64Array::from_iter_values(jobs.iter().map(|job| job.temperature.unwrap_or(1.0)))),
        Arc::new(done.iter().map(|done| done.reward).collect::<Float64Array>()),
        Arc::new(done.iter().map(|done| done.failure_class.clone()).collect::<StringArray>()),
        Arc::new(Int64Array::from_iter_values(done.iter().map(|done| done.calls.cast_signed()))),
    ];
    Ok(RecordBatch::try_new(Arc::clone(&schema::table("evals")?.arrow), columns)?)
}

fn scores(config: &EvalConfig, policy_version: u64, jobs: &[Job<'_>], done: &[Done]) -> Scores {
    let of = |greedy: bool| {
        let mut by_task: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for (_, done) in jobs.iter().zip(done).filter(|(job, _)| (job.sample == 0) == greedy) {
            if let Some(reward) = done.reward {
                by_task.entry(&done.task_id).or_default().push(reward);
            }
        }
        by_task
    };
    let (greedy, sampled) = (of(true), of(false));
    let mean_of_tasks = |by_task: &BTreeMap<&str, Vec<f64>>| {
        mean(&by_task.values().map(|rewards| rewards.iter().sum::<f64>() / rewards.len() as f64).collect::<Vec<_>>())
    };
    let solved = sampled.values().filter(|rewards| rewards.iter().any(|reward| *reward >= config.pass_reward)).count();
    let tasks: BTreeSet<&str> = done.iter().map(|done| done.task_id.as_str()).collect();
    Scores {
        policy_version,
        split: config.split.clone(),
        tasks: tasks.len() as u64,
        sampled: mean_of_tasks(&sampled),
        greedy: mean_of_tasks(&greedy),
        pass_at_k: (!sampled.is_empty()).then(|| solved as f64 / sampled.len() as f64),
        k: config.samples,
    }
}

/// Mean and margin of some values; `None` of none. Of one the margin is not known, and given as infinite.
pub fn mean(values: &[f64]) -> Option<Mean> {
    let count = values.len() as f64;
    let mean = (!values.is_empty()).then(|| values.iter().sum::<f64>() / count)?;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
    let margin = if values.len() > 1 { Z95 * (variance / count).sqrt() } else { f64::INFINITY };
    Some(Mean { mean, margin })
}

impl std::fmt::Display for Mean {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.3} ± {:.3}", self.mean, self.margin)
    }
}

impl std::fmt::Display for Scores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "policy {} on {} tasks of {}", self.policy_version, self.tasks, self.split)?;
        if let Some(sampled) = self.sampled {
            write!(f, ", reward {sampled}")?;
        }
        if let Some(greedy) = self.greedy {
            write!(f, ", greedy {greedy}")?;
        }
        match self.pass_at_k.filter(|_| self.k > 1) {
            Some(share) => write!(f, ", pass@{} {share:.3}", self.k),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_has_a_margin() {
        // Three of four: variance 0.25, standard error 0.25.
        let found = mean(&[1.0, 1.0, 1.0, 0.0]).unwrap();
        assert!((found.mean - 0.75).abs() < 1e-12 && (found.margin - 0.489_990_996).abs() < 1e-8, "{found:?}");
        assert_eq!(mean(&[]), None);
        assert_eq!(mean(&[0.5]).unwrap().margin, f64::INFINITY);
    }

    #[test]
    fn greedy_and_drawn_answers_are_scored_apart() {
        let task = |id: &str| -> Task { serde_json::from_value(json!({"id": id, "input": "?"})).unwrap() };
        let (one, other) = (task("a"), task("b"));
        let config = EvalConfig { samples: 2, ..EvalConfig::default() };
        let jobs = jobs("eval-v0001-val", &[&other, &one], &config);
        assert_eq!(
            jobs.iter().map(|job| (job.task.id.as_str(), job.sample)).collect::<Vec<_>>(),
            [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1), ("b", 2)]
        );
        assert_eq!(jobs.iter().map(|job| job.temperature).collect::<Vec<_>>()[..2], [Some(0.0), Some(1.0)]);
        let rewards = [Some(1.0), Some(0.0), Some(1.0), Some(0.0), None, Some(0.0)];
        let done: Vec<Done> = jobs
            .iter()
            .zip(rewards)
            .map(|(job, reward)| Done { task_id: job.task.id.clone(), sample: job.sample, reward, ..Done::default() })
            .collect();
        let scores = scores(&config, 1, &jobs, &done);
        assert_eq!((scores.greedy.unwrap().mean, scores.sampled.unwrap().mean, scores.pass_at_k), (0.5, 0.25, Some(0.5)));
    }
}
