//! `credit.compat`: the transitions of scripted runs beside what Agent Lightning's own code made of them (`scripts/fixtures/agent_lightning.py`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use arrow::array::{Array as _, ArrayRef, AsArray as _, RecordBatch};
use arrow::datatypes::{Float64Type, Int32Type, Int64Type};
use fulgurite::lake::Lake;
use fulgurite::stage::Context;
use fulgurite::{air, credit, derive, ingest};
use serde_json::Value;

use crate::cases::{block_on, context, numbers, query, settings, texts};

fn fixture(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/agent_lightning").join(version)
}

fn expected(version: &str) -> Value {
    let text = std::fs::read_to_string(fixture(version).join("expected.json")).expect("a fixture");
    serde_json::from_str(&text).expect("JSON")
}

/// The tables that these settings give of the fixture's traces.
async fn built(version: &str, pairs: &[(&str, &str)]) -> Context {
    let lake = Lake::open("memory://").await.expect("a lake");
    let context = context(&lake, &settings(pairs)).expect("settings");
    let paths = ["traces.jsonl", "rollouts.jsonl"].map(|name| fixture(version).join(name).display().to_string());
    let summary = ingest::run(&context, &paths).await.expect("ingests");
    assert_eq!(summary.rows["rejects"], 0);
    derive::run(&context).await.expect("derives");
    air::run(&context).await.expect("finds");
    credit::run(&context).await.expect("credits");
    context
}

fn ids(column: &ArrayRef, row: usize) -> Vec<i64> {
    let values = column.as_list::<i32>().value(row);
    values.as_primitive::<Int32Type>().values().iter().map(|id| i64::from(*id)).collect()
}

fn column<'a>(rows: &'a RecordBatch, name: &str) -> &'a ArrayRef {
    rows.column_by_name(name).expect("the column is there")
}

fn list(row: &Value, key: &str) -> Vec<i64> {
    row[key].as_array().expect("a list").iter().map(|id| id.as_i64().expect("an integer")).collect()
}

/// verl divides what is alone in its group by `1 + 1e-6` in f32; everything else agrees to 1e-9.
const TOLERANCE: f64 = 1e-7;

fn assert_close(found: Option<f64>, expected: &Value, what: &str) {
    let (found, expected) = (found.expect("a number"), expected.as_f64().expect("a number"));
    assert!((found - expected).abs() <= TOLERANCE, "{what}: {found} and not {expected}");
}

const TRANSITIONS: &str = "select rollout_id, call_id, step, prompt_token_ids, response_token_ids, return_value, advantage \
                           from transitions where drop_reason is null order by rollout_id, step";

/// Agent Lightning 0.3 makes a row of each call.
fn rows_of_calls(pairs: &[(&str, &str)], key: &str) {
    let fixture = expected("0.3");
    let rows = fixture[key].as_array().expect("rows");
    let found = block_on(async { query(&built("0.3", pairs).await, TRANSITIONS).await.expect("reads") });
    assert_eq!(found.num_rows(), rows.len(), "calls");
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_key(|row| rows[*row]["rollout_id"].as_str().expect("an id"));
    let (rollouts, returns, advantages) =
        (texts(&found, "rollout_id"), numbers(&found, "return_value"), numbers(&found, "advantage"));
    for (row, expected) in order.into_iter().map(|row| &rows[row]).enumerate() {
        let what = format!("row {row} of {}", rollouts[row]);
        assert_eq!(rollouts[row], expected["rollout_id"], "{what}");
        assert_eq!(ids(column(&found, "prompt_token_ids"), row), list(expected, "prompt"), "{what}");
        assert_eq!(ids(column(&found, "response_token_ids"), row), list(expected, "response"), "{what}");
        assert_close(returns[row], &expected["reward"], &what);
        assert_close(advantages[row], &expected["advantage"], &what);
    }
}

#[test]
fn agl_0_3_gives_the_rows_of_agent_lightning_0_3() {
    rows_of_calls(&[("credit.compat", "agl-0.3")], "rows");
}

#[test]
fn agl_0_3_trains_one_agent_as_agent_lightning_0_3_does() {
    rows_of_calls(&[("credit.compat", "agl-0.3"), ("credit.agents", "[\"writer\"]")], "rows_of_writer");
}

/// Agent Lightning 1.0 makes a row of each sequence: `edges` and `transitions` give its ids and its mask.
#[test]
fn agl_1_0_gives_the_trajectories_of_agent_lightning_1_0() {
    let fixture = expected("1.0");
    let found = block_on(async {
        let context = built("1.0", &[("credit.compat", "agl-1.0")]).await;
        let sql = "select e.rollout_id, e.sequence, e.observation_tokens, t.prompt_token_ids, t.response_token_ids, \
                   t.return_value, t.advantage from edges as e \
                   join transitions as t on t.rollout_id = e.rollout_id and t.call_id = e.call_id and t.drop_reason is null \
                   order by e.rollout_id, e.step";
        query(&context, sql).await.expect("reads")
    });
    let mut made: BTreeMap<(String, i64), (Vec<i64>, Vec<i64>, Vec<i64>, f64, f64)> = BTreeMap::new();
    let rollouts = texts(&found, "rollout_id");
    let sequences = column(&found, "sequence").as_primitive::<Int64Type>();
    let observations = column(&found, "observation_tokens").as_primitive::<Int64Type>();
    let [returns, advantages] = ["return_value", "advantage"].map(|name| column(&found, name).as_primitive::<Float64Type>());
    for (row, rollout) in rollouts.iter().enumerate() {
        let (prompt, response) = (ids(column(&found, "prompt_token_ids"), row), ids(column(&found, "response_token_ids"), row));
        let key = (rollout.clone(), sequences.value(row));
        let entry =
            made.entry(key).or_insert_with(|| (prompt.clone(), vec![], vec![], returns.value(row), advantages.value(row)));
        if observations.is_valid(row) {
            let seen = usize::try_from(observations.value(row)).expect("not negative");
            entry.1.extend(&prompt[prompt.len() - seen..]);
            entry.2.extend(vec![0; seen]);
        }
        entry.1.extend(&response);
        entry.2.extend(vec![1; response.len()]);
    }
    let mut rows: Vec<&Value> = fixture["rows"].as_array().expect("rows").iter().collect();
    rows.sort_by_key(|row| row["rollout_id"].as_str().expect("an id")); // stable: rows of a rollout keep their order
    assert_eq!(made.len(), rows.len(), "sequences");
    for (((rollout, sequence), (prompt, response, mask, reward, advantage)), expected) in made.into_iter().zip(rows) {
        let what = format!("sequence {sequence} of {rollout}");
        assert_eq!(rollout, expected["rollout_id"], "{what}");
        assert_eq!(prompt, list(expected, "prompt"), "{what}");
        assert_eq!(response, list(expected, "response"), "{what}");
        assert_eq!(mask, list(expected, "mask"), "{what}");
        assert_close(Some(reward), &expected["reward"], &what);
        assert_close(Some(advantage), &expected["advantage"], &what);
    }
}
