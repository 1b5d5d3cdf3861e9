//! The divergence from a reference policy, estimated at the sampled tokens.

use serde::{Deserialize, Serialize};

/// Log-ratios and estimates are held within these, as one token that the reference thinks impossible would outweigh the step.
const LOG_RATIO_LIMIT: f64 = 20.0;
const K3_LIMIT: f64 = 10.0;

/// How the divergence is estimated, with `d = logp - reference_logp`. Source: Schulman 2020, "Approximating KL divergence".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "lake", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Kl {
    /// `d`: no bias, much variance; its expected gradient as a loss is zero, so it belongs into the reward.
    K1,
    /// `|d|`.
    Abs,
    /// `d² / 2`: its gradient is that of the reverse KL.
    K2,
    /// `exp(-d) - 1 + d`: no bias, never negative.
    #[default]
    K3,
    /// The value of k3 with the gradient of k2.
    K3Plus,
}

/// Where the divergence goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "lake", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum KlPlace {
    /// Added to each token's loss.
    #[default]
    Loss,
    /// Taken from each rollout's reward, before the update; the mean of its group is added back, as the advantages have their baseline already.
    Reward,
}

/// The pull towards a reference policy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "lake", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct KlConfig {
    /// How much the divergence from the reference counts; 0 needs no reference.
    pub coefficient: f64,
    /// How it is estimated.
    pub estimator: Kl,
    /// Whether it goes into the loss or into the reward.
    pub place: KlPlace,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Estimate {
    pub value: f64,
    /// By `logp`.
    pub slope: f64,
}

impl Kl {
    /// The estimate at one token.
    pub(super) fn of(self, logp: f64, reference_logp: f64) -> Estimate {
        let difference = logp - reference_logp;
        match self {
            Kl::K1 => Estimate { value: difference, slope: 1.0 },
            Kl::Abs => {
                // `signum` has no zero.
                let slope = if difference == 0.0 { 0.0 } else { difference.signum() };
                Estimate { value: difference.abs(), slope }
            }
            Kl::K2 => Estimate { value: 0.5 * difference * difference, slope: difference },
            Kl::K3 => {
                let inverse = (-difference).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT);
                let value = inverse.exp() - inverse - 1.0;
                let held = difference.abs() > LOG_RATIO_LIMIT || value > K3_LIMIT;
                Estimate { value: value.min(K3_LIMIT), slope: if held { 0.0 } else { 1.0 - inverse.exp() } }
            }
            Kl::K3Plus => Estimate { value: Kl::K3.of(logp, reference_logp).value, slope: difference },
        }
    }
}

/// What `KlPlace::Reward` adds to each row's advantage: `-coefficient (K_i - mean of K over the rollouts of the group)`, where `K_i` is the sum
/// of the estimate over all tokens of rollout i. For advantages that are rewards minus their group's mean this is exactly the advantage of
/// the reward with the divergence taken off; for others it is left undivided.
///
/// * `rows`: for each row the indices of its rollout and of its group, and the row's sum of the estimate.
///
/// Returns one number for each row.
pub fn in_reward(rows: &[(usize, usize, f64)], coefficient: f64) -> Vec<f64> {
    let mut of_rollout = std::collections::BTreeMap::<(usize, usize), f64>::new();
    for &(rollout, group, sum) in rows {
        *of_rollout.entry((group, rollout)).or_default() += sum;
    }
    let baseline = |group: usize| {
        let of_group = of_rollout.range((group, 0)..=(group, usize::MAX));
        let (count, sum) = of_group.fold((0.0, 0.0), |(count, sum), (_, kl)| (count + 1.0, sum + kl));
        sum / count
    };
    rows.iter().map(|&(rollout, group, _)| -coefficient * (of_rollout[&(group, rollout)] - baseline(group))).collect()
}

impl Kl {
    /// The sum over a row's tokens, `[T]` each.
    pub fn sum(self, logp_t: &[f64], reference_logp_t: &[f64]) -> f64 {
        logp_t.iter().zip(reference_logp_t).map(|(&logp, &reference)| self.of(logp, reference).value).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_in_the_reward_keeps_each_groups_mean() {
        // Group 0: rollouts 0 (two rows, 0.1 + 0.3) and 1 (0.2), mean 0.3; group 1: rollout 2 alone.
        let rows = [(0, 0, 0.1), (0, 0, 0.3), (1, 0, 0.2), (2, 1, 5.0)];
        let expected = [-0.05, -0.05, 0.05, 0.0];
        for (found, expected) in in_reward(&rows, 0.5).into_iter().zip(expected) {
            assert!((found - expected).abs() < 1e-15, "{found} {expected}");
        }
    }

    #[test]
    fn an_impossible_token_does_not_outweigh_the_step() {
        assert_eq!(Kl::K3.of(-100.0, -1.0), Estimate { value: 10.0, slope: 0.0 });
        assert_eq!(Kl::K3.of(-1.0, -100.0), Estimate { value: 10.0, slope: 0.0 });
    }
}
