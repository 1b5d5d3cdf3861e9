//! What the report counts, with polars: rewards with their intervals, findings of AIR, credit, failures and the optimiser's metrics.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use polars::prelude::{BooleanChunked, ChunkAgg as _, ChunkQuantile as _, DataFrame, QuantileMethod};

use super::query::{first, numbers, parts, texts, wholes};
use crate::eval::{self, Mean};

/// Bars of the histogram of advantages; odd, so that one is around 0.
const BINS: usize = 31;

/// Share of advantages that the histogram's range holds on each side; the rest is counted in the outermost bars.
const INSIDE: f64 = 0.995;

/// What a rollout without failure class is counted as.
pub const NO_FAILURE: &str = "no failure";

/// The rollouts of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    pub name: String,
    /// The policy that made them; `None` where it is not stated, or there are several.
    pub policy_version: Option<i64>,
    pub rollouts: usize,
    /// Mean over rollouts, with the margin from the spread over groups, since rollouts of one task are alike.
    pub reward: Option<Mean>,
    pub groups: usize,
    pub calls: i64,
    pub tool_calls: i64,
    pub tool_errors: i64,
    pub output_tokens: i64,
    /// Rollouts by failure class.
    pub classes: BTreeMap<String, usize>,
}

/// What a policy earned on one split.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    pub split: String,
    pub policy_version: i64,
    pub greedy: bool,
    pub tasks: usize,
    pub reward: Mean,
}

/// What one rule of AIR found.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    pub name: String,
    pub findings: usize,
    pub value: f64,
    /// Findings for each rollout, batch by batch.
    pub per_rollout: Vec<f64>,
}

/// Mean advantage of an agent's calls at one step.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    pub agent: String,
    pub step: i64,
    pub calls: usize,
    pub advantage: f64,
}

/// How advantages are spread.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Histogram {
    /// Lower end, upper end and calls of each bar.
    pub bars: Vec<(f64, f64, usize)>,
    pub calls: usize,
    /// Calls whose advantage is 0: nothing is learnt from them.
    pub zero: usize,
    /// Largest absolute value but for outliers: what colours are scaled by.
    pub scale: f64,
}

/// A metric of the optimiser, batch by batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    pub name: &'static str,
    pub about: &'static str,
    /// Mean over the batch's steps, or the largest; `None` where the batch was not trained on.
    pub values: Vec<Option<f64>>,
}

/// Column, title, explanation, and whether the largest value counts instead of the mean.
const METRICS: [(&str, &str, &str, bool); 7] = [
    ("approx_kl", "KL", "old to new policy, k3 estimate, nats a token", false),
    ("entropy", "Entropy", "mean over tokens, nats", false),
    ("clipped", "Clip fraction", "share of tokens held at a bound", false),
    ("grad_norm", "Gradient norm", "before clipping", false),
    ("mismatch", "Sampler to trainer", "largest difference of log-probs of the same token", true),
    ("response_length", "Response length", "tokens a call", false),
    ("loss", "Loss", "what was minimised", false),
];

/// The rollouts batch by batch, in the order of the batches' names.
pub fn batches(rollouts: &DataFrame) -> Result<Vec<Batch>> {
    parts(rollouts, &["batch"])?.iter().map(batch).collect()
}

fn batch(rows: &DataFrame) -> Result<Batch> {
    let versions: BTreeSet<Option<i64>> = wholes(rows, "policy_version")?.iter().collect();
    let rewards = numbers(rows, "reward")?;
    let mut means = Vec::new();
    let groups = parts(rows, &["group_id"])?;
    for group in &groups {
        means.extend(numbers(group, "reward")?.mean());
    }
    let margin = eval::mean(&means).map_or(f64::INFINITY, |mean| mean.margin);
    let mut classes = BTreeMap::new();
    for class in texts(rows, "failure_class")?.iter() {
        *classes.entry(class.unwrap_or(NO_FAILURE).to_owned()).or_default() += 1;
    }
    let total = |name: &str| -> Result<i64> { Ok(wholes(rows, name)?.sum().unwrap_or(0)) };
    Ok(Batch {
        name: first(rows, "batch")?,
        policy_version: versions.iter().next().copied().flatten().filter(|_| versions.len() == 1),
        rollouts: rows.height(),
        reward: rewards.mean().map(|mean| Mean { mean, margin }),
        groups: groups.len(),
        calls: total("calls")?,
        tool_calls: total("tool_calls")?,
        tool_errors: total("tool_errors")?,
        output_tokens: total("output_tokens")?,
        classes,
    })
}

