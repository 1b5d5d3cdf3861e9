//! The stage `air`: every rule by hand, and what the cap and the potential promise.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::json;

use crate::cases::{Dice, Tables, block_on, check_folder, numbers, query, run, settings, texts};

#[test]
fn rules_and_forms_give_what_was_worked_out_by_hand() {
    check_folder("air");
}

/// Rollouts with failing, repeated and successful tools, and truncated responses.
fn random(dice: &mut Dice, rollouts: u64, longest: u64) -> Tables {
    let mut tables = Tables::default();
    for rollout in 0..rollouts {
        let id = format!("r{rollout:03}");
        for step in 0..1 + dice.below(longest) {
            let reason = if dice.below(10) == 0 { "length" } else { "stop" };
            tables.add("calls", json!({ "rollout_id": id, "step": step, "finish_reason": reason }));
            for tool in 0..dice.below(3) {
                let status = ["ok", "ok", "error", "control"][dice.below(4) as usize];
                tables.add(
                    "tool_calls",
                    json!({
                        "rollout_id": id, "span_id": format!("t{step}_{tool}"), "step": step, "seq": step * 1000 + tool + 1,
                        "name": format!("tool{}", dice.below(2)), "status": status,
                        "arguments_hash": format!("h{}", dice.below(4)), "arguments_valid": dice.below(8) > 0,
                        "result_empty": dice.below(5) == 0,
                    }),
                );
            }
        }
    }
    tables
}

/// By ranges of rollouts, on several threads, planned as a large batch, the bytes are those of everything at once.
#[test]
fn ranges_of_rollouts_give_the_same_bytes() {
    let tables = random(&mut Dice(3), 30, 8);
    for form in ["scaled", "potential"] {
        let hashes = |range_rows: &str, threads: &str, small_rows: &str| {
            let engine = [("engine.range_rows", range_rows), ("threads", threads), ("engine.small_rows", small_rows)];
            let values = settings(&[&[("air.form", form)], &engine[..]].concat());
            block_on(async {
                let (context, _) = run(&tables, &values, &["air"]).await.expect("air runs");
                let files = context.lake.files("air_rewards", None).await.expect("lists");
                files.into_iter().flat_map(|batch| batch.files).map(|file| file.hash).collect::<Vec<_>>()
            })
        };
        let whole = hashes("0", "1", "20000");
        assert!(!whole.is_empty());
        assert_eq!(whole, hashes("40", "3", "0"), "{form}");
    }
}

