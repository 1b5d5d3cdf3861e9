//! The stage `train`: policy N and the transitions of a batch become policy N+1.
//!
//! `run` reads and commits, `learn` is the loop. Rows come from the batch's committed `transitions` (`rows`) and are cut into steps (`plan`);
//! the forest computes log-probs and carries `dL/dlogp` back (`forest`), the losses are plain Rust (`crate::loss`), `optimiser` moves the weights.
//! What has to outlive a kill is in `checkpoint`; what a step reports is in `metrics`.

pub mod checkpoint;
mod config;
mod critic;
pub mod forest;
pub mod heap;
mod keep;
mod learn;
pub mod metrics;
pub mod optimiser;
pub mod plan;
pub mod rows;
pub mod schedule;
pub(crate) mod setup;
mod tensorboard;
mod tokens;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::exit::Fault;
use crate::lake::{Freshness, Lineage, Manifest};
use crate::openmp;
use crate::stage::{Context, Summary};
use crate::text::Text;
use checkpoint::Checkpoints;
pub use config::{ActivationCheckpointing, Compute, CriticConfig, LoraConfig, OldLogprobs, TrainConfig};
use learn::{Sources, learn};
use metrics::StepMetrics;
use rows::Rows;

/// Name of the optimiser's state beside the policy.
const OPTIMISER: &str = "optimiser";

/// Writes `train_steps`, `train_tokens` and the next policy, where the batch has none yet.
pub async fn run(context: &Context) -> Result<Summary> {
    let started = Instant::now();
    let config = &context.config.train;
    config::check(config)?;
    let mut run = context.lake.begin("train", &context.batch).await?;
    let parent = parent(context, run.previous()).await?;
    let version = parent.policy_version().unwrap_or(0) + 1;
    let lineage = lineage(context, &parent).await?;
    let freshness = lineage.freshness(run.previous());
    let checkpoints = Checkpoints {
        lake: context.lake.clone(),
        batch: context.batch.clone(),
        lineage: lineage.clone(),
        keep: config.checkpoint_keep.max(1),
    };
    if let Some(summary) = context.standing(&freshness, run.previous(), started) {
        // A run that was killed when it had committed left them; those of a run with other settings may be gone on from.
        if !context.dry_run {
            checkpoints.clear_own().await?;
        }
        return Ok(summary);
    }
    if let Some(summary) = context.would_run("train", &freshness) {
        return Ok(summary);
    }
    let folder = context.lake.fetch_policy(parent.policy.as_ref().context("the parent is a policy")?).await?;
    let text = Text::load(folder.path())?;
    let rows = rows::read(context, config, &text, version - 1).await?;
    let base = setup::adapter_base(context, folder.path()).await?;
    let reference = setup::reference(context).await?;
    let optimiser = setup::optimiser_state(context, &parent).await?;
    let sources = Sources {
        policy: folder.path(),
        version: version - 1,
        base: base.as_ref().map(|base| (base.version, base.folder.path())),
        reference: reference.as_ref().map(|folder| folder.path()),
        optimiser: optimiser.as_ref().map(|folder| folder.path()),
        text: &text,
    };
    // Everything with tensors is on this thread, between two awaits.
    heap::keep_freed();
    let learned = tokio::task::block_in_place(|| learn(context, &sources, &rows, &checkpoints));
    heap::give_back();
    openmp::release();
    let learned = match learned {
        Ok(learned) => learned,
        Err(error) => {
            run.abandon().await;
            return Err(error);
        }
    };

    let algorithm = serde_json::to_value(config.algorithm)?;
    let mut writer = run.writer("train_steps", 0)?;
    writer.write(&metrics::table(&learned.steps, version, algorithm.as_str().unwrap_or_default())?)?;
    writer.finish().await?;
    if let Some(tokens) = &learned.tokens {
        let mut writer = run.writer("train_tokens", 0)?;
        writer.write(tokens)?;
        writer.finish().await?;
    }
    run.put_policy(version, Some(version - 1), learned.policy.path()).await?;
    run.put_state(OPTIMISER, learned.optimiser.path()).await?;
    // Before the commit, after which nothing would write them; of a run that is repeated they are replaced.
    if let Some(folder) = tensorboard_folder(context) {
        let wall_time = jiff::Timestamp::now().as_second() as f64;
        // The numbers go into the lake too: a full disk beside it is no reason to fail.
        if let Err(error) = tensorboard::write(&folder, &learned.steps, version, wall_time) {
            context.progress.warning(format!("TensorBoard's events are not written: {error:#}"));
        }
    }
    let manifest = run.commit(lineage, counts(&rows, &learned.steps)).await?;
    checkpoints.clear().await?;
    // The policy is committed: a state that stays too long is no reason to fail.
    if let Err(error) = keep::prune(context).await {
        context.progress.warning(format!("older states of the optimiser are not removed: {error:#}"));
    }
    let mut summary = Summary::of(&manifest, "done", started);
    summary.warnings = learned.warnings;
    Ok(summary)
}

