//! The report's figures: what was counted, drawn and as the table behind it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::rollout::plain;
use super::statistics::{Batch, Cell, Evaluation, Histogram, Metric, NO_FAILURE, Rule};
use super::svg::{self, Column, Plot, Point, Series};
use super::tokens::{advantage_class, signed};
use crate::eval::Mean;

/// Width of a figure on the page, of one on a phone, and of one among several.
const WIDE: f64 = 860.0;
const NARROW: f64 = 360.0;
const SMALL: f64 = 280.0;

/// Steps of a rollout that the table of credit shows; what comes later is put together in the last column.
const STEPS: i64 = 12;

/// Colours of series, told apart by those who see fewer colours too.
const CLASSES: [&str; 6] = ["c1", "c2", "c3", "c4", "c5", "c6"];

/// Stages in their order, as the figure of seconds stacks them.
const STAGES: [&str; 8] = ["rollout", "ingest", "derive", "air", "values", "credit", "train", "eval"];

/// Rows and their head; the first column names the row.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Table {
    pub head: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

/// A drawing, the same for a narrow screen, and its numbers.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Figure {
    pub title: String,
    pub note: String,
    /// SVG that is safe to put into the page.
    pub wide: String,
    pub narrow: String,
    /// Class and name of the colours that no label in the drawing names.
    pub legend: Vec<(&'static str, String)>,
    pub table: Table,
}

/// A row of a table with a drawing as small as a word.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Trend {
    pub name: String,
    /// SVG that is safe to put into the page.
    pub spark: String,
    /// The first and the last batch's value.
    pub course: String,
    pub cells: Vec<String>,
}

/// A row of the table of credit: an agent, with class, text and explanation of each step's cell.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CreditRow {
    pub agent: String,
    pub cells: Vec<(String, String, String)>,
}

fn head(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// A name that is short where batches are iterations of a loop.
pub fn short(batch: &str) -> String {
    let number = batch.strip_prefix("iter-").and_then(|number| number.parse::<u64>().ok());
    number.map_or_else(|| batch.to_owned(), |number| number.to_string())
}

/// A mean with its margin, as far as there is one.
pub fn with_margin(mean: &Mean) -> String {
    match mean.margin.is_finite() {
        true => format!("{:.3} ± {:.3}", mean.mean, mean.margin),
        false => format!("{:.3}", mean.mean),
    }
}

/// Whether policies can be the axis: each batch is of one, and no two of the same.
pub fn by_policy(batches: &[Batch]) -> bool {
    let versions: Vec<Option<i64>> = batches.iter().map(|batch| batch.policy_version).collect();
    versions.iter().all(Option::is_some) && versions.windows(2).all(|pair| pair[0] < pair[1])
}

/// Reward of rollouts and evaluations: over policies where batches follow them, else batch by batch, with evaluations in a drawing of their own.
pub fn rewards(batches: &[Batch], evaluations: &[Evaluation]) -> Vec<Figure> {
    let scored: Vec<&Batch> = batches.iter().filter(|batch| batch.reward.is_some()).collect();
    let mut evaluated: BTreeMap<(String, bool), Vec<&Evaluation>> = BTreeMap::new();
    for one in evaluations {
        evaluated.entry((one.split.clone(), one.greedy)).or_default().push(one);
    }
    let of_rollouts = |x: &dyn Fn(usize, &Batch) -> f64| {
        let point = |(index, batch): (usize, &&Batch)| {
            let reward = batch.reward?;
            let title = format!("{}: {} over {} rollouts", batch.name, with_margin(&reward), batch.rollouts);
            Some(Point { x: x(index, batch), y: reward.mean, margin: Some(reward.margin), title })
        };
        Series { name: "rollouts".to_owned(), class: "c1", points: scored.iter().enumerate().filter_map(point).collect() }
    };
    let classes = CLASSES.iter().skip(1).cycle();
    let of_evaluations: Vec<Series> = evaluated
        .iter()
        .zip(classes)
        .map(|(((split, greedy), found), class)| {
            let name = format!("{split}, {}", if *greedy { "greedy" } else { "drawn" });
            let point = |one: &&Evaluation| Point {
                x: one.policy_version as f64,
                y: one.reward.mean,
                margin: Some(one.reward.margin),
                title: format!("policy {}, {name}: {} over {} tasks", one.policy_version, with_margin(&one.reward), one.tasks),
            };
            Series { points: found.iter().map(point).collect(), name, class }
        })
        .collect();
    let mut rows: Vec<Vec<String>> = scored
        .iter()
        .filter_map(|batch| {
            let policy = batch.policy_version.map_or_else(|| "?".to_owned(), |version| version.to_string());
            let over = format!("{} rollouts of {} groups", batch.rollouts, batch.groups);
            Some(vec![batch.name.clone(), policy, with_margin(&batch.reward?), over])
        })
        .collect();
    rows.extend(evaluated.iter().flat_map(|((split, greedy), found)| {
        let name = format!("eval {split}, {}", if *greedy { "greedy" } else { "drawn" });
        found.iter().map(move |one| {
            vec![name.clone(), one.policy_version.to_string(), with_margin(&one.reward), format!("{} tasks", one.tasks)]
        })
    }));
    let table = Table { head: head(&["of", "policy", "mean reward ± 95 %", "over"]), rows };
    let one_axis = by_policy(batches) || scored.is_empty();
    let figure = |title: &str, note: &str, series: Vec<Series>, names: Vec<String>, x_title: &'static str, table: Table| {
        let plot = Plot {
            label: format!("{title}. The numbers are in the table below."),
            series,
            names,
            x_title,
            at_least: Some((0.0, 1.0)),
        };
        let at_least = plot.series.iter().flat_map(|series| &series.points).all(|point| (0.0..=1.0).contains(&point.y));
        let plot = Plot { at_least: plot.at_least.filter(|_| at_least), ..plot };
        Figure {
            title: title.to_owned(),
            note: note.to_owned(),
            wide: svg::lines(&plot, WIDE, 360.0),
            narrow: svg::lines(&plot, NARROW, 280.0),
            legend: Vec::new(),
            table,
        }
    };
    let note = "Mean, with its interval of 95 % from the spread over tasks.";
    if scored.is_empty() && evaluations.is_empty() {
        return Vec::new();
    }
    if one_axis {
        let mut series = Vec::new();
        if !scored.is_empty() {
            series.push(of_rollouts(&|_, batch| batch.policy_version.unwrap_or(0) as f64));
        }
        series.extend(of_evaluations);
        return vec![figure("Reward by policy", note, series, Vec::new(), "policy version", table)];
    }
    let names = scored.iter().map(|batch| short(&batch.name)).collect();
    let mut figures = vec![figure("Reward by batch", note, vec![of_rollouts(&|index, _| index as f64)], names, "batch", table)];
    if !of_evaluations.is_empty() {
        figures.push(figure("Evaluations by policy", note, of_evaluations, Vec::new(), "policy version", Table::default()));
    }
    figures
}

