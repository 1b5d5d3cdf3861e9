//! The stage `derive`: cases as files, and what holds for every input.

use std::collections::BTreeMap;

use fulgurite::stage::Context;
use serde_json::{Value, json};

use crate::cases::{self, BATCH, Dice, Tables, block_on};
use crate::second_engine;

#[test]
fn cases() {
    cases::check_folder("derive");
}

/// The same rows in other files, in other batches, on other threads, by ranges of rollouts and planned as a large batch give the same bytes.
#[test]
fn the_bytes_do_not_depend_on_how_the_rows_came() {
    let tables = random_spans(60);
    let one = hashes(&tables, &["threads=1"], 1);
    assert_eq!(one.len(), 4);
    assert_eq!(one, hashes(&tables, &["threads=4", "engine.batch_rows=7", "engine.range_rows=100", "engine.small_rows=0"], 3));
}

/// The SQL is portable: DuckDB makes the same rows of the same files.
#[test]
fn duckdb_agrees() {
    block_on(async {
        let (context, _) = cases::run(&random_spans(60), &[], &["derive"]).await.expect("derive runs");
        second_engine::check(&context, "derive", &["ingest"], &["create table reward_weights (name varchar, weight double)"])
            .await;
    });
}

fn hashes(tables: &Tables, settings: &[&str], parts: usize) -> BTreeMap<String, Vec<String>> {
    let settings: Vec<String> = settings.iter().map(|setting| (*setting).to_owned()).collect();
    let hashes = |context: Context| async move {
        let manifest = context.lake.manifest("derive", BATCH).await.expect("reads").expect("is there");
        let files =
            manifest.tables.into_iter().map(|(name, entry)| (name, entry.files.into_iter().map(|file| file.hash).collect()));
        files.collect()
    };
    block_on(async { hashes(cases::run_on_parts(tables, &settings, &["derive"], parts).await.expect("derive runs").0).await })
}

/// Rollouts of every shape: overlapping calls, tools, duplicates, handoffs, linked, late and final rewards, missing times, records.
fn random_spans(rollouts: u64) -> Tables {
    let mut dice = Dice(7);
    let mut tables = Tables::default();
    for rollout in 0..rollouts {
        let timed = dice.below(5) > 0;
        let mut calls: Vec<String> = Vec::new();
        let mut now = 1_000;
        for seq in 0..1 + dice.below(14) {
            now += dice.below(40) as i64;
            let end = now + dice.below(60) as i64;
            let mut row =
                json!({ "rollout_id": format!("r{rollout:03}"), "seq": seq, "span_id": format!("s{seq}"), "name": "span" });
            let fields = row.as_object_mut().expect("an object");
            let mut set = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
            if timed {
                set("start_ns", json!(now));
                set("end_ns", json!(end));
            }
            let asker = calls.last().cloned();
            match dice.below(10) {
                0..4 => {
                    set("kind", json!("llm"));
                    set("status", json!(if dice.below(6) == 0 { "error" } else { "ok" }));
                    set("error_type", json!(if dice.below(2) == 0 { "APIConnectionError" } else { "ValueError" }));
                    set("output_messages", json!("[{\"role\":\"assistant\",\"content\":\"ü]\"}]"));
                    set("input_tokens", json!(dice.below(100)));
                    set("policy_version", json!(dice.below(2)));
                    if let Some(kept) = asker.filter(|_| dice.below(4) == 0) {
                        set("dedup_of", json!(kept));
                    } else {
                        calls.push(format!("s{seq}"));
                    }
                }
                4..6 => {
                    set("kind", json!(if dice.below(4) == 0 { "handoff" } else { "tool" }));
                    set("tool_name", json!("search"));
                    set("tool_status", json!(if dice.below(3) == 0 { "error" } else { "ok" }));
                    if let Some(call) = asker {
                        set("asked_by", json!(call));
                    }
                }
                6..9 => {
                    set("kind", json!("reward"));
                    set("reward_name", json!(["score", "style"][dice.below(2) as usize]));
                    set("reward_value", json!(dice.number()));
                    set("reward_source", json!("grader"));
                    set("reward_primary", json!(dice.below(2) == 0));
                    set("reward_final", json!(dice.below(6) == 0));
                    if dice.below(3) == 0 {
                        set("reward_target", json!(format!("s{}", dice.below(seq + 2))));
                    }
                }
                _ => {
                    set("kind", json!(["rollout", "agent"][dice.below(2) as usize]));
                    set("depth", json!(0));
                    set(
                        "rollout_status",
                        json!(["succeeded", "failed", "timeout", "cancelled", "running"][dice.below(5) as usize]),
                    );
                    set("split", json!(["train", "dev", "Test"][dice.below(3) as usize]));
                }
            }
            now = if dice.below(3) == 0 { now } else { end };
            tables.add("spans", row);
        }
    }
    tables
}
