//! `fulgurite loop`: rollout → ingest → derive → air → credit → train → eval, iteration by iteration, each a batch of the lake.
//!
//! The loop keeps nothing but what stands in the lake. An iteration is finished when its `credit` is sealed, which is its last commit; one
//! that is not is gone through again, and stages that had committed do nothing. So a loop that is stopped anywhere goes on.

mod goal;
mod summary;

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Result;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::exit::Fault;
use crate::lake::Lake;
use crate::rollout::plan::{TRACE, traces_folder};
use crate::stage::{Context, Summary};
use crate::train::schedule::Schedule;
use crate::train::setup;
use crate::{air, credit, derive, eval, ingest, rollout, train, values};
pub use goal::Goal;
use summary::Iteration;

/// Stages of an iteration, in their order; `values` where `credit` reads it. `credit` is sealed last: it says that the iteration is finished.
const STAGES: [&str; 7] = ["rollout", "ingest", "derive", "air", "values", "credit", "train"];

/// The method of `credit` that reads `values`.
const WITH_VALUES: &str = "gae";

/// The loop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LoopConfig {
    /// Iterations in all, those that are finished included.
    pub iterations: u64,
    /// Ends the loop before that, such as `eval.reward=0.9`: eval.reward, eval.greedy or eval.pass_at_k of an evaluation, or reward of an
    /// iteration's rollouts. Empty for never.
    pub until: String,
    /// Evaluates every so many iterations, and the first and the last policy; 0 for never.
    pub eval_every: u64,
    /// Evaluations in a row without a better one that end the loop; 0 for never.
    pub patience: u64,
    /// How the learning rate goes on from iteration to iteration, on its way to 0 after the last of `iterations`. Within an iteration it
    /// goes on by `train.schedule`.
    pub schedule: Schedule,
}

impl Default for LoopConfig {
    fn default() -> LoopConfig {
        LoopConfig { iterations: 10, until: String::new(), eval_every: 5, patience: 0, schedule: Schedule::Constant }
    }
}

/// The name of an iteration's batch.
pub fn batch_of(iteration: u64) -> String {
    format!("iter-{iteration:04}")
}

/// Why the loop ended.
#[derive(Debug, Clone, PartialEq)]
enum End {
    Iterations,
    Goal(String),
    Patience(u64),
}

/// Runs iterations until one of the configured ends. The context's batch is not looked at.
pub async fn run(context: &Context) -> Result<Summary> {
    let started = Instant::now();
    let config = &context.config.iterate;
    let goal = (!config.until.is_empty()).then(|| config.until.parse::<Goal>()).transpose().map_err(Fault::Usage)?;
    if context.rebuild {
        let message = "`loop` goes on, and redoes nothing; `--rebuild` belongs to a stage, such as `fulgurite train --batch iter-0003 --rebuild`";
        return Err(Fault::Usage(message.to_owned()).into());
    }
    if context.dry_run {
        return plan(context, config.iterations).await;
    }
    let mut best = Best::default();
    let mut iteration = 0;
    let mut seconds = 0.0;
    let end = loop {
        context.stop.check()?;
        let batch = batch_of(iteration);
        let of_batch = Context { config: scheduled(&context.config, iteration), ..on_batch(context, &batch) };
        // Policies of finished iterations were evaluated then; asked again, the stage reads what it wrote.
        let version = version_before(&context.lake, iteration).await?;
        let last = iteration >= config.iterations;
        if config.eval_every > 0 && (last || iteration % config.eval_every == 0) {
            let (_, scores) = eval::run(context, version).await?;
            context.progress.message(format!("eval: {scores}"));
            best.look_at(&scores);
            if let Some(end) = goal.as_ref().filter(|goal| goal.met_by_eval(&scores)) {
                break End::Goal(format!("{end}, {scores}"));
            }
            if config.patience > 0 && best.since >= config.patience {
                break End::Patience(best.since);
            }
        }
        if last {
            break End::Iterations;
        }
        let found = match is_finished(&context.lake, &batch).await? {
            true => None,
            false => Some(one(&of_batch).await?),
        };
        if let Some(found) = &found {
            seconds += found.seconds.values().sum::<f64>();
            context.progress.message(found.to_string());
            if let Some(goal) = goal.as_ref().filter(|goal| goal.met_by_rollouts(found.reward)) {
                break End::Goal(goal.to_string());
            }
        }
        iteration += 1;
    };
    let message = match &end {
        End::Iterations => format!("{} iterations are finished", config.iterations),
        End::Goal(goal) => format!("the goal is met: {goal}"),
        End::Patience(evals) => format!("{evals} evaluations brought nothing better"),
    };
    context.progress.message(format!("loop: {message}{best}"));
    let mut counts = BTreeMap::from([("iterations".to_owned(), iteration)]);
    if let Some((version, _)) = best.found {
        counts.insert("best_policy_version".to_owned(), version);
    }
    let status = if seconds > 0.0 { "done" } else { "nothing_to_do" };
    Ok(Summary {
        stage: "loop".to_owned(),
        batch: batch_of(iteration.saturating_sub(1)),
        status: status.to_owned(),
        counts,
        seconds: started.elapsed().as_secs_f64(),
        ..Summary::default()
    })
}

