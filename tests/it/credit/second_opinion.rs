//! polars works out each estimator on its own, from the same random batch, and agrees.

use polars::prelude::*;
use serde_json::Value;

use super::{random, returns};
use crate::cases::{Dice, Tables, block_on, numbers, query, run, settings};

/// One row per call: group, rollout, step, calls of the rollout, total reward, return, state.
fn calls(tables: &mut Tables, gamma: f64) -> DataFrame {
    let text = |row: &serde_json::Map<String, Value>, column: &str| row[column].as_str().expect("text").to_owned();
    let rollouts = tables.rows_mut("rollouts").clone();
    let calls = tables.rows_mut("calls").clone();
    let found = tables.rows_mut("air_rewards").clone();
    let (mut groups, mut ids, mut steps, mut lengths, mut totals, mut gains, mut states) =
        (vec![], vec![], vec![], vec![], vec![], vec![], vec![]);
    for rollout in &rollouts {
        let id = text(rollout, "rollout_id");
        let own: Vec<_> = calls.iter().filter(|call| text(call, "rollout_id") == id).collect();
        let mut rewards = vec![0.0; own.len()];
        for air in found.iter().filter(|air| text(air, "rollout_id") == id) {
            rewards[air["step"].as_u64().expect("a step") as usize] += air["value"].as_f64().expect("a number");
        }
        *rewards.last_mut().expect("a call") += rollout["reward"].as_f64().expect("a reward");
        let total: f64 = rewards.iter().sum();
        for (step, gain) in returns(&rewards, gamma).into_iter().enumerate() {
            groups.push(text(rollout, "group_id"));
            ids.push(id.clone());
            steps.push(step as i64);
            lengths.push(own.len() as i64);
            totals.push(total);
            gains.push(gain);
            states.push(text(own[step], "observation_hash"));
        }
    }
    let columns: Vec<Column> = vec![
        Column::new("group".into(), groups),
        Column::new("rollout".into(), ids),
        Column::new("step".into(), steps),
        Column::new("calls".into(), lengths),
        Column::new("total".into(), totals),
        Column::new("gain".into(), gains),
        Column::new("state".into(), states),
    ];
    let height = columns[0].len();
    DataFrame::new(height, columns).expect("columns of one length")
}

/// Rows in which a column of text has this value.
fn only(frame: &DataFrame, column: &str, value: &str) -> DataFrame {
    frame.filter(&frame.column(column).expect("there").str().expect("text").equal(value)).expect("filters")
}

/// Rows in which a column of whole numbers has this value.
fn only_number(frame: &DataFrame, column: &str, value: i64) -> DataFrame {
    frame.filter(&frame.column(column).expect("there").i64().expect("whole numbers").equal(value)).expect("filters")
}

fn column(frame: &DataFrame, name: &str) -> Float64Chunked {
    frame.column(name).expect("there").f64().expect("numbers").clone()
}

/// What is compared: one row per rollout, or every call.
fn units(frame: &DataFrame, by_call: bool) -> DataFrame {
    if by_call { frame.clone() } else { only_number(frame, "step", 0) }
}

/// The advantage of every call under `identical`, singletons 0.
fn identical(frame: &DataFrame, comparison: &str, by_call: bool) -> Vec<f64> {
    let batch = column(&units(frame, by_call), "total");
    let text =
        |name: &str, row: usize| frame.column(name).expect("there").str().expect("text").get(row).expect("no null").to_owned();
    let compared = |row: usize| units(&only(frame, "group", &text("group", row)), by_call);
    let totals = column(frame, "total");
    let centred = |row: usize| {
        let group = column(&units(&only(frame, "group", &text("group", row)), false), "total");
        (group.len() > 1).then(|| totals.get(row).expect("no null") - group.mean().expect("not empty"))
    };
    let whitened = || {
        let rows = units(frame, by_call);
        let positions: Vec<usize> = (0..frame.height())
            .filter(|row| by_call || frame.column("step").expect("there").i64().expect("whole").get(*row) == Some(0))
            .collect();
        assert_eq!(rows.height(), positions.len());
        Float64Chunked::from_iter_values("centred".into(), positions.into_iter().filter_map(centred))
    };
    let whitened = (comparison == "batch_whiten").then(whitened);
    (0..frame.height())
        .map(|row| {
            let total = totals.get(row).expect("no null");
            let group = column(&compared(row), "total");
            let count = group.len() as f64;
            let mean = group.mean().expect("not empty");
            let same = group.min() == group.max();
            match comparison {
                "none" => total,
                "batch_mean" => total - batch.mean().expect("not empty"),
                "batch_whiten" => {
                    let all = whitened.as_ref().expect("made above");
                    let n = all.len() as f64;
                    let mean = all.sum().expect("not empty") / (n + 1e-8);
                    let squares: f64 = all.into_no_null_iter().map(|value| (value - mean) * (value - mean)).sum();
                    centred(row).map_or(0.0, |value| (value - mean) / (squares / (n + 1e-8) * n / (n - 1.0) + 1e-8).sqrt())
                }
                _ if count < 2.0 || same => 0.0,
                "group_mean" => total - mean,
                "group_std" => (total - mean) / (group.std(1).expect("two rows") + 1e-6),
                "batch_std" => (total - mean) / (batch.std(1).expect("two rows") + 1e-6),
                "leave_one_out" => count / (count - 1.0) * (total - mean),
                "best_of" => f64::from(u8::from(Some(total) == group.max())),
                other => panic!("{other}"),
            }
        })
        .collect()
}