/// What two rules find that look back over a rollout is what a walk over its tool calls finds.
#[test]
fn repetitions_and_recoveries_are_those_of_a_walk() {
    let mut tables = random(&mut Dice(5), 60, 14);
    let values = settings(&[("air.cap", "1000"), ("air.weights.recovery", "0.25")]);
    let found = block_on(async {
        let (context, _) = run(&tables, &values, &["air"]).await.expect("air runs");
        let sql = "select rollout_id, rule, evidence_span_id as span_id, value from air_rewards where rule in ('recovery', 'repeated_call')";
        query(&context, sql).await.expect("reads")
    });
    let found: BTreeSet<(String, String, String, i64)> = texts(&found, "rollout_id")
        .into_iter()
        .zip(texts(&found, "rule"))
        .zip(texts(&found, "span_id").into_iter().zip(numbers(&found, "value")))
        .map(|((rollout, rule), (span, value))| (rollout, rule, span, (value.expect("not null") * 1e9).round() as i64))
        .collect();

    let mut expected = BTreeSet::new();
    let mut asked = BTreeSet::new();
    // Of each tool: errors that wait for a success, and those of the step that is being read with the span of its first success.
    let mut tools: BTreeMap<(String, String), (i64, i64, i64, Option<String>)> = BTreeMap::new();
    let mut settle = |key: &(String, String), (lost, _, errors, success): (i64, i64, i64, Option<String>)| {
        let Some(span) = success else { return lost + errors };
        if lost > 0 {
            expected.insert((key.0.clone(), "recovery".to_owned(), span, (lost * 100_000_000).min(250_000_000)));
        }
        errors
    };
    let mut repeated = Vec::new();
    for call in tables.rows_mut("tool_calls") {
        let text = |key: &str| call[key].as_str().expect("text").to_owned();
        let (rollout, step) = (text("rollout_id"), call["step"].as_i64().expect("a number"));
        if text("status") == "control" {
            continue;
        }
        if !asked.insert((rollout.clone(), text("arguments_hash"))) {
            repeated.push((rollout.clone(), "repeated_call".to_owned(), text("span_id"), -100_000_000));
        }
        let key = (rollout, text("name"));
        let tool = tools.entry(key.clone()).or_insert((0, step, 0, None));
        if tool.1 != step {
            *tool = (settle(&key, tool.clone()), step, 0, None);
        }
        match text("status").as_str() {
            "error" => tool.2 += 1,
            _ => drop(tool.3.get_or_insert(text("span_id"))),
        }
    }
    for (key, tool) in tools {
        settle(&key, tool);
    }
    expected.extend(repeated);
    assert!(expected.iter().any(|(_, _, _, value)| *value == 200_000_000) && expected.len() > 100);
    assert_eq!(found, expected);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, failure_persistence: None, ..ProptestConfig::default() })]

    /// Outcomes that differ by more than twice the cap keep their order, whatever the rules found.
    #[test]
    fn the_scaled_form_keeps_the_order_of_outcomes(seed in any::<u64>(), cap in 0.0..0.6f64) {
        let mut dice = Dice(seed);
        let tables = random(&mut dice, 40, 12);
        let found = block_on(async {
            let (context, _) = run(&tables, &settings(&[("air.cap", &cap.to_string())]), &["air"]).await.expect("air runs");
            query(&context, "select rollout_id, value, scale from air_rewards").await.expect("reads")
        });
        prop_assert!(found.num_rows() > 0);
        let mut sums: BTreeMap<String, f64> = BTreeMap::new();
        for (rollout, value) in texts(&found, "rollout_id").into_iter().zip(numbers(&found, "value")) {
            *sums.entry(rollout).or_default() += value.expect("not null");
        }
        prop_assert!(numbers(&found, "scale").iter().all(|scale| scale.is_some_and(|scale| scale > 0.0 || cap == 0.0)));
        let outcomes: Vec<(f64, f64)> = sums.values().map(|air| (dice.number(), *air)).collect();
        for (worse, air_of_worse) in &outcomes {
            for (better, air_of_better) in &outcomes {
                if better - worse > 2.0 * cap + 1e-9 {
                    prop_assert!(better + air_of_better > worse + air_of_worse);
                }
            }
        }
    }

    /// The discounted sum of the shaping is `gamma^T * phi_T - phi_0`, and both potentials are 0.
    #[test]
    fn the_potential_telescopes(seed in any::<u64>(), gamma in 0.0..=1.0f64, cap in 0.05..2.0f64) {
        let tables = random(&mut Dice(seed), 20, 30);
        let values = settings(&[("air.form", "potential"), ("air.cap", &cap.to_string()), ("credit.gamma", &gamma.to_string())]);
        let found = block_on(async {
            let (context, _) = run(&tables, &values, &["air"]).await.expect("air runs");
            query(&context, "select rollout_id, cast(step as double) as step, value from air_rewards").await.expect("reads")
        });
        let mut sums: BTreeMap<String, f64> = BTreeMap::new();
        let shaped = texts(&found, "rollout_id").into_iter().zip(numbers(&found, "step")).zip(numbers(&found, "value"));
        for ((rollout, step), value) in shaped {
            *sums.entry(rollout).or_default() += gamma.powf(step.expect("not null")) * value.expect("not null");
        }
        prop_assert!(!sums.is_empty());
        for (rollout, sum) in sums {
            prop_assert!(sum.abs() < 1e-9, "{rollout}: {sum}");
        }
    }
}