/// One iteration, each stage where it has not committed yet.
async fn one(context: &Context) -> Result<Iteration> {
    let begun = Instant::now();
    let mut seconds = BTreeMap::new();
    let mut counts = BTreeMap::new();
    for stage in STAGES {
        context.stop.check()?;
        let started = Instant::now();
        let summary = match stage {
            "rollout" => rollout::run(context, &rollout::Options::default()).await?,
            "ingest" => ingest::run(context, &[traces(&context.lake, &context.batch)]).await?,
            "derive" => derive::run(context).await?,
            "air" => air::run(context).await?,
            "values" if context.config.credit.method != WITH_VALUES => continue,
            "values" => values::run(context).await?,
            "credit" => credit::run(context).await?,
            _ => {
                guard(context).await?;
                // Groups without any variance teach nothing: the policy stays as it is.
                if counts.get("to_learn_from").is_none_or(|rows| *rows == 0) {
                    context.progress.message(format!("{}: nothing to learn from, the policy stays", context.batch));
                    continue;
                }
                train::run(context).await?
            }
        };
        for warning in &summary.warnings {
            context.progress.warning(format!("{stage} {}: {warning}", context.batch));
        }
        tracing::debug!("{summary}");
        seconds.insert(stage.to_owned(), started.elapsed().as_secs_f64());
        counts.extend(summary.counts);
    }
    let mut found = summary::of(context, seconds, counts).await?;
    for stage in STAGES.iter().rev().filter(|stage| **stage != "credit") {
        if context.lake.manifest(stage, &context.batch).await?.is_some() {
            context.lake.seal(stage, &context.batch).await?;
        }
    }
    context.lake.seal("credit", &context.batch).await?;
    let of_stages: f64 = found.seconds.values().sum();
    found.seconds.insert("loop".to_owned(), begun.elapsed().as_secs_f64() - of_stages);
    Ok(found)
}

/// The policy that an iteration begins with: the one that its rollouts were made with, else the newest (`None`).
async fn version_before(lake: &Lake, iteration: u64) -> Result<Option<u64>> {
    let manifest = lake.manifest("rollout", &batch_of(iteration)).await?;
    Ok(manifest.and_then(|manifest| manifest.counts.get("policy_version").copied()))
}

async fn is_finished(lake: &Lake, batch: &str) -> Result<bool> {
    Ok(lake.manifest("credit", batch).await?.is_some_and(|manifest| manifest.sealed))
}

/// Refuses to train a policy on rollouts of one that is too many versions older.
async fn guard(context: &Context) -> Result<()> {
    let allowed = context.config.train.max_policy_lag;
    if context.lake.manifest("train", &context.batch).await?.is_some() {
        return Ok(());
    }
    let rollouts = context.lake.manifest("rollout", &context.batch).await?;
    let version = rollouts.and_then(|manifest| manifest.counts.get("policy_version").copied()).unwrap_or(0);
    let newest = context.lake.policy(None).await?.version;
    let behind = newest.saturating_sub(version);
    if behind > allowed {
        let message = format!(
            "the rollouts of `{}` are by policy {version}, and the newest is {newest}: {behind} versions apart, more than `train.max_policy_lag = {}` \
             allows; make them anew with `fulgurite rollout --batch {} --rebuild`",
            context.batch, allowed, context.batch
        );
        return Err(Fault::Failed(message).into());
    }
    Ok(())
}