/// The course of a number from the first batch to the last.
fn course(values: &[f64], show: impl Fn(f64) -> String) -> String {
    match values {
        [] => String::new(),
        [only] => show(*only),
        [first, .., last] => format!("{} → {}", show(*first), show(*last)),
    }
}

/// What the rules of AIR found: a row each.
pub fn air(rules: &[Rule]) -> Vec<Trend> {
    let row = |rule: &Rule| {
        let name = rule.name.replace('_', " ");
        Trend {
            spark: svg::sparkline(&format!("findings of {name} for each rollout, batch by batch"), &rule.per_rollout),
            course: course(&rule.per_rollout, |value| format!("{value:.2}")),
            cells: vec![rule.findings.to_string(), if rule.value == 0.0 { "0".to_owned() } else { signed(rule.value) }],
            name,
        }
    };
    rules.iter().map(row).collect()
}

/// Rollouts that failed, by class, and tool calls that did: a row each.
pub fn failures(batches: &[Batch]) -> Vec<Trend> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (class, count) in batches.iter().flat_map(|batch| &batch.classes).filter(|(class, _)| *class != NO_FAILURE) {
        *counts.entry(class).or_default() += count;
    }
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let trend = |name: String, values: Vec<f64>, total: String| Trend {
        spark: svg::sparkline(&format!("{name}, batch by batch"), &values),
        course: course(&values, percent),
        cells: vec![total],
        name,
    };
    let mut rows: Vec<Trend> = counts
        .iter()
        .map(|(class, count)| {
            let share = |batch: &Batch| batch.classes.get(*class).copied().unwrap_or(0) as f64 / batch.rollouts.max(1) as f64;
            trend(format!("rollouts: {}", class.replace('_', " ")), batches.iter().map(share).collect(), count.to_string())
        })
        .collect();
    let errors: i64 = batches.iter().map(|batch| batch.tool_errors).sum();
    if batches.iter().any(|batch| batch.tool_calls > 0) {
        let share = |batch: &Batch| batch.tool_errors as f64 / batch.tool_calls.max(1) as f64;
        rows.push(trend("tool calls that failed".to_owned(), batches.iter().map(share).collect(), errors.to_string()));
    }
    rows
}

