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

/// Count of a summary: milliseconds in passes through the model.
pub const MODEL_MS: &str = "model_ms";

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
    /// Nucleus of every call, likewise. What lies outside it is never sampled, and what is learnt from it is not weighed for that.
    pub top_p: Option<f64>,
    /// Longest response of a call, in tokens, where the agent asks for a longer one or for none.
    pub max_tokens: Option<u64>,
    /// Rounds of further tasks, one for each group of the round before whose rollouts all earned the same: these teach nothing where
    /// rollouts are compared with their group. 0 for none.
    pub refill: u64,
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
            top_p: None,
            max_tokens: None,
            refill: 0,
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

    if config.refill > 0 && options.shard.is_some() {
        let message =
            "`rollout.refill` looks at all groups of a batch, and a shard has a part of them; leave one of the two away";
        return Err(Fault::Usage(message.to_owned()).into());
    }
    // With refills any task of the split may be run.
    let considered = if config.refill > 0 { tasks::choose(&tasks, &config.split, 0, config.seed, 0) } else { chosen.clone() };

    let mut run = context.lake.begin("rollout", &context.batch).await?;
    // A batch that was rolled out stays what it is, whatever policy is the newest by now.
    let before = run.previous().and_then(|manifest| manifest.counts.get("policy_version").copied());
    let version = options.version.or(before.filter(|_| !context.rebuild));
    let policy = context.lake.policy_manifest(version).await?;
    let lineage = Lineage {
        inputs: vec![
            policy.input(&["policy"])?,
            Input { name: config.tasks.clone(), tables: Vec::new(), hash: hash_of(&considered)?, size_bytes: 0 },
        ],
        ..Lineage::new("rollout", settings(json!({ "rollout": config, "agent": agent, "serve": context.config.serve })))?
    };
    let freshness = lineage.freshness(run.previous());
    if let Some(summary) =
        context.standing(&freshness, run.previous(), started).or_else(|| context.would_run("rollout", &freshness))
    {
        return Ok(summary);
    }

    let mut jobs = jobs_of(&context.batch, &chosen, config);
    let stale = matches!(freshness, crate::lake::Freshness::Stale(_));
    plan::begin(&context.lake, &context.batch, &plan::of(&lineage), context.rebuild || stale).await?;
    let served = Served::start(context, &policy).await?;
    let work = Work { context, served: &served, folder: &folder, seed: config.seed, iteration, split: &config.split };
    let mine: Vec<Job> = match options.shard {
        Some(shard) => jobs.iter().skip(shard.index).step_by(shard.count).cloned().collect(),
        None => jobs.clone(),
    };
    let worked = match work.all(&mine).await {
        Ok(done) => refill(&work, &tasks, chosen, &mut jobs, done).await,
        Err(error) => Err(error),
    };
    let version = served.version;
    let model_seconds = served.stop().await?;
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
    // Told and not kept: the only count that differs between equal runs.
    summary.counts.insert(MODEL_MS.to_owned(), (model_seconds * 1e3) as u64);
    summary.warnings = warnings(&done);
    Ok(summary)
}

/// Runs further tasks in the place of groups that teach nothing, and adds their rollouts to the jobs. What a round runs follows from what
/// the rounds before earned, so that a run that was killed comes to the same tasks.
///
/// * `chosen`: the tasks that were run.
/// * `done`: what became of them.
///
/// Returns everything that was done.
async fn refill<'a>(
    work: &Work<'_>,
    tasks: &'a [Task],
    mut chosen: Vec<&'a Task>,
    jobs: &mut Vec<Job<'a>>,
    mut done: Vec<Done>,
) -> Result<Vec<Done>> {
    let config = &work.context.config.rollout;
    let mut round_begins = 0;
    for _ in 0..config.refill {
        let missing = without_variance(&done[round_begins..]);
        let further = tasks::further(tasks, work.split, missing, work.seed, work.iteration, &chosen);
        if further.is_empty() {
            break;
        }
        let more = jobs_of(&work.context.batch, &further, config);
        round_begins = done.len();
        done.extend(work.all(&more).await?);
        jobs.extend(more);
        chosen.extend(further);
    }
    Ok(done)
}

