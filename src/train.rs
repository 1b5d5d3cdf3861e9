//! The stage `train`: policy N and the transitions of a batch become policy N+1.
//!
//! `run` reads and commits, `learn` is the loop. Rows come from the batch's committed `transitions` (`rows`) and are cut into steps (`plan`);
//! the forest computes log-probs and carries `dL/dlogp` back (`forest`), the losses are plain Rust (`crate::loss`), `optimiser` moves the weights.
//! What has to outlive a kill is in `checkpoint`; what a step reports is in `metrics`.

pub mod checkpoint;
mod critic;
pub mod forest;
pub mod metrics;
pub mod optimiser;
pub mod plan;
pub mod rows;
pub mod schedule;
pub(crate) mod setup;
mod tensorboard;
mod tokens;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tch::Tensor;
use tempfile::TempDir;

use crate::exit::Fault;
use crate::lake::{Freshness, Lineage, Manifest};
use crate::loss::{self, Aggregation, Algorithm, Correction, Denominators, KlPlace, LossConfig, Mismatch, Tally};
use crate::model::Model;
use crate::stage::{Context, Summary};
use crate::text::Text;
use checkpoint::{Checkpoints, Progress};
use forest::{Gradients, Options, Scores, Sequence};
use metrics::StepMetrics;
use optimiser::{AdamW, AdamWConfig, clip_scale};
use rows::{Row, Rows};
use schedule::Schedule;

/// So many steps without a finite loss and gradient, one after the other, end the run.
const SKIPPED_IN_A_ROW: u64 = 3;

/// Name of the optimiser's state beside the policy.
const OPTIMISER: &str = "optimiser";

/// How a policy learns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// What the policy is trained with; `sft` imitates the chosen transitions, for a warm start.
    pub algorithm: Algorithm,
    pub loss: LossConfig,
    /// Where the ratio's old log-probs come from: as the sampler recorded them, or computed anew before the first step.
    pub old_logprobs: OldLogprobs,
    /// With sft: imitate rollouts with at least this outcome. Unset: every transition, also of groups whose rewards do not vary.
    pub min_outcome: Option<f64>,
    /// Policy versions by which the one that answered may be behind the one that is trained; rows of older ones are refused.
    pub max_policy_lag: u64,
    /// Version to train from. Unset: the newest, or again the parent of the policy that this batch made.
    pub policy: Option<u64>,
    /// Version that divergence is measured to, where `loss.kl.coefficient` is not 0. Unset: the policy without its adapter, or the lake's first policy.
    pub reference: Option<u64>,
    /// Times that each row is learnt from.
    pub epochs: u64,
    /// Steps of the optimiser for each epoch; there are never more than rollouts.
    pub minibatches: u64,
    /// Learning rate after warm-up. Unset: 1e-6, and 2e-5 for an adapter.
    pub learning_rate: Option<f64>,
    /// How it goes on.
    pub schedule: Schedule,
    /// Steps in which it rises from 0.
    pub warmup_steps: u64,
    pub optimiser: AdamWConfig,
    pub lora: LoraConfig,
    pub critic: CriticConfig,
    /// Whether the optimiser's running means go on from the policy's own training, where that had the same algorithm.
    pub keep_optimiser: bool,
    /// Norm of all gradients together that is cut to.
    pub clip_norm: f64,
    /// Ends the run before a step whose `approx_kl` is above this. Unset: no limit.
    pub max_kl: Option<f64>,
    /// Distinct tokens that go through the model at once. Changes speed and memory, and nothing else.
    pub micro_batch_tokens: usize,
    /// Whether activations are computed again for the backward pass: `auto` where they would take more than 2 GiB.
    pub activation_checkpointing: ActivationCheckpointing,
    /// cpu, cuda, or cuda:1 and so on; auto takes the first GPU, where there is one.
    pub device: String,
    /// What the model computes in; auto is bf16 on a GPU and f32 on a CPU.
    pub compute: Compute,
    /// Draws the order of rollouts, and an adapter's first weights.
    pub seed: u64,
    /// Steps between checkpoints; 0 makes none.
    pub checkpoint_steps: u64,
    /// Checkpoints that are kept while the run goes on.
    pub checkpoint_keep: usize,
    /// Write the table `train_tokens`: every token with its log-prob before and after. Costs two passes without gradients.
    pub tokens: bool,
    /// Folder for TensorBoard. Unset: `tensorboard` in the lake, where that is a directory.
    pub tensorboard: Option<PathBuf>,
}