/// The policy to train from: as configured, or the one that this batch's policy was made from, or the newest.
async fn parent(context: &Context, previous: Option<&Manifest>) -> Result<Manifest> {
    let made_from = previous.and_then(|manifest| manifest.policy.as_ref()).and_then(|policy| policy.parent);
    let version = context.config.train.policy.or(made_from);
    let parent = context.lake.policy_manifest(version).await?;
    let next = parent.policy_version().unwrap_or(0) + 1;
    let standing = context.lake.policy_manifests().await?;
    let other = standing.iter().find(|manifest| {
        let is_ours = manifest.stage == "train" && manifest.batch == context.batch;
        !is_ours && manifest.policy.as_ref().is_some_and(|policy| policy.version == next)
    });
    if let Some(other) = other {
        let message = format!(
            "policy {next} is there already, made by `{}` on batch `{}`; train from a newer policy with `--set train.policy=N`, or leave it away",
            other.stage, other.batch
        );
        return Err(Fault::Usage(message).into());
    }
    Ok(parent)
}

async fn lineage(context: &Context, parent: &Manifest) -> Result<Lineage> {
    let Some(credit) = context.lake.manifest("credit", &context.batch).await? else {
        let message = format!("`credit` has not run on batch `{}`; run `fulgurite build` on it first", context.batch);
        return Err(Fault::Usage(message).into());
    };
    // Where events go and how a step is cut for the machine changes nothing that is made.
    let config = TrainConfig {
        tensorboard: None,
        checkpoint_steps: 0,
        checkpoint_keep: 0,
        keep_states: 0,
        ..context.config.train.clone()
    };
    let mut lineage =
        Lineage::new("train", serde_json::to_value(config).context("the settings of train cannot be written as JSON")?)?;
    lineage.inputs = vec![credit.input(&["transitions"])?, parent.input(&["policy"])?];
    Ok(lineage)
}

/// Whether the stage has to run, and why.
pub async fn freshness(context: &Context) -> Result<Freshness> {
    let previous = context.lake.manifest("train", &context.batch).await?;
    let parent = parent(context, previous.as_ref()).await?;
    Ok(lineage(context, &parent).await?.freshness(previous.as_ref()))
}

fn counts(rows: &Rows, steps: &[StepMetrics]) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::from([
        ("rows_trained".to_owned(), rows.rows.len() as u64),
        ("rows_tokenised".to_owned(), rows.tokenised),
        ("steps_skipped".to_owned(), steps.iter().filter(|step| step.skipped).count() as u64),
    ]);
    counts.extend(rows.refused.iter().map(|(reason, count)| (format!("refused_{reason}"), *count)));
    counts.extend(rows.dropped.iter().map(|(reason, count)| (format!("dropped_{reason}"), *count)));
    counts
}

/// Each batch has its folder, which TensorBoard shows as a run.
fn tensorboard_folder(context: &Context) -> Option<PathBuf> {
    let configured = context.config.train.tensorboard.clone();
    let folder = configured.or_else(|| context.lake.directory().map(|lake| lake.join("tensorboard")))?;
    Some(folder.join(&context.batch))
}