/// Evaluations by split, greedy or drawn, and policy: the mean over tasks of each task's mean, as the stage `eval` says it.
pub fn evaluations(evals: &DataFrame) -> Result<Vec<Evaluation>> {
    let mut found = Vec::new();
    for rows in parts(evals, &["split", "policy_version"])? {
        let samples = wholes(&rows, "sample")?;
        for greedy in [false, true] {
            let mask: BooleanChunked = samples.iter().map(|sample| Some((sample == Some(0)) == greedy)).collect();
            let rows = rows.filter(&mask)?;
            let mut means = Vec::new();
            for task in parts(&rows, &["task_id"])? {
                means.extend(numbers(&task, "reward")?.mean());
            }
            if let Some(reward) = eval::mean(&means) {
                let policy_version = wholes(&rows, "policy_version")?.get(0).unwrap_or(0);
                found.push(Evaluation { split: first(&rows, "split")?, policy_version, greedy, tasks: means.len(), reward });
            }
        }
    }
    Ok(found)
}

/// What each rule found, the most frequent first.
pub fn rules(air: &DataFrame, batches: &[Batch]) -> Result<Vec<Rule>> {
    let mut rules = Vec::new();
    for rows in parts(air, &["rule"])? {
        let mut findings: BTreeMap<String, usize> = BTreeMap::new();
        for part in parts(&rows, &["batch"])? {
            findings.insert(first(&part, "batch")?, part.height());
        }
        let share = |batch: &Batch| findings.get(&batch.name).copied().unwrap_or(0) as f64 / batch.rollouts.max(1) as f64;
        rules.push(Rule {
            name: first(&rows, "rule")?,
            findings: rows.height(),
            value: numbers(&rows, "value")?.sum().unwrap_or(0.0),
            per_rollout: batches.iter().map(share).collect(),
        });
    }
    rules.sort_by(|one, other| other.findings.cmp(&one.findings).then_with(|| one.name.cmp(&other.name)));
    Ok(rules)
}

/// Mean advantage by agent and step, over the calls that are learnt from; agents in the order of their names.
pub fn cells(credit: &DataFrame) -> Result<Vec<Cell>> {
    let mut cells = Vec::new();
    for rows in parts(&learnt(credit)?, &["agent", "step"])? {
        if let Some(advantage) = numbers(&rows, "advantage")?.mean() {
            let step = wholes(&rows, "step")?.get(0).unwrap_or(0);
            cells.push(Cell { agent: first(&rows, "agent")?, step, calls: rows.height(), advantage });
        }
    }
    cells.sort_by(|one, other| (&one.agent, one.step).cmp(&(&other.agent, other.step)));
    Ok(cells)
}

/// Calls that are not learnt from, by reason, the most frequent first.
pub fn drops(credit: &DataFrame) -> Result<Vec<(String, usize)>> {
    let mut drops = Vec::new();
    for rows in parts(credit, &["drop_reason"])? {
        let reason = first(&rows, "drop_reason")?;
        if !reason.is_empty() {
            drops.push((reason, rows.height()));
        }
    }
    drops.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
    Ok(drops)
}

fn learnt(credit: &DataFrame) -> Result<DataFrame> {
    Ok(credit.filter(&credit.column("drop_reason")?.as_materialized_series().is_null())?)
}

