//! The learning rate of each step.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the learning rate goes on after warm-up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// It stays.
    #[default]
    Constant,
    /// It falls in a straight line to 0 at the last step.
    Linear,
    /// It falls along half a cosine to 0 at the last step.
    Cosine,
}

impl Schedule {
    /// What the learning rate is multiplied by, 0 to 1. In the warm-up it rises from 0 in a straight line, so that step 0 changes nothing.
    ///
    /// * `step`: how many steps are done.
    /// * `total`: of the run, the warm-up's among them.
    pub fn factor(self, step: u64, warmup: u64, total: u64) -> f64 {
        if step < warmup {
            return step as f64 / warmup as f64;
        }
        let done = (step - warmup) as f64 / total.saturating_sub(warmup).max(1) as f64;
        match self {
            Schedule::Constant => 1.0,
            Schedule::Linear => (1.0 - done).max(0.0),
            Schedule::Cosine => (0.5 * (1.0 + (std::f64::consts::PI * done).cos())).max(0.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_factors_are_those_of_transformers() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/optimiser/schedules.json");
        let cases: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        for case in cases["schedules"].as_array().unwrap() {
            let schedule: Schedule = serde_json::from_value(case["schedule"].clone()).unwrap();
            let (warmup, total) = (case["warmup"].as_u64().unwrap(), case["total"].as_u64().unwrap());
            let factors = case["factors"].as_array().unwrap();
            assert_eq!(factors.len() as u64, total);
            for (step, factor) in factors.iter().enumerate() {
                let (found, expected) = (schedule.factor(step as u64, warmup, total), factor.as_f64().unwrap());
                assert!((found - expected).abs() < 1e-12, "{schedule:?} {warmup} {total} step {step}: {found} {expected}");
            }
        }
    }
}
