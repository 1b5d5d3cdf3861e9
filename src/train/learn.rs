//! The whole of training, from top to bottom: rows in, weights out.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde_json::json;
use tch::Tensor;
use tempfile::TempDir;

use super::checkpoint::{self, Checkpoints, Progress};
use super::config::{OldLogprobs, TrainConfig};
use super::forest::{self, Gradients, Options, Scores, Sequence};
use super::metrics::StepMetrics;
use super::optimiser::{AdamW, clip_scale};
use super::rows::{Row, Rows};
use super::{critic, plan, setup, tokens};
use crate::exit::Fault;
use crate::loss::{self, Denominators, KlPlace, Mismatch, Tally};
use crate::model::Model;
use crate::stage::Context;
use crate::text::Text;

/// So many steps without a finite loss and gradient, one after the other, end the run.
const SKIPPED_IN_A_ROW: u64 = 3;

/// Where a run begins.
pub struct Sources<'a> {
    /// Folder of the policy that is trained, and its version.
    pub policy: &'a Path,
    pub version: u64,
    /// Version and folder of the policy whose weights the adapter in `policy` belongs to, where the run goes on with it.
    pub base: Option<(u64, &'a Path)>,
    /// Folder of the reference policy, where there is one of its own.
    pub reference: Option<&'a Path>,
    /// Folder of the optimiser's state, where it goes on.
    pub optimiser: Option<&'a Path>,
    pub text: &'a Text,
}

/// What came out of `learn`.
pub struct Learned {
    /// The new policy: a Hugging Face directory.
    pub policy: TempDir,
    /// The optimiser's state.
    pub optimiser: TempDir,
    pub steps: Vec<StepMetrics>,
    /// Rows of `train_tokens`, where they are wanted.
    pub tokens: Option<arrow::array::RecordBatch>,
    pub warnings: Vec<String>,
}

/// Steps of the optimiser over all rows, from the newest checkpoint on where a run like this one left any.
pub fn learn(context: &Context, sources: &Sources, batch: &Rows, checkpoints: &Checkpoints) -> Result<Learned> {
    let config = &context.config.train;
    let rows = &batch.rows;
    tch::set_num_threads(context.config.threads() as i32);
    let (device, kind) = setup::device(config)?;
    let options = setup::forest_options(config);
    let tokens = rows.iter().map(|row| row.prompt.len() + row.response.len()).sum();
    let spare_bytes = setup::check_memory(sources.policy, config, tokens, device, kind)?.unwrap_or(u64::MAX);
    let options = Options { activation_bytes: options.activation_bytes.min(spare_bytes), ..options };
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
