//! The stage `credit`: every pair by hand, against verl, against plain Rust, and against polars.

mod properties;
mod second_opinion;

use std::path::Path;

use serde_json::{Value, json};

use crate::cases::{Dice, Tables, block_on, check_folder, numbers, query, run, run_on_parts, settings, texts};

#[test]
fn every_pair_gives_what_was_worked_out_by_hand() {
    check_folder("credit");
}

/// The rows of verl's example: six rollouts in groups a, a, a, b, b, c; each token that is not masked is a call.
fn verl(golden: &Value) -> Tables {
    let mut tables = Tables::default();
    for (row, group) in ["a", "a", "a", "b", "b", "c"].into_iter().enumerate() {
        let id = format!("r{row}");
        let kept: Vec<usize> = (0..5).filter(|token| golden["in/mask"][row][token] == 1.0).collect();
        tables.add(
            "rollouts",
            json!({ "rollout_id": id, "group_id": group, "reward": golden["in/rewards"][row], "calls": kept.len() }),
        );
        for (step, token) in kept.iter().enumerate() {
            tables.add("values", json!({ "rollout_id": id, "step": step, "value": golden["in/values"][row][token] }));
        }
    }
    tables
}

/// verl's numbers to 1e-12, its singletons kept. `adv/opo` has no counterpart: its baseline weighs rollouts by their length.
#[test]
fn verl_gives_the_same_advantages() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/golden.json");
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(path).expect("reads")).expect("parses");
    let tables = verl(&golden);
    let whiten = ("credit.comparison", "batch_whiten");
    let gae = vec![("credit.method", "gae"), whiten, ("credit.gamma", "0.99"), ("credit.lambda", "0.95")];
    let cases = [
        ("adv/grpo_std", "advantage", vec![("credit.comparison", "group_std")]),
        ("adv/grpo_nostd", "advantage", vec![("credit.comparison", "group_mean")]),
        ("adv/rloo", "advantage", vec![("credit.comparison", "leave_one_out")]),
        ("adv/rfpp_baseline", "advantage", vec![whiten, ("credit.level", "transition")]),
        ("adv/rfpp", "advantage", vec![("credit.method", "return_to_go"), whiten, ("credit.gamma", "0.9")]),
        ("adv/gae", "advantage", gae.clone()),
        ("adv/gae_returns", "return_value", gae.clone()),
    ];
    for (key, column, pairs) in cases {
        let mut values = settings(&pairs);
        values.push("credit.singleton=keep".to_owned());
        let found = block_on(async {
            let (context, _) = run(&tables, &values, &["credit"]).await.expect("credit runs");
            query(&context, &format!("select {column} from credits order by rollout_id, step")).await.expect("reads")
        });
        let mut expected = Vec::new();
        for row in 0..6 {
            for token in (0..5).filter(|token| golden["in/mask"][row][token] == 1.0) {
                let given = &golden[key][row];
                expected.push(if given.is_array() { &given[token] } else { given }.as_f64().expect("a number"));
            }
        }
        let found: Vec<f64> = numbers(&found, column).into_iter().flatten().collect();
        assert_eq!(found.len(), expected.len(), "{key}");
        for (call, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert!((found - expected).abs() <= 1e-12, "{key}, call {call}: {found} and not {expected}");
        }
    }
}

/// `G[t] = r[t] + gamma * G[t + 1]`, from the end.
fn returns(rewards: &[f64], gamma: f64) -> Vec<f64> {
    let mut returns = rewards.to_vec();
    for step in (0..rewards.len().saturating_sub(1)).rev() {
        returns[step] += gamma * returns[step + 1];
    }
    returns
}

#[test]
fn returns_of_a_long_rollout_are_exact() {
    let mut dice = Dice(5);
    let mut rewards: Vec<f64> = (0..5000).map(|_| dice.number()).collect();
    let mut tables = Tables::default();
    tables.add("rollouts", json!({ "rollout_id": "a", "group_id": "g", "reward": 0.7, "calls": rewards.len() }));
    for (step, reward) in rewards.iter().enumerate() {
        tables.add("air_rewards", json!({ "rollout_id": "a", "step": step, "value": reward }));
    }
    rewards[4999] += 0.7;
    for gamma in [0.9, 0.0, 1.0] {
        let values =
            settings(&[("credit.method", "return_to_go"), ("credit.comparison", "none"), ("credit.gamma", &gamma.to_string())]);
        let found = block_on(async {
            let (context, _) = run(&tables, &values, &["credit"]).await.expect("credit runs");
            query(&context, "select return_value from credits order by step").await.expect("reads")
        });
        let found: Vec<f64> = numbers(&found, "return_value").into_iter().flatten().collect();
        let expected = returns(&rewards, gamma);
        assert_eq!(found.len(), expected.len());
        for (step, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert!((found - expected).abs() <= 1e-12, "gamma {gamma}, step {step}: {found} and not {expected}");
        }
    }
}