/// What ingest is given: the traces of a batch, wherever the lake is.
fn traces(lake: &Lake, batch: &str) -> String {
    let folder = traces_folder(batch);
    match lake.directory() {
        Some(directory) => format!("{}/{folder}/*{TRACE}", directory.display()),
        None => format!("{}/{folder}/", lake.location()),
    }
}

/// The same surroundings on another batch.
fn on_batch(context: &Context, batch: &str) -> Context {
    Context {
        lake: context.lake.clone(),
        batch: batch.to_owned(),
        config: context.config.clone(),
        rebuild: context.rebuild,
        dry_run: context.dry_run,
        progress: context.progress.clone(),
        stop: context.stop.clone(),
    }
}

/// The settings of an iteration: those of the loop, with the learning rates that its schedule has come to.
fn scheduled(config: &Config, iteration: u64) -> Config {
    let mut config = config.clone();
    if config.iterate.schedule != Schedule::Constant {
        let factor = config.iterate.schedule.factor(iteration, 0, config.iterate.iterations);
        config.train.learning_rate = Some(setup::learning_rate(&config.train) * factor);
        config.train.critic.learning_rate *= factor;
    }
    config
}

/// Says which iteration stands where, and changes nothing.
async fn plan(context: &Context, iterations: u64) -> Result<Summary> {
    let mut left = 0;
    for iteration in 0..iterations {
        let batch = batch_of(iteration);
        if is_finished(&context.lake, &batch).await? {
            context.progress.message(format!("{batch}: finished"));
            continue;
        }
        left += 1;
        let mut stages = Vec::new();
        for stage in STAGES {
            let stands = context.lake.manifest(stage, &batch).await?.is_some();
            if stage == "values" && context.config.credit.method != WITH_VALUES {
                continue;
            }
            stages.push(if stands { format!("{stage} (has committed)") } else { stage.to_owned() });
        }
        context.progress.message(format!("{batch}: would run {}", stages.join(", ")));
    }
    let counts = BTreeMap::from([("iterations_left".to_owned(), left)]);
    Ok(Summary { stage: "loop".to_owned(), batch: batch_of(0), status: "would_run".to_owned(), counts, ..Summary::default() })
}

/// The best policy so far: by the drawn answers of its evaluation, else by the greedy ones.
#[derive(Debug, Default)]
struct Best {
    /// Version and score.
    found: Option<(u64, f64)>,
    /// Evaluations since.
    since: u64,
    seen: Option<u64>,
}

impl Best {
    fn look_at(&mut self, scores: &eval::Scores) {
        let Some(score) = scores.sampled.or(scores.greedy).map(|mean| mean.mean) else { return };
        if self.seen.replace(scores.policy_version) == Some(scores.policy_version) {
            return;
        }
        if self.found.is_none_or(|(_, best)| score > best) {
            (self.found, self.since) = (Some((scores.policy_version, score)), 0);
        } else {
            self.since += 1;
        }
    }
}

impl std::fmt::Display for Best {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.found {
            Some((version, score)) => write!(f, "; the best policy is {version}, with {score:.3}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_learning_rate_goes_down_from_iteration_to_iteration() {
        let mut config = Config::default();
        config.train.learning_rate = Some(4e-4);
        let rate = |config: &Config, iteration| scheduled(config, iteration).train.learning_rate.unwrap();
        assert_eq!(rate(&config, 7), 4e-4);
        config.iterate = LoopConfig { iterations: 8, schedule: Schedule::Linear, ..LoopConfig::default() };
        for (iteration, expected) in [(0, 4e-4), (4, 2e-4), (7, 0.5e-4)] {
            assert!((rate(&config, iteration) - expected).abs() < 1e-18);
        }
        let critic = config.train.critic.learning_rate;
        assert_eq!(scheduled(&config, 4).train.critic.learning_rate, critic / 2.0);
    }

    #[test]
    fn the_best_policy_is_kept_and_the_evaluations_since_counted() {
        let mut best = Best::default();
        for (policy_version, score, expected) in
            [(0, 0.3, (0, 0)), (5, 0.6, (5, 0)), (10, 0.5, (5, 1)), (10, 0.5, (5, 1)), (15, 0.6, (5, 2))]
        {
            let sampled = eval::mean(&[score, score]);
            best.look_at(&eval::Scores { policy_version, sampled, ..eval::Scores::default() });
            assert_eq!((best.found.unwrap().0, best.since), expected);
        }
    }
}
