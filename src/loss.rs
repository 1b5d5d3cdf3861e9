//! Losses of reinforcement learning and of imitation, in plain `f64`, with their exact slopes.
//!
//! A loss sees log-probs and gives back `dL/dlogp` (and `dL/dentropy`); the model turns that into gradients of its weights with
//! `(logp * slope).sum().backward()`. So nothing here knows of tensors, and everything here is tested without libtorch.
//!
//! Rows come in micro-batches, and a loss is a mean over the whole step. `Denominators` hold what the mean divides by, counted over the
//! step before its first micro-batch, so that the sum over micro-batches, of losses and of slopes, is that of the step in one piece.
//!
//! Only tokens that the policy sampled are here: prompts, tool results and padding never are, which is why there is no mask.

mod aggregate;
mod correction;
mod kl;
mod mismatch;
mod policy;
mod tally;
mod value;

use serde::{Deserialize, Serialize};

pub use aggregate::{Aggregation, Denominators};
pub use correction::{Correction, CorrectionConfig};
pub use kl::{Kl, KlConfig, KlPlace, in_reward};
pub use mismatch::Mismatch;
pub use policy::{Algorithm, Clip};
pub use tally::Tally;
pub use value::{ValueLoss, explained_variance, value_loss};

/// The response tokens of one LLM call. Every slice is `[T]`, in nats; whoever makes a row is responsible for that.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// Of the policy as it is now.
    pub logp_t: &'a [f64],
    /// Of the policy when the update began; the ratio of the policy losses is `exp(logp - old_logp)`.
    pub old_logp_t: &'a [f64],
    /// As the sampler recorded it. Needed by corrections alone.
    pub behaviour_logp_t: Option<&'a [f64]>,
    /// Of the reference policy. Needed where KL is in the loss.
    pub reference_logp_t: Option<&'a [f64]>,
    /// Entropy of the distribution that each token was drawn from.
    pub entropy_t: &'a [f64],
    /// Of the whole call.
    pub advantage: f64,
    /// Multiplies everything that this row adds to the loss.
    pub weight: f64,
    /// Index of the rollout within the step, as `Denominators` were counted.
    pub rollout: usize,
}

/// What is added up for one token, beside the algorithm itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "lake", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct LossConfig {
    /// How far below 1 the ratio may go. Unset: 0.2 for ppo_clip and dppo_tv (there a difference of probabilities), 1 for cispo, 3e-4 for
    /// gspo.
    pub clip_low: Option<f64>,
    /// How far above 1 the ratio may go. Unset: 0.28 for ppo_clip, 0.2 for dppo_tv, 4 for cispo, 4e-4 for gspo.
    pub clip_high: Option<f64>,
    /// What the ratio is capped at where the advantage is negative (ppo_clip and gspo), or at all (dppo_tv). Unset: 3, and 20 for dppo_tv.
    /// Infinity (`inf`) takes the cap away.
    pub dual_clip: Option<f64>,
    /// How the losses of tokens become one number. Unset: token_mean, and sequence_mean for gspo.
    pub aggregation: Option<Aggregation>,
    /// The constant that aggregation `constant` divides a row's sum by, such as the most tokens that a response may have.
    pub constant_tokens: Option<f64>,
    /// Weight of the entropy bonus: the loss loses this times the entropy of each token.
    pub entropy_bonus: f64,
    pub kl: KlConfig,
    pub correction: CorrectionConfig,
}

/// What the loss is, and how it changes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Output {
    /// The share of these rows in the loss of the step.
    pub loss: f64,
    /// For each row, in order.
    pub slopes: Vec<Slopes>,
    pub tally: Tally,
}

/// `[T]` each.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Slopes {
    /// `dL/dlogp`.
    pub logp_t: Vec<f64>,
    /// `dL/dentropy`; all zero without an entropy bonus.
    pub entropy_t: Vec<f64>,
    /// What the algorithm did to each token.
    pub clip_t: Vec<Clip>,
}

/// The loss of some rows of a step, with its slopes.
///
/// * `denominators`: counted over every row of the step, these among them.
///
/// Rows without tokens add nothing. Numbers that are not finite come through as they are: the caller looks at the loss.
pub fn evaluate(rows: &[Row], denominators: &Denominators, algorithm: Algorithm, config: &LossConfig) -> Output {
    let rule = policy::Rule::new(algorithm, config);
    let aggregation = config.aggregation.unwrap_or(algorithm.aggregation());
    let mut output = Output::default();
    for row in rows {
        let scale = row.weight * denominators.scale(aggregation, config.constant_tokens, row.rollout, row.logp_t.len());
        let correction_t = row.behaviour_logp_t.map(|behaviour_t| config.correction.weights(row.old_logp_t, behaviour_t));
        let mut slopes = Slopes::default();
        for (token, policy) in rule.tokens(row).enumerate() {
            let correction = correction_t.as_ref().map_or(1.0, |weights_t| weights_t[token]);
            let mut loss = correction * policy.loss;
            let mut slope = correction * policy.slope;
            output.tally.policy_loss += scale * loss;
            if let Some(reference_t) = row.reference_logp_t {
                let kl = config.kl.estimator.of(row.logp_t[token], reference_t[token]);
                output.tally.reference_kl += kl.value;
                if config.kl.place == KlPlace::Loss {
                    loss += config.kl.coefficient * kl.value;
                    slope += config.kl.coefficient * kl.slope;
                    output.tally.kl_loss += scale * config.kl.coefficient * kl.value;
                }
            }
            loss -= config.entropy_bonus * row.entropy_t[token];
            output.loss += scale * loss;
            slopes.logp_t.push(scale * slope);
            slopes.entropy_t.push(-scale * config.entropy_bonus);
            slopes.clip_t.push(policy.clip);
            output.tally.token(row.logp_t[token], row.old_logp_t[token], row.entropy_t[token], policy.clip, correction);
        }
        output.tally.row(correction_t.as_deref());
        output.slopes.push(slopes);
    }
    output
}

#[cfg(test)]
mod golden;
