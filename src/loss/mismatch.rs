//! How far the trainer's log-probs are from those that the sampler recorded, for the same weights and tokens.

/// Sums over tokens, so that micro-batches add up.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Mismatch {
    pub tokens: f64,
    difference: f64,
    pub max_difference: f64,
    k3: f64,
    rho: f64,
    rho_squared: f64,
    min_rho: f64,
    max_rho: f64,
}

impl Mismatch {
    /// Adds the tokens of a row, `[T]` each: as the trainer computes them and as the sampler recorded them.
    pub fn add(&mut self, trainer_logp_t: &[f64], behaviour_logp_t: &[f64]) {
        for (trainer, behaviour) in trainer_logp_t.iter().zip(behaviour_logp_t) {
            let log_rho = trainer - behaviour;
            let rho = log_rho.exp();
            let one = Mismatch {
                tokens: 1.0,
                difference: log_rho.abs(),
                max_difference: log_rho.abs(),
                k3: rho - 1.0 - log_rho,
                rho,
                rho_squared: rho * rho,
                min_rho: rho,
                max_rho: rho,
            };
            self.merge(&one);
        }
    }

    /// Adds the tokens of another part of the step.
    pub fn merge(&mut self, other: &Mismatch) {
        if other.tokens == 0.0 {
            return;
        }
        self.min_rho = if self.tokens == 0.0 { other.min_rho } else { self.min_rho.min(other.min_rho) };
        self.max_rho = self.max_rho.max(other.max_rho);
        self.max_difference = self.max_difference.max(other.max_difference);
        self.tokens += other.tokens;
        self.difference += other.difference;
        self.k3 += other.k3;
        self.rho += other.rho;
        self.rho_squared += other.rho_squared;
    }

    /// Mean of `|trainer - behaviour|`, in nats; as all that follow, `None` without tokens.
    pub fn mean_difference(&self) -> Option<f64> {
        self.mean(self.difference)
    }

    /// KL of the sampler's distribution from the trainer's, by the k3 estimator.
    pub fn k3(&self) -> Option<f64> {
        self.mean(self.k3)
    }

    /// Mean of `rho = exp(trainer - behaviour)`.
    pub fn mean_rho(&self) -> Option<f64> {
        self.mean(self.rho)
    }

    pub fn rho_range(&self) -> Option<(f64, f64)> {
        (self.tokens > 0.0).then_some((self.min_rho, self.max_rho))
    }

    /// Chi-squared divergence: mean of `rho²`, minus 1.
    pub fn chi_squared(&self) -> Option<f64> {
        self.mean(self.rho_squared).map(|mean| mean - 1.0)
    }

    /// Effective sample size over sample size, `(sum rho)² / (n sum rho²)`: 1 where the weights are all equal.
    pub fn effective_share(&self) -> Option<f64> {
        (self.rho_squared > 0.0).then(|| self.rho * self.rho / (self.tokens * self.rho_squared))
    }

    fn mean(&self, sum: f64) -> Option<f64> {
        (self.tokens > 0.0).then(|| sum / self.tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_tokens_by_hand() {
        let mut whole = Mismatch::default();
        whole.add(&[2f64.ln(), 0.5f64.ln()], &[0.0, 0.0]);
        let close =
            |found: Option<f64>, expected: f64| assert!((found.unwrap() - expected).abs() < 1e-15, "{found:?} {expected}");
        close(whole.mean_difference(), std::f64::consts::LN_2);
        close(whole.k3(), 0.25); // (2 - 1 - ln 2 + 1/2 - 1 + ln 2) / 2
        close(whole.mean_rho(), 1.25);
        close(whole.chi_squared(), 1.125); // (4 + 1/4) / 2 - 1
        close(whole.effective_share(), 2.5 * 2.5 / (2.0 * 4.25));
        assert_eq!(whole.rho_range(), Some((0.5, 2.0)));
        let mut parts = Mismatch::default();
        for logp in [2f64.ln(), 0.5f64.ln()] {
            let mut part = Mismatch::default();
            part.add(&[logp], &[0.0]);
            parts.merge(&part);
        }
        assert_eq!(parts, whole);
        assert_eq!(Mismatch::default().k3(), None);
    }
}
