//! What each step reports: the rows of `train_steps`, and the same numbers for TensorBoard.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::DataType;
use serde::{Deserialize, Serialize};

use super::rows::Row;
use crate::loss::{Mismatch, Tally};
use crate::schema;

/// One step. Its numbers carry the names of the columns of `train_steps`, where they are explained.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    pub step: u64,
    pub epoch: u64,
    pub skipped: bool,
    pub counts: BTreeMap<String, i64>,
    /// Only those that there are: a mean of nothing is left out.
    pub numbers: BTreeMap<String, f64>,
}

impl StepMetrics {
    pub fn new(step: u64, epoch: u64) -> StepMetrics {
        StepMetrics { step, epoch, ..StepMetrics::default() }
    }

    /// Notes a number where there is one.
    pub fn set(&mut self, name: &str, value: impl Into<Option<f64>>) {
        if let Some(value) = value.into() {
            self.numbers.insert(name.to_owned(), value);
        }
    }

    pub fn get(&self, name: &str) -> Option<f64> {
        self.numbers.get(name).copied()
    }

    fn count(&mut self, name: &str, count: usize) {
        self.counts.insert(name.to_owned(), count as i64);
    }

    /// What the rows themselves say.
    ///
    /// * `advantages`: of each row, with the divergence taken off where it is in the reward.
    /// * `policy_version`: of the policy that is trained.
    pub fn describe(&mut self, rows: &[&Row], advantages: &[f64], policy_version: u64) {
        let tokens: Vec<f64> = rows.iter().map(|row| row.response.len() as f64).collect();
        let rollouts: BTreeMap<usize, &Row> = rows.iter().map(|row| (row.rollout, *row)).collect();
        let groups: BTreeSet<usize> = rows.iter().map(|row| row.group).collect();
        self.count("calls", rows.len());
        self.count("rollouts", rollouts.len());
        self.count("groups", groups.len());
        self.count("response_tokens", tokens.iter().sum::<f64>() as usize);

        let rewards: Vec<f64> = rollouts.values().filter_map(|row| row.outcome).collect();
        let reward = Moments::of(rewards.iter().map(|reward| (*reward, 1.0)));
        self.set("reward_mean", reward.mean());
        self.set("reward_std", reward.deviation());
        self.set("reward_min", rewards.iter().copied().reduce(f64::min));
        self.set("reward_max", rewards.iter().copied().reduce(f64::max));
        let advantage = Moments::of(advantages.iter().copied().zip(tokens.iter().copied()));
        self.set("advantage_mean", advantage.mean());
        self.set("advantage_std", advantage.deviation());
        let zero = Moments::of(advantages.iter().map(|advantage| f64::from(*advantage == 0.0)).zip(tokens.iter().copied()));
        self.set("frac_advantage_zero", zero.mean());

        let mean = |of: &dyn Fn(&Row) -> f64| Moments::of(rows.iter().map(|row| (of(row), 1.0))).mean();
        self.set("response_length_mean", mean(&|row| row.response.len() as f64));
        self.set("response_length_max", tokens.iter().copied().reduce(f64::max));
        self.set("prompt_length_mean", mean(&|row| row.prompt.len() as f64));
        self.set("truncated_fraction", mean(&|row| f64::from(row.truncated)));
        self.set("turns_mean", Some(rows.len() as f64 / rollouts.len().max(1) as f64));
        let lags = rows.iter().filter_map(|row| row.policy_version).map(|version| (policy_version.abs_diff(version) as f64, 1.0));
        self.set("staleness_mean", Moments::of(lags).mean());
    }