impl Default for TrainConfig {
    fn default() -> TrainConfig {
        TrainConfig {
            algorithm: Algorithm::default(),
            loss: LossConfig::default(),
            old_logprobs: OldLogprobs::default(),
            min_outcome: None,
            max_policy_lag: 0,
            policy: None,
            reference: None,
            epochs: 1,
            minibatches: 1,
            learning_rate: None,
            schedule: Schedule::default(),
            warmup_steps: 0,
            optimiser: AdamWConfig::default(),
            lora: LoraConfig::default(),
            critic: CriticConfig::default(),
            keep_optimiser: true,
            clip_norm: 1.0,
            max_kl: None,
            micro_batch_tokens: 8192,
            activation_checkpointing: ActivationCheckpointing::default(),
            device: "auto".to_owned(),
            compute: Compute::default(),
            seed: 0,
            checkpoint_steps: 10,
            checkpoint_keep: 2,
            tokens: false,
            tensorboard: None,
        }
    }
}

/// An adapter that is trained in place of the weights. The policy that comes out has it merged, and beside it in the layout of PEFT.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// Rank of the adapter; 0 trains the weights themselves.
    pub rank: i64,
    /// What the adapter adds is scaled by alpha / rank. Unset: twice the rank.
    pub alpha: Option<f64>,
    /// Projections that get one: all-linear, or some of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj.
    pub targets: Vec<String>,
}

impl Default for LoraConfig {
    fn default() -> LoraConfig {
        LoraConfig { rank: 0, alpha: None, targets: vec!["all-linear".to_owned()] }
    }
}

/// A value head that is trained beside the policy, on its hidden states: PPO's critic. The stage `values` runs it, and `credit.method = "gae"`
/// needs it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CriticConfig {
    /// Train one.
    pub enabled: bool,
    /// What the value loss is multiplied by before it is added.
    pub coefficient: f64,
    /// How far an estimate may go in one run. Infinity (`inf`) for as far as it likes.
    pub clip: f64,
    /// Learning rate of the head itself, after warm-up; what is below it follows the policy's.
    pub learning_rate: f64,
}

impl Default for CriticConfig {
    fn default() -> CriticConfig {
        CriticConfig { enabled: false, coefficient: 0.5, clip: 0.2, learning_rate: 1e-3 }
    }
}

/// Where the log-probs come from that the ratio compares with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OldLogprobs {
    /// As the sampler recorded them: the ratio holds what sampler and trainer differ by, too.
    #[default]
    Behaviour,
    /// Computed by the policy that is trained, before the first step.
    Recompute,
}

/// Whether activations are computed again for the backward pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ActivationCheckpointing {
    /// Where they would take much memory.
    #[default]
    Auto,
    /// Always: slower, in little memory.
    Always,
    /// Never.
    Never,
}

/// What the model computes in. The optimiser's own copies are f32 at least.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compute {
    /// bf16 on a GPU, f32 on a CPU.
    #[default]
    Auto,
    /// 16 bits, for GPUs.
    Bf16,
    /// 32 bits.
    F32,
    /// 64 bits, for checks.
    F64,
}

/// What came out of `learn`.
struct Learned {
    /// The new policy: a Hugging Face directory.
    policy: TempDir,
    /// The optimiser's state.
    optimiser: TempDir,
    steps: Vec<StepMetrics>,
    /// Rows of `train_tokens`, where they are wanted.
    tokens: Option<arrow::array::RecordBatch>,
    warnings: Vec<String>,
}