/// How many groups have no two rewards that differ. A rollout that failed by no fault of the agent has none.
fn without_variance(done: &[Done]) -> usize {
    let mut groups: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for done in done {
        groups.entry(&done.task_id).or_default().extend(done.reward);
    }
    groups.values().filter(|rewards| rewards.iter().all(|reward| *reward == rewards[0])).count()
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
    if config.top_p.is_some_and(|top_p| !(top_p > 0.0 && top_p <= 1.0)) {
        return Err(Fault::Usage("`rollout.top_p` has to be above 0, and at most 1".to_owned()).into());
    }
    if config.max_tokens == Some(0) {
        return Err(Fault::Usage("`rollout.max_tokens` is 0; nothing would be said".to_owned()).into());
    }
    if config.temperature.is_some_and(|temperature| !(0.0..=100.0).contains(&temperature)) {
        return Err(Fault::Usage("`rollout.temperature` has to be 0 or more".to_owned()).into());
    }
    Ok(())
}

/// Every sample of every task, a group after the other, so that what a group shares is computed once.
fn jobs_of<'a>(batch: &str, chosen: &[&'a Task], config: &RolloutConfig) -> Vec<Job<'a>> {
    let samples = |task: &&'a Task| {
        let task = *task;
        let job = move |sample| Job {
            rollout_id: rollout_id(batch, &task.id, sample),
            task,
            sample: sample as u64,
            temperature: config.temperature,
            top_p: config.top_p,
            max_tokens: config.max_tokens,
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

/// From so many percent of failed agents on, what one of them said is told, and so much of it.
const FAILED_SHARE: usize = 10;
const FAILED_CHARS: usize = 300;

fn warnings(done: &[Done]) -> Vec<String> {
    let told = [
        (
            "reward_missing",
            "rollouts ended without a reward, and will not be learned from: set `agent.grader` or `agent.missing_reward`",
        ),
        ("infrastructure", "rollouts failed by no fault of the agent, and will not be learned from"),
    ];
    let of_class =
        |class: &str| -> Vec<&Done> { done.iter().filter(|done| done.failure_class.as_deref() == Some(class)).collect() };
    let counted = told.map(|(class, what)| (of_class(class).len(), what));
    let mut warnings: Vec<String> =
        counted.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    let failed = of_class("agent");
    if let Some(why) = failed.iter().find_map(|done| done.message.as_deref())
        && failed.len() >= FAILED_SHARE * done.len() / 100
    {
        let why: String = why.chars().take(FAILED_CHARS).collect();
        warnings.push(format!("{} of {} rollouts failed in their agent, one of them with: {why}", failed.len(), done.len()));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_that_all_earned_the_same_are_counted() {
        let done = |task: &str, reward| Done { task_id: task.to_owned(), reward, ..Done::default() };
        let all = [
            [done("same", Some(1.0)), done("same", Some(1.0))],
            [done("differs", Some(0.0)), done("differs", Some(1.0))],
            [done("half", Some(0.5)), done("half", None)],
            [done("none", None), done("none", None)],
        ];
        assert_eq!(without_variance(&all.concat()), 3);
        assert_eq!(without_variance(&all[1]), 0);
    }

    #[test]
    fn agents_that_fail_in_numbers_are_told_of_with_a_reason() {
        let failed = || Done { failure_class: Some("agent".to_owned()), message: Some("400: no".to_owned()), ..Done::default() };
        let of = |failures: usize| {
            let mut done = vec![Done::default(); 20 - failures];
            done.extend((0..failures).map(|_| failed()));
            warnings(&done)
        };
        assert!(of(0).is_empty() && of(1).is_empty());
        assert_eq!(of(2), ["2 of 20 rollouts failed in their agent, one of them with: 400: no"]);
    }

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