    /// What the loss found.
    ///
    /// * `has_ratio`: whether the algorithm compares with log-probs from before; without, there is nothing to say of a ratio.
    /// * `has_reference`: whether there is a reference policy.
    pub fn tally(&mut self, tally: &Tally, mismatch: &Mismatch, has_ratio: bool, has_reference: bool) {
        let mean = |sum: f64| (tally.tokens > 0.0).then(|| sum / tally.tokens);
        self.set("policy_loss", tally.policy_loss);
        self.set("entropy", mean(tally.entropy));
        if has_ratio {
            self.set("ppo_kl", mean(tally.old_kl));
            self.set("approx_kl", mean(tally.old_k3));
            self.set("ratio_mean", mean(tally.ratio));
            self.set("ratio_max", tally.max_ratio);
            self.set("clip_fraction_low", mean(tally.clipped_low));
            self.set("clip_fraction_high", mean(tally.clipped_high));
            self.set("clip_fraction_dual", mean(tally.clipped_dual));
            self.set("correction_mean", mean(tally.correction));
            self.set("frac_tokens_rejected", mean(tally.corrected_away));
            self.set("frac_rows_rejected", tally.rows_corrected_away / tally.rows.max(1.0));
        }
        if has_reference {
            self.set("kl_loss", tally.kl_loss);
            self.set("reference_kl", mean(tally.reference_kl));
        }
        self.set("sampling_logp_difference_mean", mismatch.mean_difference());
        self.set("sampling_logp_difference_max", mismatch.mean_difference().map(|_| mismatch.max_difference));
        self.set("sampling_k3", mismatch.k3());
        self.set("sampling_chi2", mismatch.chi_squared());
        self.set("sampling_ratio_mean", mismatch.mean_rho());
        self.set("sampling_ratio_min", mismatch.rho_range().map(|(least, _)| least));
        self.set("sampling_ratio_max", mismatch.rho_range().map(|(_, largest)| largest));
        self.set("effective_sample_size", mismatch.effective_share());
    }

    /// What it took to compute.
    pub fn work(&mut self, row_tokens: usize, trie_tokens: usize, seconds: f64) {
        self.count("row_tokens", row_tokens);
        self.count("trie_tokens", trie_tokens);
        self.set("seconds", seconds);
        self.set("tokens_per_second", row_tokens as f64 / seconds.max(1e-9));
    }
}

/// The steps as rows of `train_steps`. Fails for a number that the table has no column for.
pub fn table(steps: &[StepMetrics], policy_version: u64, algorithm: &str) -> Result<RecordBatch> {
    let table = schema::table("train_steps")?;
    for name in steps.iter().flat_map(|step| step.numbers.keys().chain(step.counts.keys())) {
        ensure!(table.arrow.field_with_name(name).is_ok(), "`train_steps` has no column `{name}`");
    }
    let columns = table.arrow.fields().iter().map(|field| -> Result<ArrayRef> {
        let whole = |of: &dyn Fn(&StepMetrics) -> i64| Arc::new(Int64Array::from_iter_values(steps.iter().map(of)));
        Ok(match (field.name().as_str(), field.data_type()) {
            ("step", _) => whole(&|step| step.step as i64),
            ("epoch", _) => whole(&|step| step.epoch as i64),
            ("policy_version", _) => whole(&|_| policy_version as i64),
            ("algorithm", _) => Arc::new(StringArray::from_iter_values(steps.iter().map(|_| algorithm))),
            ("skipped", _) => Arc::new(BooleanArray::from_iter(steps.iter().map(|step| Some(step.skipped)))),
            (name, DataType::Int64) => whole(&|step| step.counts.get(name).copied().unwrap_or(0)),
            (name, _) => Arc::new(Float64Array::from_iter(steps.iter().map(|step| step.get(name)))),
        })
    });
    RecordBatch::try_new(Arc::clone(&table.arrow), columns.collect::<Result<_>>()?).context("rows of `train_steps`")
}