/// The advantage of every call under `return_to_go`, singletons 0.
fn return_to_go(frame: &DataFrame) -> Vec<f64> {
    each(frame, |group, gain, step, _| {
        let members = units(group, false).height() as f64;
        let same_step = column(&only_number(group, "step", step), "gain");
        if members < 2.0 { 0.0 } else { gain - (same_step.sum().expect("not empty") - gain) / (members - 1.0) }
    })
}

/// What `state_group` adds for the state, singletons 0.
fn states(frame: &DataFrame, comparison: &str) -> Vec<f64> {
    each(frame, |group, gain, _, state| {
        let visits = column(&only(group, "state", state), "gain");
        let count = visits.len() as f64;
        let mean = visits.mean().expect("not empty");
        match comparison {
            _ if count < 2.0 || visits.min() == visits.max() => 0.0,
            "group_mean" => gain - mean,
            "group_std" => (gain - mean) / (visits.std(1).expect("two rows") + 1e-6),
            _ => count / (count - 1.0) * (gain - mean),
        }
    })
}

/// Calls `value` for each call with its group, return, step and state.
fn each(frame: &DataFrame, value: impl Fn(&DataFrame, f64, i64, &str) -> f64) -> Vec<f64> {
    let text =
        |name: &str, row: usize| frame.column(name).expect("there").str().expect("text").get(row).expect("no null").to_owned();
    let gains = column(frame, "gain");
    let steps = frame.column("step").expect("there").i64().expect("whole numbers").clone();
    (0..frame.height())
        .map(|row| {
            let group = only(frame, "group", &text("group", row));
            value(&group, gains.get(row).expect("no null"), steps.get(row).expect("no null"), &text("state", row))
        })
        .collect()
}

fn found(tables: &Tables, pairs: &[(&str, &str)]) -> Vec<f64> {
    let mut values = settings(pairs);
    values.push("credit.gamma=0.9".to_owned());
    block_on(async {
        let (context, _) = run(tables, &values, &["credit"]).await.expect("credit runs");
        let found = query(&context, "select advantage from credits order by rollout_id, step").await.expect("reads");
        numbers(&found, "advantage").into_iter().map(|value| value.expect("compared")).collect()
    })
}

fn assert_agree(what: &str, found: &[f64], polars: &[f64]) {
    assert_eq!(found.len(), polars.len(), "{what}");
    for (call, (found, polars)) in found.iter().zip(polars).enumerate() {
        assert!((found - polars).abs() < 1e-9, "{what}, call {call}: {found}, polars says {polars}");
    }
}

#[test]
fn polars_agrees_on_every_comparison() {
    let mut tables = random(&mut Dice(3), 20);
    let frame = calls(&mut tables, 0.9);
    for comparison in ["none", "group_mean", "group_std", "batch_std", "leave_one_out", "batch_whiten", "batch_mean", "best_of"] {
        for level in ["rollout", "transition"] {
            let found = found(&tables, &[("credit.comparison", comparison), ("credit.level", level)]);
            let polars = identical(&frame, comparison, level == "transition");
            assert_agree(&format!("{comparison} at level {level}"), &found, &polars);
        }
    }
}

#[test]
fn polars_agrees_on_every_allocation() {
    let mut tables = random(&mut Dice(4), 12);
    let frame = calls(&mut tables, 0.9);
    let advantages = identical(&frame, "group_mean", false);
    let whole = |name: &str, row: usize| frame.column(name).expect("there").i64().expect("whole").get(row).expect("no null");
    for method in ["terminal", "uniform", "discounted"] {
        let polars: Vec<f64> = (0..frame.height())
            .map(|row| {
                let (step, calls) = (whole("step", row), whole("calls", row));
                advantages[row]
                    * match method {
                        "terminal" => f64::from(u8::from(step + 1 == calls)),
                        "uniform" => 1.0 / calls as f64,
                        _ => 0.9f64.powi((calls - 1 - step) as i32),
                    }
            })
            .collect();
        assert_agree(method, &found(&tables, &[("credit.method", method)]), &polars);
    }
}

#[test]
fn polars_agrees_on_every_estimator() {
    let mut tables = random(&mut Dice(6), 20);
    let frame = calls(&mut tables, 0.9);
    let returned = found(&tables, &[("credit.method", "return_to_go"), ("credit.comparison", "leave_one_out")]);
    assert_agree("return_to_go", &returned, &return_to_go(&frame));
    for comparison in ["group_mean", "group_std", "leave_one_out"] {
        let found =
            found(&tables, &[("credit.method", "state_group"), ("credit.comparison", comparison), ("credit.omega", "0.5")]);
        let polars: Vec<f64> = identical(&frame, comparison, false)
            .iter()
            .zip(states(&frame, comparison))
            .map(|(whole, state)| whole + 0.5 * state)
            .collect();
        assert_agree(&format!("state_group with {comparison}"), &found, &polars);
    }
}