/// How the advantages of the calls that are learnt from are spread, around 0.
pub fn histogram(credit: &DataFrame) -> Result<Histogram> {
    let advantages = numbers(&learnt(credit)?, "advantage")?;
    let absolute: Vec<f64> = advantages.iter().flatten().map(f64::abs).collect();
    let calls = absolute.len();
    let zero = absolute.iter().filter(|value| **value == 0.0).count();
    let absolute = polars::prelude::Float64Chunked::from_vec("absolute".into(), absolute);
    let scale = absolute.quantile(INSIDE, QuantileMethod::Higher)?.unwrap_or(0.0);
    if scale == 0.0 {
        return Ok(Histogram { calls, zero, ..Histogram::default() });
    }
    let width = 2.0 * scale / BINS as f64;
    let mut counts = [0; BINS];
    for value in advantages.iter().flatten() {
        let bin = ((value + scale) / width).floor().clamp(0.0, (BINS - 1) as f64);
        counts[bin as usize] += 1;
    }
    let ends = |bin: usize| (bin as f64 * width - scale, (bin + 1) as f64 * width - scale);
    let bars = counts.iter().enumerate().map(|(bin, count)| (ends(bin).0, ends(bin).1, *count)).collect();
    Ok(Histogram { bars, calls, zero, scale })
}

/// The optimiser's metrics, batch by batch, with the batches and algorithms; metrics that are nowhere are left out.
pub fn training(steps: &DataFrame) -> Result<(Vec<String>, Vec<String>, Vec<Metric>)> {
    let parts = parts(steps, &["batch"])?;
    let batches = parts.iter().map(|rows| first(rows, "batch")).collect::<Result<Vec<_>>>()?;
    let algorithms: BTreeSet<String> = texts(steps, "algorithm")?.iter().flatten().map(str::to_owned).collect();
    let mut metrics = Vec::new();
    for (column, name, about, largest) in METRICS {
        let of = |rows: &DataFrame| numbers(rows, column).map(|values| if largest { values.max() } else { values.mean() });
        let values = parts.iter().map(of).collect::<Result<Vec<_>>>()?;
        if values.iter().any(Option::is_some) {
            metrics.push(Metric { name, about, values });
        }
    }
    Ok((batches, algorithms.into_iter().collect(), metrics))
}

