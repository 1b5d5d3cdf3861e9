//! The stage `rollout`: tasks and a policy become fresh traces.
//!
//! ```text
//! tasks ─ plan ─► rollouts ─ attempts ─► agent ◄─ HTTP ─► server ◄─ policy
//!                                          │ answer            │ calls, spans
//!                                          └─ grader ─ reward ─┴─► <lake>/traces/batch=<batch>/<rollout>.otlp.jsonl.zst
//! ```
//!
//! Every rollout is in the lake as soon as it has ended, and the manifest that names them all is written last: a run that is killed goes
//! on with those that are missing. What an agent does wrong is scored or tried again, and never stops the run.

pub mod agent;
pub mod attempt;
pub mod calculator;
pub mod expression;
pub mod plan;
pub mod process;
pub mod run;
pub mod served;
pub mod tasks;
pub mod urls;
pub mod worker;

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context as _, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::exit::Fault;
use crate::lake::{Input, Lineage, hash_hex};
use crate::stage::{Context, Summary};
use run::{Done, Job, Work};
use served::Served;
use tasks::{SPLITS, Task};

/// Which tasks are run, how often, and how the policy is sampled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RolloutConfig {
    /// File of tasks, beside the pipeline file: JSON lines of `id`, `input`, and where known `expected`, `split` and `metadata`.
    pub tasks: String,
    /// Split that is run: train, val or test.
    pub split: String,
    /// Tasks of one iteration, chosen by `seed` so that every epoch takes each once; 0 for all.
    pub tasks_per_iteration: usize,
    /// Rollouts of each task: the group that they are compared in.
    pub samples: usize,
    /// Seed of the choice of tasks and of every sampled token.
    pub seed: u64,
    /// Temperature of every call, whatever the agent asks for; where nothing is said the agent's own counts.
    pub temperature: Option<f64>,
}

impl Default for RolloutConfig {
    fn default() -> RolloutConfig {
        RolloutConfig {
            tasks: String::new(),
            split: "train".to_owned(),
            tasks_per_iteration: 0,
            samples: 8,
            seed: 0,
            temperature: Some(1.0),
        }
    }
}

/// What a caller asks for beside the settings.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Version of the policy; the newest where nothing is said.
    pub version: Option<u64>,
    /// The part of the rollouts that this process runs.
    pub shard: Option<Shard>,
}

/// Part `index` of `count`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    pub index: usize,
    pub count: usize,
}

impl std::str::FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Shard, String> {
        let parts = text.split_once('/').and_then(|(index, count)| Some((index.parse().ok()?, count.parse().ok()?)));
        match parts {
            Some((index, count)) if index < count => Ok(Shard { index, count }),
            _ => Err(format!("`{text}` is no shard; write `0/4` for the first of four")),
        }
    }
}

/// Runs the tasks of the context's batch and commits their traces.
pub async fn run(context: &Context, options: &Options) -> Result<Summary> {
    let started = Instant::now();
    let (config, agent) = (&context.config.rollout, &context.config.agent);
    agent.check()?;
    check(config)?;
    let folder = context.config.folder.clone().unwrap_or_else(|| ".".into());
    let tasks_path = folder.join(&config.tasks);
    let tasks = tasks::read(&tasks_path)?;
    let iteration = tasks::iteration_of(&context.batch);
    let chosen = tasks::choose(&tasks, &config.split, config.tasks_per_iteration, config.seed, iteration);
    if chosen.is_empty() {
        let message = format!("`{}` has no task of the split `{}`", tasks_path.display(), config.split);
        return Err(Fault::Usage(message).into());
    }

    let mut run = context.lake.begin("rollout", &context.batch).await?;
    // A batch that was rolled out stays what it is, whatever policy is the newest by now.
    let before = run.previous().and_then(|manifest| manifest.counts.get("policy_version").copied());
    let version = options.version.or(before.filter(|_| !context.rebuild));
    let policy = context.lake.policy_manifest(version).await?;
    let lineage = Lineage {
        inputs: vec![
            policy.input(&["policy"])?,
            Input { name: config.tasks.clone(), tables: Vec::new(), hash: hash_of(&chosen)?, size_bytes: 0 },
        ],
        ..Lineage::new("rollout", settings(json!({ "rollout": config, "agent": agent, "serve": context.config.serve })))?
    };
    let freshness = lineage.freshness(run.previous());
    if let Some(summary) =
        context.standing(&freshness, run.previous(), started).or_else(|| context.would_run("rollout", &freshness))
    {
        return Ok(summary);
    }

    let jobs = jobs(&context.batch, &chosen, config);
    let stale = matches!(freshness, crate::lake::Freshness::Stale(_));
    plan::begin(&context.lake, &context.batch, &plan::of(&lineage), context.rebuild || stale).await?;
    let served = Served::start(context, &policy).await?;
    let work = Work { context, served: &served, folder: &folder, seed: config.seed, iteration, split: &config.split };
    let mine: Vec<Job> = match options.shard {
        Some(shard) => jobs.iter().skip(shard.index).step_by(shard.count).cloned().collect(),
        None => jobs.clone(),
    };
    let worked = work.all(&mine).await;
    let version = served.version;
    served.stop().await?;
    let done = worked?;
    context.stop.check()?;

    let finished = plan::finished(&context.lake, &context.batch).await?;
    let missing = jobs.iter().filter(|job| !finished.contains(&job.rollout_id)).count();
    if missing > 0 {
        let message = format!("{} of batch `{}` ran; {missing} rollouts are left to other shards", done.len(), context.batch);
        context.progress.message(message);
        let status = "done".to_owned();
        return Ok(Summary {
            stage: "rollout".into(),
            batch: context.batch.clone(),
            status,
            counts: counts(&done),
            ..Summary::default()
        });
    }
    let mut counts = counts(&done);
    counts.insert("policy_version".to_owned(), version);
    run.name_traces(&jobs.iter().map(|job| job.rollout_id.clone()).collect::<Vec<_>>()).await?;
    let mut summary = Summary::of(&run.commit(lineage, counts).await?, "done", started);
    summary.warnings = warnings(&done);
    Ok(summary)
}