/// Writes `train_steps`, `train_tokens` and the next policy, where the batch has none yet.
pub async fn run(context: &Context) -> Result<Summary> {
    let started = Instant::now();
    let config = &context.config.train;
    check(config)?;
    let mut run = context.lake.begin("train", &context.batch).await?;
    let parent = parent(context, run.previous()).await?;
    let version = policy_version(&parent) + 1;
    let lineage = lineage(context, &parent).await?;
    let freshness = lineage.freshness(run.previous());
    if let Some(summary) = context.standing(&freshness, run.previous(), started) {
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
    let checkpoints = Checkpoints {
        lake: context.lake.clone(),
        batch: context.batch.clone(),
        lineage: lineage.clone(),
        keep: config.checkpoint_keep.max(1),
    };
    let sources = Sources {
        policy: folder.path(),
        version: version - 1,
        base: base.as_ref().map(|base| (base.version, base.folder.path())),
        reference: reference.as_ref().map(|folder| folder.path()),
        optimiser: optimiser.as_ref().map(|folder| folder.path()),
        text: &text,
    };
    // Everything with tensors is on this thread, between two awaits.
    let learned = tokio::task::block_in_place(|| learn(context, &sources, &rows, &checkpoints));
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
    let manifest = run.commit(lineage, counts(&rows, &learned.steps)).await?;
    checkpoints.clear().await?;
    if let Some(folder) = tensorboard_folder(context) {
        let wall_time = jiff::Timestamp::now().as_second() as f64;
        // The numbers are in the lake already: a full disk beside it is no reason to fail.
        if let Err(error) = tensorboard::write(&folder, &learned.steps, version, wall_time) {
            context.progress.warning(format!("TensorBoard's events are not written: {error:#}"));
        }
    }
    let mut summary = Summary::of(&manifest, "done", started);
    summary.warnings = learned.warnings;
    Ok(summary)
}

/// Where a run begins.
pub(crate) struct Sources<'a> {
    /// Folder of the policy that is trained, and its version.
    policy: &'a Path,
    version: u64,
    /// Version and folder of the policy whose weights the adapter in `policy` belongs to, where the run goes on with it.
    base: Option<(u64, &'a Path)>,
    /// Folder of the reference policy, where there is one of its own.
    reference: Option<&'a Path>,
    /// Folder of the optimiser's state, where it goes on.
    optimiser: Option<&'a Path>,
    text: &'a Text,
}

/// The whole of training, from top to bottom.
fn learn(context: &Context, sources: &Sources, batch: &Rows, checkpoints: &Checkpoints) -> Result<Learned> {
    let config = &context.config.train;
    let rows = &batch.rows;
    tch::set_num_threads(context.config.threads() as i32);
    let (device, kind) = setup::device(config)?;
    let options = setup::forest_options(config);
    let tokens = rows.iter().map(|row| row.prompt.len() + row.response.len()).sum();
    setup::check_memory(sources.policy, config, tokens, device, kind)?;
    let model = setup::load(sources, config, device, kind)?;
    let value_head = setup::value_head(sources.policy, &model, config)?;
    let head_weights = value_head.as_ref().map(setup::head_weights).unwrap_or_default();
    let weights: Vec<(String, Tensor)> = model.trainable().into_iter().chain(setup::shared(&head_weights)).collect();
    let options = Options { value_head: value_head.as_ref(), ..options };
    let sequences: Vec<Sequence> =
        rows.iter().map(|row| Sequence { prompt: &row.prompt, response: &row.response, temperature: row.temperature }).collect();

    // Log-probs from before the first step, each where something asks for it.
    let score = |model: &Model| setup::score(model, &sequences, config.micro_batch_tokens, &options, &context.stop);
    let recomputes = config.algorithm.has_ratio() && config.old_logprobs == OldLogprobs::Recompute;
    let before = (recomputes || config.tokens || value_head.is_some()).then(|| score(&model)).transpose()?;
    let reference_logp = match (config.loss.kl.coefficient != 0.0, sources.reference) {
        (false, _) => None,
        (true, Some(folder)) => Some(score(&Model::load(folder, device, kind)?)?.logp),
        (true, None) => Some(score(&model.without_adapter())?.logp),
    };
    let old_logp = |index: usize| match &before {
        Some(before) if recomputes => Some(before.logp[index].as_slice()),
        _ if config.algorithm.has_ratio() => rows[index].behaviour_logp_t.as_deref(),
        _ => None,
    };
    let advantages = advantages(config, rows, &old_logp, reference_logp.as_deref());

    let rate = setup::learning_rate(config);
    let mut optimiser = AdamW::new(model.trainable(), config.optimiser.clone());
    optimiser.add(head_weights, config.critic.learning_rate / rate);
    if let Some(folder) = sources.optimiser {
        optimiser.load(&folder.join(setup::OPTIMISER_FILE))?;
    }
    let plan = plan::plan(rows, config.epochs, config.minibatches, config.seed);
    let mut progress = match checkpoints.latest()? {
        Some(checkpoint) => checkpoint::restore(checkpoint.path(), &weights, &mut optimiser)?,
        None => Progress::default(),
    };
    if !progress.steps.is_empty() {
        context.progress.message(format!("going on after step {} of {}", progress.steps.len(), plan.len()));
    }
    let mut reporter = setup::Reporter::new(&context.progress, plan.len(), progress.steps.len());
    let mut warnings = setup::warnings(batch, rows.last().map_or(0, |row| row.rollout + 1), config);

    for (number, step) in plan.iter().enumerate().skip(progress.steps.len()) {
        if context.stop.check().is_err() {
            checkpoints.save(&weights, &optimiser, &progress)?;
            context
                .progress
                .warning(format!("stopped after step {number} of {}; the same command goes on from there", plan.len()));
            context.stop.check()?;
        }
        let started = Instant::now();
        let mut metrics = StepMetrics::new(number as u64, step.epoch);
        let of_step: Vec<&Row> = step.rows.iter().map(|&index| &rows[index]).collect();
        let denominators = Denominators::of(of_step.iter().map(|row| (row.rollout, row.response.len())));
        let (mut loss, mut tally, mut mismatch) = (0.0, Tally::default(), Mismatch::default());
        let (mut row_tokens, mut trie_tokens) = (0, 0);
        let mut values = critic::Values::new(&of_step);

        // Forward and backward, micro-batch by micro-batch; the gradients add up to those of the whole step.
        optimiser.zero_gradients();
        let of_step_sequences: Vec<Sequence> = step.rows.iter().map(|&index| sequences[index]).collect();
        for micro_batch in forest::pack(&of_step_sequences, config.micro_batch_tokens) {
            let indices: Vec<usize> = micro_batch.rows.iter().map(|&place| step.rows[place]).collect();
            let micro_sequences: Vec<Sequence> = indices.iter().map(|&index| sequences[index]).collect();
            let work = forest::accumulate(&model, &micro_sequences, &options, &mut |scores: &Scores| {
                let inputs: Vec<loss::Row> = indices
                    .iter()
                    .enumerate()
                    .map(|(place, &index)| loss::Row {
                        logp_t: &scores.logp[place],
                        old_logp_t: old_logp(index).unwrap_or(&scores.logp[place]),
                        behaviour_logp_t: rows[index].behaviour_logp_t.as_deref(),
                        reference_logp_t: reference_logp.as_ref().map(|logp| logp[index].as_slice()),
                        entropy_t: &scores.entropy[place],
                        advantage: advantages[index],
                        weight: rows[index].weight,
                        rollout: rows[index].rollout,
                    })
                    .collect();
                let output = loss::evaluate(&inputs, &denominators, config.algorithm, &config.loss);
                loss += output.loss;
                tally.merge(&output.tally);
                for input in &inputs {
                    let trainer_t = if recomputes { input.old_logp_t } else { input.logp_t };
                    input.behaviour_logp_t.iter().for_each(|behaviour_t| mismatch.add(trainer_t, behaviour_t));
                }
                let value = before.as_ref().filter(|_| value_head.is_some()).map(|before| {
                    let estimates =
                        indices.iter().zip(&scores.value).map(|(&index, &value)| (&rows[index], value, before.value[index]));
                    values.slopes(estimates, &config.critic)
                });
                let (logp, entropy) = output.slopes.into_iter().map(|slopes| (slopes.logp_t, slopes.entropy_t)).unzip();
                Gradients { logp, entropy: (config.loss.entropy_bonus != 0.0).then_some(entropy), value }
            })?;
            optimiser.collect_gradients();
            row_tokens += work.row_tokens;
            trie_tokens += work.trie_tokens;
        }

        loss += values.loss;
        let norm = optimiser.gradient_norm();
        let step_advantages: Vec<f64> = step.rows.iter().map(|&index| advantages[index]).collect();
        metrics.describe(&of_step, &step_advantages, sources.version);
        metrics.tally(&tally, &mismatch, config.algorithm.has_ratio(), reference_logp.is_some());
        if value_head.is_some() {
            values.report(&mut metrics);
        }
        metrics.set("frac_reward_zero_std", batch.frac_reward_zero_std);
        metrics.set("loss", loss);
        metrics.set("grad_norm", norm);
        if config.max_kl.is_some_and(|most| metrics.get("approx_kl").is_some_and(|kl| kl > most)) {
            warnings.push(format!(
                "stopped before step {number} of {}: `approx_kl` is {:.4}, above `train.max_kl`",
                plan.len(),
                metrics.get("approx_kl").unwrap_or_default()
            ));
            break;
        }

        // The step itself; one whose numbers are not finite is left out and written aside.
        if loss.is_finite() && norm.is_finite() {
            let rate =
                setup::learning_rate(config) * config.schedule.factor(number as u64, config.warmup_steps, plan.len() as u64);
            optimiser.step(rate, clip_scale(norm, config.clip_norm));
            metrics.set("learning_rate", rate);
            progress.skipped_in_a_row = 0;
        } else {
            metrics.skipped = true;
            progress.skipped_in_a_row += 1;
            let calls: Vec<&str> = of_step.iter().map(|row| row.call_id.as_str()).collect();
            let record = json!({ "step": number, "loss": loss.to_string(), "grad_norm": norm.to_string(), "calls": calls, "metrics": metrics });
            let name = checkpoints.set_aside(number as u64, &record)?;
            warnings.push(format!(
                "step {number} was left out: loss {loss}, gradient norm {norm}; its calls are in the state `{name}`"
            ));
        }
        metrics.work(row_tokens, trie_tokens, started.elapsed().as_secs_f64());
        reporter.step(&metrics);
        progress.steps.push(metrics);
        if progress.skipped_in_a_row >= SKIPPED_IN_A_ROW {
            return Err(Fault::Failed(format!(
                "{SKIPPED_IN_A_ROW} steps in a row have no finite loss and gradient, the last with loss {loss} and norm {norm}: the policy \
                 is likely beyond repair. Look at `grad_norm`, `approx_kl` and `ratio_max` of the steps before, at the advantages of the calls \
                 that are written aside, and try a lower `train.learning_rate` or `train.clip_norm`, or `train.compute=f32`"
            ))
            .into());
        }
        let done = number as u64 + 1;
        if config.checkpoint_steps > 0 && done.is_multiple_of(config.checkpoint_steps) && done < plan.len() as u64 {
            checkpoints.save(&weights, &optimiser, &progress)?;
        }
    }

    let tokens = match (config.tokens, &before) {
        (true, Some(before)) => Some(tokens::table(rows, &advantages, before, &score(&model)?, config, sources.text)?),
        _ => None,
    };
    let policy = setup::save(&model, value_head.as_ref(), sources, config)?;
    let optimiser_folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    optimiser.save(&optimiser_folder.path().join(setup::OPTIMISER_FILE))?;
    Ok(Learned { policy, optimiser: optimiser_folder, steps: progress.steps, tokens, warnings })
}

/// The advantage of each row, with the divergence taken off where it goes into the reward.
fn advantages<'a>(
    config: &TrainConfig,
    rows: &'a [Row],
    old_logp: &dyn Fn(usize) -> Option<&'a [f64]>,
    reference_logp: Option<&[Vec<f64>]>,
) -> Vec<f64> {
    let mut advantages: Vec<f64> = rows.iter().map(|row| row.advantage).collect();
    if let Some(reference_logp) = reference_logp.filter(|_| config.loss.kl.place == KlPlace::Reward) {
        let divergence = |index: usize| {
            let sampled = old_logp(index).or(rows[index].behaviour_logp_t.as_deref());
            sampled.map_or(0.0, |logp_t| config.loss.kl.estimator.sum(logp_t, &reference_logp[index]))
        };
        let sums: Vec<_> = rows.iter().enumerate().map(|(index, row)| (row.rollout, row.group, divergence(index))).collect();
        for (advantage, change) in advantages.iter_mut().zip(loss::in_reward(&sums, config.loss.kl.coefficient)) {
            *advantage += change;
        }
    }
    advantages
}

