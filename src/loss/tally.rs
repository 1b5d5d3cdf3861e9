//! What a step reports beside its loss, as sums, so that micro-batches add up.

use super::Clip;

/// Sums over the tokens of some rows. The loss parts are shares of the step's loss and add up as they are; the rest is divided by `tokens`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Tally {
    pub rows: f64,
    pub tokens: f64,
    /// The policy's part of the loss.
    pub policy_loss: f64,
    /// The divergence's part of the loss.
    pub kl_loss: f64,
    /// Sums of `logp`, entropy, `old_logp - logp` and its k3 estimate, and of the divergence from the reference.
    pub logp: f64,
    pub entropy: f64,
    pub old_kl: f64,
    pub old_k3: f64,
    pub reference_kl: f64,
    /// Tokens that were clipped.
    pub clipped_low: f64,
    pub clipped_high: f64,
    pub clipped_dual: f64,
    /// `exp(logp - old_logp)`.
    pub ratio: f64,
    pub max_ratio: f64,
    /// Weights of the correction.
    pub correction: f64,
    /// Tokens, and whole rows, that the correction took out.
    pub corrected_away: f64,
    pub rows_corrected_away: f64,
}

impl Tally {
    pub(super) fn token(&mut self, logp: f64, old_logp: f64, entropy: f64, clip: Clip, correction: f64) {
        let ratio = (logp - old_logp).exp();
        self.tokens += 1.0;
        self.logp += logp;
        self.entropy += entropy;
        self.old_kl += old_logp - logp;
        self.old_k3 += ratio - 1.0 - (logp - old_logp);
        self.ratio += ratio;
        self.max_ratio = self.max_ratio.max(ratio);
        self.correction += correction;
        self.corrected_away += f64::from(correction == 0.0);
        match clip {
            Clip::None => {}
            Clip::Low => self.clipped_low += 1.0,
            Clip::High => self.clipped_high += 1.0,
            Clip::Dual => self.clipped_dual += 1.0,
        }
    }

    pub(super) fn row(&mut self, correction_t: Option<&[f64]>) {
        self.rows += 1.0;
        let away = correction_t.is_some_and(|weights_t| !weights_t.is_empty() && weights_t.iter().all(|weight| *weight == 0.0));
        self.rows_corrected_away += f64::from(away);
    }

    /// Adds those of another micro-batch of the same step.
    pub fn merge(&mut self, other: &Tally) {
        self.rows += other.rows;
        self.tokens += other.tokens;
        self.policy_loss += other.policy_loss;
        self.kl_loss += other.kl_loss;
        self.logp += other.logp;
        self.entropy += other.entropy;
        self.old_kl += other.old_kl;
        self.old_k3 += other.old_k3;
        self.reference_kl += other.reference_kl;
        self.clipped_low += other.clipped_low;
        self.clipped_high += other.clipped_high;
        self.clipped_dual += other.clipped_dual;
        self.ratio += other.ratio;
        self.max_ratio = self.max_ratio.max(other.max_ratio);
        self.correction += other.correction;
        self.corrected_away += other.corrected_away;
        self.rows_corrected_away += other.rows_corrected_away;
    }
}