fn check(config: &RolloutConfig) -> Result<()> {
    if config.tasks.is_empty() {
        return Err(Fault::Usage("which tasks? name their file in `rollout.tasks`".to_owned()).into());
    }
    if !SPLITS.contains(&config.split.as_str()) {
        return Err(Fault::Usage(format!("`rollout.split` is `{}`; it is one of train, val and test", config.split)).into());
    }
    if config.samples == 0 {
        return Err(Fault::Usage("`rollout.samples` is 0; nothing would run".to_owned()).into());
    }
    if config.temperature.is_some_and(|temperature| !(0.0..=100.0).contains(&temperature)) {
        return Err(Fault::Usage("`rollout.temperature` has to be 0 or more".to_owned()).into());
    }
    Ok(())
}

/// Every sample of every task, a group after the other, so that what a group shares is computed once.
fn jobs<'a>(batch: &str, chosen: &[&'a Task], config: &RolloutConfig) -> Vec<Job<'a>> {
    let samples = |task: &&'a Task| {
        let task = *task;
        let job = move |sample| Job {
            rollout_id: rollout_id(batch, &task.id, sample),
            task,
            sample: sample as u64,
            temperature: config.temperature,
        };
        (0..config.samples).map(job)
    };
    chosen.iter().flat_map(samples).collect()
}

/// Unique in the batch, the same whenever it is run, and short enough for a file's name whatever the task is called.
pub fn rollout_id(batch: &str, task: &str, sample: usize) -> String {
    let hash = &hash_hex(format!("{batch}\0{task}\0{sample}").as_bytes())[..8];
    let task: String = task.chars().take(80).collect();
    format!("{task}-{sample}-{hash}")
}

pub(crate) fn hash_of(tasks: &[&Task]) -> Result<String> {
    let whole: Vec<Value> = tasks.iter().map(|task| task.whole()).collect();
    Ok(hash_hex(serde_json::to_string(&whole).context("the tasks cannot be written as JSON")?.as_bytes()))
}

/// The settings that rollouts follow from: how many run at once and how long one waits is left out.
pub(crate) fn settings(mut config: Value) -> Value {
    for key in ["concurrency", "timeout_s", "grace_s", "retries", "output_kib"] {
        config["agent"].as_object_mut().map(|agent| agent.remove(key));
    }
    config
}

/// How many rollouts ended how.
pub fn counts(done: &[Done]) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::from([("rollouts_run".to_owned(), done.len() as u64)]);
    for done in done {
        if let Some(class) = &done.failure_class {
            *counts.entry(format!("failed_{class}")).or_default() += 1;
        }
        *counts.entry("attempts_retried".to_owned()).or_default() += u64::from(done.attempt);
    }
    counts
}

fn warnings(done: &[Done]) -> Vec<String> {
    let told = [
        (
            "reward_missing",
            "rollouts ended without a reward, and will not be learned from: set `agent.grader` or `agent.missing_reward`",
        ),
        ("infrastructure", "rollouts failed by no fault of the agent, and will not be learned from"),
    ];
    let counted =
        told.map(|(class, what)| (done.iter().filter(|done| done.failure_class.as_deref() == Some(class)).count(), what));
    counted.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_a_part_of_a_whole() {
        assert_eq!("1/4".parse(), Ok(Shard { index: 1, count: 4 }));
        for wrong in ["4/4", "1", "a/b", "-1/2", "0/0"] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn ids_differ_by_batch_task_and_sample_and_fit_a_name() {
        let long = "x".repeat(128);
        let ids =
            [("iter-0000", "a", 0), ("iter-0001", "a", 0), ("iter-0000", "b", 0), ("iter-0000", "a", 1), ("iter-0000", &long, 3)]
                .map(|(batch, task, sample)| rollout_id(batch, task, sample));
        for (index, id) in ids.iter().enumerate() {
            assert!(crate::lake::check_name("rollout", id).is_ok(), "{id}");
            assert!(!ids[..index].contains(id), "{id}");
        }
    }
}