/// Mean and deviation of weighted numbers.
#[derive(Debug, Clone, Copy, Default)]
struct Moments {
    weight: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    /// Source: West 1979, "Updating mean and variance estimates".
    fn of(numbers: impl Iterator<Item = (f64, f64)>) -> Moments {
        numbers.fold(Moments::default(), |so_far, (number, weight)| {
            if weight == 0.0 {
                return so_far;
            }
            let total = so_far.weight + weight;
            let distance = number - so_far.mean;
            let mean = so_far.mean + distance * weight / total;
            Moments { weight: total, mean, squares: so_far.squares + weight * distance * (number - mean) }
        })
    }

    fn mean(&self) -> Option<f64> {
        (self.weight > 0.0).then_some(self.mean)
    }

    /// With n - 1; `None` for fewer than two.
    fn deviation(&self) -> Option<f64> {
        (self.weight > 1.0).then(|| (self.squares / (self.weight - 1.0)).sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(group: usize, rollout: usize, tokens: usize, outcome: f64) -> Row {
        Row {
            group_id: format!("g{group}"),
            rollout_id: format!("r{rollout}"),
            call_id: String::new(),
            step: 0,
            group,
            rollout,
            prompt: vec![1; 10],
            response: vec![2; tokens],
            behaviour_logp_t: None,
            temperature: 1.0,
            advantage: 0.0,
            weight: 1.0,
            outcome: Some(outcome),
            return_value: None,
            truncated: tokens > 3,
            policy_version: Some(4),
        }
    }

    #[test]
    fn rows_are_described_by_hand() {
        // Rollout 0 has two calls and counts once in the rewards.
        let rows = [row(0, 0, 1, 1.0), row(0, 0, 3, 1.0), row(0, 1, 4, 0.0), row(1, 2, 2, 0.5)];
        let mut metrics = StepMetrics::new(3, 1);
        metrics.describe(&rows.iter().collect::<Vec<_>>(), &[0.5, 0.5, -0.5, 0.0], 5);
        let expected = [
            ("reward_mean", 0.5),
            ("reward_std", 0.5),
            ("reward_min", 0.0),
            ("reward_max", 1.0),
            ("advantage_mean", 0.0),                  // (4 * 0.5 - 4 * 0.5 + 2 * 0) / 10
            ("advantage_std", (2.0f64 / 9.0).sqrt()), // 8 * 0.25 / 9
            ("frac_advantage_zero", 0.2),
            ("response_length_mean", 2.5),
            ("response_length_max", 4.0),
            ("prompt_length_mean", 10.0),
            ("truncated_fraction", 0.25),
            ("turns_mean", 4.0 / 3.0),
            ("staleness_mean", 1.0),
        ];
        for (name, expected) in expected {
            let found = metrics.get(name).unwrap();
            assert!((found - expected).abs() < 1e-12, "{name}: {found} {expected}");
        }
        assert_eq!((metrics.counts["calls"], metrics.counts["rollouts"], metrics.counts["groups"]), (4, 3, 2));
        assert_eq!(metrics.counts["response_tokens"], 10);
    }

    #[test]
    fn every_number_has_its_column() {
        let mut mismatch = Mismatch::default();
        mismatch.add(&[-1.0, -2.0], &[-1.1, -2.0]);
        let mut metrics = StepMetrics::new(0, 0);
        metrics.describe(&[&row(0, 0, 2, 1.0)], &[1.0], 4);
        metrics.tally(&Tally { tokens: 2.0, ..Tally::default() }, &mismatch, true, true);
        metrics.work(24, 12, 0.5);
        let rows = table(&[metrics.clone()], 5, "ppo_clip").unwrap();
        let column = |name: &str| rows.column_by_name(name).unwrap().as_any().downcast_ref::<Float64Array>().unwrap().value(0);
        assert_eq!((column("tokens_per_second"), column("reward_mean")), (48.0, 1.0));
        metrics.set("colour", 1.0);
        assert_eq!(table(&[metrics], 5, "ppo_clip").unwrap_err().to_string(), "`train_steps` has no column `colour`");
    }
}