/// Mean advantage by agent and step, with the head of the steps.
pub fn credit(cells: &[Cell], scale: f64) -> (Vec<String>, Vec<CreditRow>) {
    let last = cells.iter().map(|cell| cell.step).max().unwrap_or(-1);
    let columns = (last + 1).min(STEPS + 1);
    let mut rows: BTreeMap<&str, Vec<(f64, usize)>> = BTreeMap::new();
    for cell in cells {
        let row = rows.entry(&cell.agent).or_insert_with(|| vec![(0.0, 0); columns as usize]);
        if let Some((sum, calls)) = usize::try_from(cell.step.min(STEPS)).ok().and_then(|column| row.get_mut(column)) {
            *sum += cell.advantage * cell.calls as f64;
            *calls += cell.calls;
        }
    }
    let shown = |(sum, calls): &(f64, usize)| match calls {
        0 => (String::new(), String::new(), "no call".to_owned()),
        calls => {
            let mean = sum / *calls as f64;
            (advantage_class(Some(mean), scale), signed(mean), format!("mean of {calls} calls"))
        }
    };
    let rows =
        rows.into_iter().map(|(agent, cells)| CreditRow { agent: agent.to_owned(), cells: cells.iter().map(shown).collect() });
    let name = |step: i64| if step == STEPS { format!("{step}…") } else { step.to_string() };
    ((0..columns).map(name).collect(), rows.collect())
}

/// How advantages are spread; `None` where there are none.
pub fn advantages(histogram: &Histogram) -> Option<Figure> {
    if histogram.bars.is_empty() {
        return None;
    }
    let share = 100.0 * histogram.zero as f64 / histogram.calls.max(1) as f64;
    let label = "Histogram of advantages. The numbers are in the table below.";
    let row = |bar: &(f64, f64, usize)| vec![format!("{} to {}", signed(bar.0), signed(bar.1)), bar.2.to_string()];
    Some(Figure {
        title: "Advantages".to_owned(),
        note: format!(
            "Calls that are learnt from, by advantage; {share:.0} % of the {} are 0. The outermost bars hold all that is further out.",
            histogram.calls
        ),
        wide: svg::histogram(label, &histogram.bars, WIDE, 260.0),
        narrow: svg::histogram(label, &histogram.bars, NARROW, 220.0),
        legend: Vec::new(),
        table: Table { head: head(&["advantage", "calls"]), rows: histogram.bars.iter().map(row).collect() },
    })
}

/// The optimiser's metrics, one small drawing each, and all of them as a table.
pub fn training(batches: &[String], metrics: &[Metric]) -> (Vec<Figure>, Table) {
    let figure = |metric: &Metric| {
        let point = |(index, value): (usize, &Option<f64>)| {
            value.map(|y| Point { x: index as f64, y, margin: None, title: format!("{}: {y:.4}", batches[index]) })
        };
        let points = metric.values.iter().enumerate().filter_map(point).collect();
        let plot = Plot {
            label: format!("{} by batch", metric.name),
            series: vec![Series { name: String::new(), class: "c1", points }],
            names: batches.iter().map(|batch| short(batch)).collect(),
            ..Plot::default()
        };
        let wide = svg::lines(&plot, SMALL, 150.0);
        Figure { title: metric.name.to_owned(), note: metric.about.to_owned(), wide, ..Figure::default() }
    };
    let mut names = vec!["batch"];
    names.extend(metrics.iter().map(|metric| metric.name));
    let row = |(index, batch): (usize, &String)| {
        let values = metrics.iter().map(|metric| metric.values[index].map_or_else(String::new, |value| format!("{value:.4}")));
        std::iter::once(batch.clone()).chain(values).collect()
    };
    let table = Table { head: head(&names), rows: batches.iter().enumerate().map(row).collect() };
    (metrics.iter().map(figure).collect(), table)
}

