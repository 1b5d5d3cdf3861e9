//! Corrections for a sampler that does not compute quite what the trainer does, such as another inference engine.
//!
//! With `rho = exp(old_logp - behaviour_logp)`, each gives a weight that the policy's part of the loss is multiplied with; 0 takes a token
//! out. Where the old log-probs are the sampler's own, rho is 1 and the policy's ratio holds all of it already.

use serde::{Deserialize, Serialize};

const LOG_RATIO_LIMIT: f64 = 20.0;

/// What is done about the difference.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "lake", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Correction {
    /// Nothing.
    #[default]
    None,
    /// Truncated importance sampling: `min(rho, high)` of each token.
    TokenTruncate,
    /// The same with the product of the row's rho.
    SequenceTruncate,
    /// rho of tokens between the bounds, 0 for the others.
    Icepop,
    /// The product of the row's rho, 0 for rows where it is above the bound.
    SequenceMask,
    /// 1 for rows whose geometric mean of rho is between the bounds, 0 for the others.
    Geometric,
    /// 1 for rows whose mean of `rho - 1 - log rho` is at most the bound, 0 for the others.
    K3Reject,
}

/// What is done about a sampler that does not compute quite what the trainer does. Needs `old_logprobs = "recompute"`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "lake", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct CorrectionConfig {
    /// The kind of correction.
    pub kind: Correction,
    /// Lower bound. Unset: 0.5 for icepop, 0.99 for geometric; the others have none.
    pub low: Option<f64>,
    /// Upper bound. Unset: 2 for the truncations, 5 for icepop, 3 for sequence_mask, 1.01 for geometric, 0.01 for k3_reject.
    pub high: Option<f64>,
}

impl CorrectionConfig {
    /// The weight of each token of a row, `[T]` like its inputs.
    pub fn weights(&self, old_logp_t: &[f64], behaviour_logp_t: &[f64]) -> Vec<f64> {
        let log_rho = || old_logp_t.iter().zip(behaviour_logp_t).map(|(old, behaviour)| old - behaviour);
        let tokens = old_logp_t.len();
        let sum: f64 = log_rho().sum();
        let whole = sum.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp();
        let each = |weight: &dyn Fn(f64) -> f64| {
            log_rho().map(|log_rho| weight(log_rho.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp())).collect()
        };
        let (low, high) = self.bounds();
        let where_kept = |kept: bool, weight: f64| if kept { weight } else { 0.0 };
        match self.kind {
            Correction::None => vec![1.0; tokens],
            Correction::TokenTruncate => each(&|rho| rho.min(high)),
            Correction::Icepop => each(&|rho| where_kept((low..=high).contains(&rho), rho)),
            Correction::SequenceTruncate => vec![whole.min(high); tokens],
            Correction::SequenceMask => vec![where_kept(whole <= high, whole); tokens],
            Correction::Geometric => {
                let mean = (sum / tokens as f64).exp();
                vec![where_kept((low..=high).contains(&mean), 1.0); tokens]
            }
            Correction::K3Reject => {
                let mean = log_rho().map(|log_rho| log_rho.exp() - 1.0 - log_rho).sum::<f64>() / tokens as f64;
                vec![where_kept(mean <= high, 1.0); tokens]
            }
        }
    }

    fn bounds(&self) -> (f64, f64) {
        let (low, high) = match self.kind {
            Correction::None => (0.0, f64::INFINITY),
            Correction::TokenTruncate | Correction::SequenceTruncate => (0.0, 2.0),
            Correction::Icepop => (0.5, 5.0),
            Correction::SequenceMask => (0.0, 3.0),
            Correction::Geometric => (0.99, 1.01),
            Correction::K3Reject => (0.0, 0.01),
        };
        (self.low.unwrap_or(low), self.high.unwrap_or(high))
    }
}