/// Rollouts in groups of different sizes, with step rewards, states and values.
pub(crate) fn random(dice: &mut Dice, groups: u64) -> Tables {
    let mut tables = Tables::default();
    for group in 0..groups {
        for member in 0..1 + dice.below(6) {
            let id = format!("g{group:03}m{member}");
            let calls = 1 + dice.below(9);
            let reward = if dice.below(3) == 0 { 1.0 } else { dice.number() };
            tables.add("rollouts", json!({ "rollout_id": id, "group_id": format!("g{group:03}"), "reward": reward }));
            for step in 0..calls {
                let state = format!("s{}", dice.below(4));
                tables.add("calls", json!({ "rollout_id": id, "step": step, "observation_hash": state }));
                tables.add("values", json!({ "rollout_id": id, "step": step, "value": dice.number() }));
                for rule in 0..dice.below(3) {
                    let value = dice.number() / 10.0;
                    tables.add(
                        "air_rewards",
                        json!({ "rollout_id": id, "step": step, "rule": format!("rule{rule}"), "value": value }),
                    );
                }
            }
        }
    }
    tables
}

/// The same rows in another order, in other files, on other threads, in other batches and by ranges of rollouts give the same bytes.
#[test]
fn the_order_of_rows_does_not_matter() {
    let tables = random(&mut Dice(11), 40);
    let pairs = [("discounted", "batch_whiten"), ("state_group", "group_std"), ("gae", "batch_whiten")];
    for (method, comparison) in pairs {
        let mut seen: Option<Vec<String>> = None;
        for (seed, threads, rows, range, small, parts) in
            [(0, "1", "8192", "0", "20000", 1), (1, "4", "64", "50", "0", 3), (2, "3", "1000", "0", "0", 7)]
        {
            let mut shuffled = tables.clone();
            let mut dice = Dice(seed);
            for table in ["rollouts", "calls", "air_rewards", "values"] {
                let rows = shuffled.rows_mut(table);
                for last in (1..rows.len()).rev() {
                    rows.swap(last, dice.below(last as u64 + 1) as usize);
                }
            }
            let values = settings(&[
                ("credit.method", method),
                ("credit.comparison", comparison),
                ("credit.gamma", "0.9"),
                ("threads", threads),
                ("engine.batch_rows", rows),
                ("engine.range_rows", range),
                ("engine.small_rows", small),
            ]);
            let hashes = block_on(async {
                let (context, _) = run_on_parts(&shuffled, &values, &["credit"], parts).await.expect("credit runs");
                let mut hashes = Vec::new();
                for table in ["credits", "transitions"] {
                    let files = context.lake.files(table, None).await.expect("lists");
                    hashes.extend(files.into_iter().flat_map(|batch| batch.files).map(|file| file.hash));
                }
                hashes
            });
            assert!(!hashes.is_empty());
            assert_eq!(seen.get_or_insert_with(|| hashes.clone()), &hashes, "{method} with {comparison}");
        }
    }
}

/// An allocation of the user's own goes with every comparison.
#[test]
fn an_allocation_of_the_users_own_is_found_and_checked() {
    let folder = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(folder.path().join("credit")).expect("makes the folder");
    let allocation = "-- credit/first: the first call answers for everything.\n--\n-- reads   scored_calls\n-- writes  weights\n\
        -- grain   rollout_id, call_id\n\nselect rollout_id, call_id, \
        cast(case when step = 0 then 1 else 0 end as double) as weight\nfrom scored_calls\n";
    std::fs::write(folder.path().join("credit/first.sql"), allocation).expect("writes");
    let mut tables = Tables::default();
    for (id, reward) in [("a", 1.0), ("b", 0.0)] {
        tables.add("rollouts", json!({ "rollout_id": id, "group_id": "g", "reward": reward, "calls": 2 }));
    }
    let sql = format!("\"{}\"", folder.path().display());
    let found = block_on(async {
        let values = settings(&[("pipeline.sql", &sql), ("credit.method", "first")]);
        let (context, _) = run(&tables, &values, &["credit"]).await.expect("credit runs");
        query(&context, "select advantage, reason from credits order by rollout_id, step").await.expect("reads")
    });
    assert_eq!(numbers(&found, "advantage"), [Some(0.5), Some(0.0), Some(-0.5), Some(0.0)]);
    assert_eq!(texts(&found, "reason")[0], "the first call answers for everything; the total reward minus the mean of the group");
}

/// `fulgurite credit --explain`: what was compared with what, and why a call is dropped.
#[test]
fn explain_shows_what_was_given_and_why() {
    let mut tables = Tables::default();
    for (id, reward) in [("a", 1.0), ("b", 0.0)] {
        tables.add("rollouts", json!({ "rollout_id": id, "group_id": "g", "reward": reward }));
    }
    for (id, step, abandoned) in [("a", 0, true), ("a", 1, false), ("b", 0, false)] {
        tables.add("calls", json!({ "rollout_id": id, "step": step, "abandoned": abandoned, "agent": "solver" }));
    }
    tables.add("air_rewards", json!({ "rollout_id": "a", "step": 1, "rule": "tool_error", "value": -0.1 }));
    let (shown, counts) = block_on(async {
        let (context, summaries) = run(&tables, &[], &["credit"]).await.expect("credit runs");
        (fulgurite::credit::explain(&context, "a").await.expect("explains"), summaries[0].counts.clone())
    });
    for part in
        ["compared with: a 0.9, b 0", "identical with group_mean", "tool_error -0.1", "(0.9 - 0.45) / 1", "dropped: abandoned"]
    {
        assert!(shown.contains(part), "`{part}` is not in\n{shown}");
    }
    assert_eq!(counts.get("to_learn_from"), Some(&2));
    assert_eq!(counts.get("dropped_abandoned"), Some(&1));
}