/// Seconds by stage, batch by batch, with what was done in them; `None` where no stage says how long it took.
///
/// * `seconds`: of each batch, by stage.
/// * `trained`: tokens that went through the trainer in a second, by batch.
pub fn throughput(
    batches: &[Batch],
    seconds: &BTreeMap<String, BTreeMap<String, f64>>,
    trained: &BTreeMap<String, f64>,
) -> Option<Figure> {
    let known: Vec<&Batch> = batches.iter().filter(|batch| seconds.contains_key(&batch.name)).collect();
    if known.is_empty() {
        return None;
    }
    let stages: Vec<(&str, &'static str)> = STAGES
        .into_iter()
        .filter(|stage| known.iter().any(|batch| seconds[&batch.name].contains_key(*stage)))
        .zip(CLASSES.into_iter().chain(["c7", "c8"]))
        .collect();
    let column = |batch: &&Batch| {
        let of = |(stage, class): &(&str, &'static str)| {
            let value = seconds[&batch.name].get(*stage).copied().unwrap_or(0.0);
            (*class, value, format!("{}, {stage}: {value:.1} s", batch.name))
        };
        Column { name: short(&batch.name), parts: stages.iter().map(of).collect() }
    };
    let columns: Vec<Column> = known.iter().map(column).collect();
    let rate = |count: f64, seconds: Option<&f64>| match seconds.filter(|seconds| **seconds > 0.0) {
        Some(seconds) => plain((10.0 * count / seconds).round() / 10.0),
        None => String::new(),
    };
    let row = |batch: &&Batch| {
        let of = &seconds[&batch.name];
        let took = stages.iter().map(|(stage, _)| of.get(*stage).map_or_else(String::new, |value| format!("{value:.1}")));
        let mut cells = vec![batch.name.clone()];
        cells.extend(took);
        cells.push(rate(batch.rollouts as f64, of.get("rollout")));
        cells.push(rate(batch.output_tokens as f64, of.get("rollout")));
        cells.push(trained.get(&batch.name).map_or_else(String::new, |rate| format!("{rate:.0}")));
        cells
    };
    let mut names = vec!["batch".to_owned()];
    names.extend(stages.iter().map(|(stage, _)| format!("{stage}, s")));
    names.extend(["rollouts/s", "tokens written/s", "tokens trained/s"].map(str::to_owned));
    let label = "Seconds of each stage, batch by batch. The numbers are in the table below.";
    Some(Figure {
        title: "Seconds by stage".to_owned(),
        note: "From the beginning of each run to its commit.".to_owned(),
        wide: svg::columns(label, &columns, WIDE, 240.0),
        narrow: svg::columns(label, &columns, NARROW, 220.0),
        legend: stages.iter().map(|(stage, class)| (*class, (*stage).to_owned())).collect(),
        table: Table { head: names, rows: known.iter().map(row).collect() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(name: &str, policy_version: Option<i64>, mean: f64) -> Batch {
        Batch {
            name: name.to_owned(),
            policy_version,
            rollouts: 4,
            reward: Some(Mean { mean, margin: 0.1 }),
            groups: 2,
            calls: 8,
            tool_calls: 4,
            tool_errors: 1,
            output_tokens: 40,
            classes: BTreeMap::from([(NO_FAILURE.to_owned(), 3), ("agent".to_owned(), 1)]),
        }
    }

    #[test]
    fn evaluations_share_the_axis_where_batches_follow_policies() {
        let reward = Mean { mean: 0.5, margin: 0.1 };
        let evaluation = Evaluation { split: "val".to_owned(), policy_version: 2, greedy: true, tasks: 9, reward };
        let loops = [batch("iter-0000", Some(0), 0.2), batch("iter-0001", Some(1), 0.4)];
        let figures = rewards(&loops, std::slice::from_ref(&evaluation));
        assert_eq!(figures.len(), 1);
        assert!(figures[0].wide.contains("val, greedy") && figures[0].wide.contains("policy 2, val, greedy: 0.500 ± 0.100"));
        assert_eq!(figures[0].table.rows.len(), 3);
        let days = [batch("2026-11-21", Some(3), 0.2), batch("2026-11-22", Some(3), 0.4)];
        assert_eq!(rewards(&days, &[evaluation]).len(), 2);
        assert_eq!(rewards(&days, &[]).len(), 1);
        assert_eq!(rewards(&[], &[]), []);
    }

    #[test]
    fn late_steps_are_put_together() {
        let cell = |step, calls, advantage| Cell { agent: "a".to_owned(), step, calls, advantage };
        let (steps, rows) = credit(&[cell(0, 2, 0.5), cell(12, 1, 1.0), cell(20, 3, -1.0)], 1.0);
        assert_eq!((steps.len(), steps[12].as_str()), (13, "12…"));
        assert_eq!(rows[0].cells[0], ("p3".to_owned(), "+0.500".to_owned(), "mean of 2 calls".to_owned()));
        assert_eq!(rows[0].cells[12], ("n3".to_owned(), "−0.500".to_owned(), "mean of 4 calls".to_owned()));
        assert_eq!(rows[0].cells[5].2, "no call");
    }

    #[test]
    fn failures_are_shares_of_their_batch() {
        let rows = failures(&[batch("a", None, 0.0), batch("b", None, 0.0)]);
        let said: Vec<(&str, &str, &str)> =
            rows.iter().map(|row| (row.name.as_str(), row.course.as_str(), row.cells[0].as_str())).collect();
        assert_eq!(said, [("rollouts: agent", "25.0 % → 25.0 %", "2"), ("tool calls that failed", "25.0 % → 25.0 %", "2")]);
    }
}
