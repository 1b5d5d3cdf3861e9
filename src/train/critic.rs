//! The value head's part of a step.

use super::CriticConfig;
use super::metrics::StepMetrics;
use super::rows::Row;
use crate::loss::{explained_variance, value_loss};

/// What the value head has estimated so far in a step.
#[derive(Debug, Clone, Default)]
pub struct Values {
    /// Rows of the step with a return to compare with: what the mean divides by.
    rows: f64,
    /// The value loss so far, times the critic's coefficient.
    pub loss: f64,
    clipped: f64,
    /// `[B]`: of the rows so far.
    value_b: Vec<f64>,
    return_b: Vec<f64>,
}

impl Values {
    /// * `rows`: of the whole step.
    pub fn new(rows: &[&Row]) -> Values {
        Values { rows: rows.iter().filter(|row| row.return_value.is_some()).count() as f64, ..Values::default() }
    }

    /// Adds the rows of a micro-batch: each with its estimate now and before the first step. Returns the slope of the loss by each of the former;
    /// 0 for a row without a return.
    pub fn slopes<'a>(&mut self, estimates: impl Iterator<Item = (&'a Row, f64, f64)>, config: &CriticConfig) -> Vec<f64> {
        let slope = |(row, value, old): (&Row, f64, f64)| {
            let Some(target) = row.return_value else { return 0.0 };
            let output = value_loss(&[value], &[old], &[target], config.clip, self.rows);
            self.loss += config.coefficient * output.loss;
            self.clipped += output.clipped;
            self.value_b.push(value);
            self.return_b.push(target);
            config.coefficient * output.slope_b[0]
        };
        estimates.map(slope).collect()
    }

    pub fn report(&self, metrics: &mut StepMetrics) {
        let rows = self.rows.max(1.0);
        metrics.set("vf_loss", self.loss);
        metrics.set("vf_clip_fraction", self.clipped / rows);
        metrics.set("value_mean", self.value_b.iter().sum::<f64>() / rows);
        metrics.set("vf_explained_variance", explained_variance(&self.value_b, &self.return_b));
    }
}