/// Mean tokens that the trainer put through the model in a second, by batch.
pub fn trained_tokens_per_second(steps: &DataFrame) -> Result<BTreeMap<String, f64>> {
    let mut found = BTreeMap::new();
    for rows in parts(steps, &["batch"])? {
        if let Some(mean) = numbers(&rows, "tokens_per_second")?.mean() {
            found.insert(first(&rows, "batch")?, mean);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use polars::prelude::Column;

    fn rollouts() -> DataFrame {
        let columns = vec![
            Column::new("batch".into(), vec!["a", "a", "a", "a", "b"]),
            Column::new("group_id".into(), vec!["x", "x", "y", "y", "z"]),
            Column::new("failure_class".into(), vec![None, Some("agent"), None, None, Some("timeout")]),
            Column::new("policy_version".into(), vec![Some(3i64), Some(3), Some(3), Some(3), None]),
            Column::new("reward".into(), vec![Some(1.0), Some(0.0), Some(1.0), Some(1.0), None]),
            Column::new("calls".into(), vec![2i64, 1, 2, 2, 4]),
            Column::new("tool_calls".into(), vec![1i64, 0, 1, 1, 3]),
            Column::new("tool_errors".into(), vec![0i64, 0, 0, 1, 3]),
            Column::new("output_tokens".into(), vec![Some(10i64), None, Some(5), Some(5), None]),
        ];
        DataFrame::new(5, columns).unwrap()
    }

    #[test]
    fn a_batch_is_summed_up() {
        let found = batches(&rollouts()).unwrap();
        let reward = found[0].reward.unwrap();
        // Groups earned 0.5 and 1: variance 0.125, standard error 0.25.
        assert!((reward.mean - 0.75).abs() < 1e-12 && (reward.margin - 0.489_990_996).abs() < 1e-8, "{reward:?}");
        assert_eq!((found[0].policy_version, found[0].groups, found[0].calls, found[0].tool_errors), (Some(3), 2, 7, 1));
        assert_eq!((found[0].output_tokens, found[0].rollouts), (20, 4));
        assert_eq!(found[0].classes, BTreeMap::from([(NO_FAILURE.to_owned(), 3), ("agent".to_owned(), 1)]));
        assert_eq!((found[1].policy_version, found[1].reward, found[1].tool_calls), (None, None, 3));
    }

    #[test]
    fn evaluations_are_means_of_tasks() {
        let columns = vec![
            Column::new("split".into(), vec!["val"; 5]),
            Column::new("policy_version".into(), vec![2i64; 5]),
            Column::new("task_id".into(), vec!["s", "s", "s", "t", "t"]),
            Column::new("sample".into(), vec![0i64, 1, 2, 0, 1]),
            Column::new("reward".into(), vec![Some(1.0), Some(1.0), Some(0.0), Some(1.0), Some(0.0)]),
        ];
        let found = evaluations(&DataFrame::new(5, columns).unwrap()).unwrap();
        let said: Vec<(bool, usize, f64)> = found.iter().map(|one| (one.greedy, one.tasks, one.reward.mean)).collect();
        assert_eq!(said, [(false, 2, 0.25), (true, 2, 1.0)]);
    }

    #[test]
    fn findings_are_counted_for_each_rollout() {
        let columns = vec![
            Column::new("batch".into(), vec!["a", "a", "b", "a"]),
            Column::new("rollout_id".into(), vec!["1", "2", "3", "1"]),
            Column::new("rule".into(), vec!["tool_error", "tool_error", "tool_error", "recovery"]),
            Column::new("value".into(), vec![-0.1, -0.1, -0.2, 0.1]),
        ];
        let found = rules(&DataFrame::new(4, columns).unwrap(), &batches(&rollouts()).unwrap()).unwrap();
        assert_eq!((found[0].name.as_str(), found[0].findings, &found[0].per_rollout), ("tool_error", 3, &vec![0.5, 1.0]));
        assert!((found[0].value + 0.4).abs() < 1e-12);
        assert_eq!((found[1].findings, &found[1].per_rollout), (1, &vec![0.25, 0.0]));
    }

    #[test]
    fn credit_counts_only_what_is_learnt_from() {
        let columns = vec![
            Column::new("agent".into(), vec!["w", "w", "w", "c"]),
            Column::new("step".into(), vec![0i64, 0, 1, 0]),
            Column::new("advantage".into(), vec![Some(1.0), Some(-0.5), Some(0.0), Some(9.0)]),
            Column::new("drop_reason".into(), vec![None, None, None, Some("overlong")]),
        ];
        let frame = DataFrame::new(4, columns).unwrap();
        let found: Vec<(i64, usize, f64)> =
            cells(&frame).unwrap().iter().map(|cell| (cell.step, cell.calls, cell.advantage)).collect();
        assert_eq!(found, [(0, 2, 0.25), (1, 1, 0.0)]);
        assert_eq!(drops(&frame).unwrap(), [("overlong".to_owned(), 1)]);
        let histogram = histogram(&frame).unwrap();
        assert_eq!((histogram.calls, histogram.zero, histogram.scale), (3, 1, 1.0));
        let counts: Vec<usize> = histogram.bars.iter().map(|bar| bar.2).collect();
        // Width 2/31: -0.5 falls in bar 7 (from -0.548 to -0.484), 0 in the middle one, 1 in the last.
        let filled: Vec<usize> = (0..BINS).filter(|bar| counts[*bar] == 1).collect();
        assert_eq!((filled, counts.iter().sum::<usize>()), (vec![7, 15, 30], 3));
    }
}