/// The policy to train from: as configured, or the one that this batch's policy was made from, or the newest.
async fn parent(context: &Context, previous: Option<&Manifest>) -> Result<Manifest> {
    let made_from = previous.and_then(|manifest| manifest.policy.as_ref()).and_then(|policy| policy.parent);
    let version = context.config.train.policy.or(made_from);
    let parent = context.lake.policy_manifest(version).await?;
    let next = policy_version(&parent) + 1;
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

fn policy_version(manifest: &Manifest) -> u64 {
    manifest.policy.as_ref().map_or(0, |policy| policy.version)
}

async fn lineage(context: &Context, parent: &Manifest) -> Result<Lineage> {
    let Some(credit) = context.lake.manifest("credit", &context.batch).await? else {
        let message = format!("`credit` has not run on batch `{}`; run `fulgurite build` on it first", context.batch);
        return Err(Fault::Usage(message).into());
    };
    // Where events go and how a step is cut for the machine changes nothing that is made.
    let config = TrainConfig { tensorboard: None, checkpoint_steps: 0, checkpoint_keep: 0, ..context.config.train.clone() };
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

/// Settings that cannot be together.
fn check(config: &TrainConfig) -> Result<(), Fault> {
    let fault = |message: &str| Err(Fault::Usage(message.to_owned()));
    if config.loss.correction.kind != Correction::None && config.old_logprobs == OldLogprobs::Behaviour {
        return fault(
            "`train.loss.correction` corrects the old log-probs against the sampler's, but `train.old_logprobs` takes the sampler's as the \
             old ones, so that the ratio holds the difference already; set `train.old_logprobs` to \"recompute\"",
        );
    }
    if config.loss.aggregation == Some(Aggregation::Constant) && config.loss.constant_tokens.is_none() {
        return fault(
            "aggregation \"constant\" needs `train.loss.constant_tokens`, such as the most tokens that a response may have",
        );
    }
    if config.algorithm == Algorithm::Sft && config.loss.kl.coefficient != 0.0 && config.loss.kl.place == KlPlace::Reward {
        return fault("sft has no reward for `train.loss.kl.place` to take from; set it to \"loss\"");
    }
    if config.epochs == 0 || config.minibatches == 0 || config.micro_batch_tokens == 0 {
        return fault("`train.epochs`, `train.minibatches` and `train.micro_batch_tokens` have to be at least 1");
    }
    if config.critic.enabled && config.learning_rate == Some(0.0) {
        return fault(
            "`train.critic.learning_rate` is a multiple of `train.learning_rate`, which is 0; set that to something small",
        );
    }
    if config.clip_norm <= 0.0 || config.learning_rate.is_some_and(|rate| !rate.is_finite() || rate < 0.0) {
        return fault("`train.clip_norm` has to be above 0, and `train.learning_rate` a finite number that is not below 0");
    }
    Ok(())
}