/// A file of the user's own in the pipeline's folder is a rule; without a weight it is worth 0, and a warning says so.
#[test]
fn a_rule_of_the_users_own_is_found_and_checked() {
    let folder = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(folder.path().join("air")).expect("makes the folder");
    let rule = "-- air/many_tools: a call asked for more than one tool.\n--\n-- reads   tool_calls, air_weights\n-- writes  air_findings\n\
        -- grain   rollout_id, call_id\n\nselect t.rollout_id, t.call_id, w.rule, w.weight as value, min(t.span_id) as evidence_span_id\n\
        from tool_calls as t\njoin air_weights as w on w.rule = 'many_tools'\ngroup by t.rollout_id, t.call_id, w.rule, w.weight\n\
        having count(*) > 1\n";
    std::fs::write(folder.path().join("air/many_tools.sql"), rule).expect("writes");
    let mut tables = Tables::default();
    tables.add("calls", json!({ "rollout_id": "a", "step": 0 }));
    for span in ["t0", "t1"] {
        tables.add("tool_calls", json!({ "rollout_id": "a", "step": 0, "span_id": span, "status": "error" }));
    }
    let sql = format!("\"{}\"", folder.path().display());
    let run_with = |more: &[(&str, &str)]| {
        let mut pairs = vec![("pipeline.sql", sql.as_str()), ("air.rules", "[\"many_tools\"]")];
        pairs.extend(more);
        block_on(async {
            let (context, summaries) = run(&tables, &settings(&pairs), &["air"]).await.expect("air runs");
            let found = query(&context, "select rule, value from air_rewards").await.expect("reads");
            (texts(&found, "rule"), numbers(&found, "value"), summaries[0].warnings.clone())
        })
    };
    let (rules, values, warnings) = run_with(&[]);
    assert_eq!((rules, values), (vec!["many_tools".to_owned()], vec![Some(0.0)]));
    assert!(warnings.len() == 1 && warnings[0].contains("set `air.weights.many_tools`"), "{warnings:?}");
    let (_, values, warnings) = run_with(&[("air.weights.many_tools", "-0.05")]);
    assert_eq!((values, warnings.len()), (vec![Some(-0.05)], 0));
    // What other rules find in the same call and span does not count against the rule's grain.
    let (rules, ..) = run_with(&[("air.rules", "[\"many_tools\", \"tool_error\"]")]);
    assert_eq!(rules, ["many_tools", "tool_error", "tool_error"]);
}

/// `fulgurite air --explain`: the evidence stands beside what it was worth.
#[test]
fn explain_shows_the_evidence() {
    let mut tables = Tables::default();
    tables.add("rollouts", json!({ "rollout_id": "a", "group_id": "g", "reward": 1.0, "tool_errors": 1, "tool_calls": 1 }));
    let response =
        r#"{"role":"assistant","content":"Let me see.","tool_calls":[{"id":"x","name":"divide","arguments":"{\"by\": 0}"}]}"#;
    tables.add("calls", json!({ "rollout_id": "a", "step": 0, "agent": "solver", "response": response }));
    tables.add("calls", json!({ "rollout_id": "a", "step": 1, "agent": "solver" }));
    tables.add(
        "tool_calls",
        json!({
            "rollout_id": "a", "step": 0, "span_id": "t0", "name": "divide", "status": "error", "arguments": "{\"by\": 0}",
            "error": "division by zero",
        }),
    );
    let (shown, missing) = block_on(async {
        let (context, _) = run(&tables, &[], &["air"]).await.expect("air runs");
        let missing = fulgurite::air::explain(&context, "b").await.expect_err("there is no b");
        (fulgurite::air::explain(&context, "a").await.expect("explains"), missing.to_string())
    });
    for part in ["Let me see. divide(", "tool_error", "-0.1", "divide({\"by\": 0}) -> division by zero", "solver", "AIR -0.1"] {
        assert!(shown.contains(part), "`{part}` is not in\n{shown}");
    }
    assert!(missing.contains("no rollout `b`; it has `a`"), "{missing}");
}
