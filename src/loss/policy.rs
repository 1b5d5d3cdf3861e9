//! The policy losses, token by token.
//!
//! With `r = exp(logp - old_logp)` and the advantage `A`, in words of what is minimised:
//!
//! | algorithm | loss of a token | source |
//! |---|---|---|
//! | `ppo_clip` | `max(-A r, -A clip(r, 1 - low, 1 + high))`, and at most `-A dual` where `A < 0` | Schulman et al. 2017, arXiv 1707.06347, eq. 7; the asymmetric bounds from DAPO, 2503.14476; the cap from Ye et al. 2019, 1912.09729, eq. 3 |
//! | `reinforce` | `-A logp` | Williams 1992 |
//! | `cispo` | `-A sg(clip(r, 1 - low, 1 + high)) logp` | MiniMax-M1, 2506.13585, eq. 4 |
//! | `gspo` | that of `ppo_clip` with the ratio of the whole response, `exp(mean_t(logp - old_logp))` | Zheng et al. 2025, 2507.18071, eq. 5 |
//! | `dppo_tv` | `-A sg(min(r, dual)) logp`, none where the probability has moved further than the bounds in the direction of `A` | divergence PPO with total variation |
//! | `sft` | `-logp`, whatever the advantage | cross-entropy |
//!
//! `sg` is held constant: it has no slope. `logp - old_logp` is held within ±20 (gspo: at most 10), where it has no slope either.

use serde::{Deserialize, Serialize};

use super::{Aggregation, LossConfig, Row};

const LOG_RATIO_LIMIT: f64 = 20.0;
const SEQUENCE_LOG_RATIO_LIMIT: f64 = 10.0;

/// What the policy is trained with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "lake", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// The clipped ratio, with a higher bound above than below and a cap for negative advantages.
    #[default]
    PpoClip,
    /// The plain policy gradient; no ratio.
    Reinforce,
    /// The clipped ratio as a constant weight, so that no token's gradient is lost.
    Cispo,
    /// The clipped ratio of whole responses.
    Gspo,
    /// The ratio as a constant weight, without the tokens whose probability has moved too far.
    DppoTv,
    /// Cross-entropy on the chosen rows.
    Sft,
}

/// What an algorithm did to a token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Clip {
    #[default]
    None,
    /// The ratio was below its bound.
    Low,
    /// The ratio was above its bound.
    High,
    /// The advantage is negative and the ratio above the cap.
    Dual,
}

impl Algorithm {
    /// Whether the loss needs log-probs from before the update.
    pub fn has_ratio(self) -> bool {
        !matches!(self, Algorithm::Reinforce | Algorithm::Sft)
    }

    pub(super) fn aggregation(self) -> Aggregation {
        if self == Algorithm::Gspo { Aggregation::SequenceMean } else { Aggregation::TokenMean }
    }
}

/// An algorithm with its bounds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rule {
    algorithm: Algorithm,
    low: f64,
    high: f64,
    cap: f64,
}

/// One token's loss, how it changes with the token's log-prob, and what became of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct TokenLoss {
    pub loss: f64,
    pub slope: f64,
    pub clip: Clip,
}

impl Rule {
    pub(super) fn new(algorithm: Algorithm, config: &LossConfig) -> Rule {
        let (low, high, cap) = match algorithm {
            Algorithm::PpoClip | Algorithm::Reinforce | Algorithm::Sft => (0.2, 0.28, 3.0),
            Algorithm::Cispo => (1.0, 4.0, f64::INFINITY),
            Algorithm::Gspo => (3e-4, 4e-4, 3.0),
            Algorithm::DppoTv => (0.2, 0.2, 20.0),
        };
        let (low, high) = (config.clip_low.unwrap_or(low), config.clip_high.unwrap_or(high));
        Rule { algorithm, low, high, cap: config.dual_clip.unwrap_or(cap) }
    }

    /// The tokens of one row.
    pub(super) fn tokens<'a>(&self, row: &'a Row) -> impl Iterator<Item = TokenLoss> + use<'a> {
        let rule = *self;
        let mean = row.logp_t.iter().zip(row.old_logp_t).map(|(logp, old)| logp - old).sum::<f64>() / row.logp_t.len() as f64;
        row.logp_t.iter().zip(row.old_logp_t).map(move |(&logp, &old)| rule.token(logp, old, mean, row.advantage))
    }

    /// * `mean`: of the row's log-ratios.
    fn token(&self, logp: f64, old: f64, mean: f64, advantage: f64) -> TokenLoss {
        let (log_ratio, moves) = limited(logp - old, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT);
        let ratio = log_ratio.exp();
        match self.algorithm {
            Algorithm::Sft => TokenLoss { loss: -logp, slope: -1.0, clip: Clip::None },
            Algorithm::Reinforce => weighted(1.0, advantage, logp, Clip::None),
            Algorithm::PpoClip => self.clipped(ratio, moves, advantage),
            Algorithm::Gspo => {
                let (log_ratio, moves) = limited(mean, f64::NEG_INFINITY, SEQUENCE_LOG_RATIO_LIMIT);
                self.clipped(log_ratio.exp(), moves, advantage)
            }
            Algorithm::Cispo => {
                let clip = self.side(ratio);
                weighted(self.bounded(ratio), advantage, logp, clip)
            }
            Algorithm::DppoTv => {
                let moved = logp.exp() - old.exp();
                match advantage > 0.0 {
                    true if moved > self.high => TokenLoss { loss: 0.0, slope: 0.0, clip: Clip::High },
                    false if moved < -self.low => TokenLoss { loss: 0.0, slope: 0.0, clip: Clip::Low },
                    _ => weighted(ratio.min(self.cap), advantage, logp, Clip::None),
                }
            }
        }
    }

    /// The pessimistic choice between the ratio and the ratio within its bounds.
    fn clipped(&self, ratio: f64, moves: bool, advantage: f64) -> TokenLoss {
        let free = -advantage * ratio;
        let held = -advantage * self.bounded(ratio);
        let capped = -advantage * self.cap;
        // A ratio that is no number has to stay one: the caller skips such steps.
        if advantage < 0.0 && free.max(held) > capped {
            return TokenLoss { loss: capped, slope: 0.0, clip: Clip::Dual };
        }
        if held > free {
            return TokenLoss { loss: held, slope: 0.0, clip: self.side(ratio) };
        }
        TokenLoss { loss: free, slope: if moves { free } else { 0.0 }, clip: Clip::None }
    }

    fn bounded(&self, ratio: f64) -> f64 {
        ratio.max(1.0 - self.low).min(1.0 + self.high)
    }

    fn side(&self, ratio: f64) -> Clip {
        match () {
            () if ratio < 1.0 - self.low => Clip::Low,
            () if ratio > 1.0 + self.high => Clip::High,
            () => Clip::None,
        }
    }
}

/// `-weight A logp`, the weight held constant.
fn weighted(weight: f64, advantage: f64, logp: f64, clip: Clip) -> TokenLoss {
    TokenLoss { loss: -advantage * weight * logp, slope: -advantage * weight, clip }
}

/// A number held between two others, and whether it was there already.
fn limited(x: f64, low: f64, high: f64) -> (f64, bool) {
    (x.clamp(low, high), (low..=high).contains(&x))
}
