//! The settings of the stage `train`, and which of them cannot be together.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::optimiser::AdamWConfig;
use super::schedule::Schedule;
use crate::exit::Fault;
use crate::loss::{Aggregation, Algorithm, Correction, KlPlace, LossConfig};

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
    /// Newest policies whose optimiser states are kept, at least 1; that of the best policy stays too: whose own rollouts earned most on
    /// average (`reward_mean`). From any other policy, training begins with a new optimiser.
    pub keep_states: usize,
    /// Norm of all gradients together that is cut to.
    pub clip_norm: f64,
    /// Ends the run before a step whose `approx_kl` is above this. Unset: no limit.
    pub max_kl: Option<f64>,
    /// Distinct tokens that go through the model at once. Changes speed and memory, and nothing else.
    pub micro_batch_tokens: usize,
    /// Whether activations are computed again for the backward pass: `auto` in as many layers as `activation_mib` asks for.
    pub activation_checkpointing: ActivationCheckpointing,
    /// Most that activations kept for the backward pass may take where `activation_checkpointing` is `auto`, in MiB; never more than is free. Less
    /// of it is slower: those of the first layers are computed again.
    pub activation_mib: u64,
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
            keep_states: 2,
            clip_norm: 1.0,
            max_kl: None,
            micro_batch_tokens: 8192,
            activation_checkpointing: ActivationCheckpointing::default(),
            activation_mib: 2048,
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

/// Settings that cannot be together.
pub(super) fn check(config: &TrainConfig) -> Result<(), Fault> {
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
