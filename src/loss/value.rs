//! The loss of the value head.

/// The loss of some estimates, with its slope by each of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ValueLoss {
    pub loss: f64,
    /// `dL/dvalue`, `[B]`.
    pub slope_b: Vec<f64>,
    /// How many estimates were held by the clip.
    pub clipped: f64,
}

/// `½ mean(max((V - G)², (clip(V, V_old ± clip) - G)²))`. Source: the value loss of PPO as OpenAI's baselines have it.
///
/// * `value_b`, `old_value_b`, `return_b`: `[B]`, in units of reward: estimates now, when the update began, and what they should be.
/// * `clip`: how far an estimate may go in one update; infinity for as far as it likes.
/// * `rows`: estimates of the whole step, which the mean divides by.
pub fn value_loss(value_b: &[f64], old_value_b: &[f64], return_b: &[f64], clip: f64, rows: f64) -> ValueLoss {
    let mut output = ValueLoss::default();
    let scale = rows.max(1.0).recip();
    for ((&value, &old), &target) in value_b.iter().zip(old_value_b).zip(return_b) {
        let held = value.max(old - clip).min(old + clip);
        let (free_error, held_error) = ((value - target).powi(2), (held - target).powi(2));
        let is_held = held_error > free_error;
        output.loss += 0.5 * scale * free_error.max(held_error);
        output.slope_b.push(if is_held { 0.0 } else { scale * (value - target) });
        output.clipped += f64::from(is_held);
    }
    output
}

/// `1 - Var(G - V) / Var(G)`: 1 for a perfect estimate, 0 for one no better than a constant. `None` where the returns do not vary.
pub fn explained_variance(value_b: &[f64], return_b: &[f64]) -> Option<f64> {
    let variance = |x_b: &[f64]| {
        let mean = x_b.iter().sum::<f64>() / x_b.len() as f64;
        x_b.iter().map(|x| (x - mean).powi(2)).sum::<f64>()
    };
    let error_b: Vec<f64> = return_b.iter().zip(value_b).map(|(target, value)| target - value).collect();
    let total = variance(return_b);
    (total > 0.0).then(|| 1.0 - variance(&error_b) / total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn explained_variance_by_hand() {
        assert_eq!(explained_variance(&[1.0, 2.0, 3.0], &[1.0, 2.0, 3.0]), Some(1.0));
        assert_eq!(explained_variance(&[2.0, 2.0, 2.0], &[1.0, 2.0, 3.0]), Some(0.0));
        assert_eq!(explained_variance(&[1.0, 2.0], &[3.0, 3.0]), None);
    }
}
