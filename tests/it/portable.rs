//! The SQL of `air` and `credit` is portable: DuckDB runs the same files and gives the same rows.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Float64Type};
use datafusion::scalar::ScalarValue;
use fulgurite::engine::{self, SqlStage};
use fulgurite::{air, credit};
use serde_json::{Map, Value, json};

use crate::cases::{Dice, Tables, block_on, context, lake_at, settings};
use crate::peers;

/// What DuckDB has to be told about a stage.
fn described(stage: &SqlStage, compare: Value) -> Value {
    let files: Vec<&str> = stage.files.iter().map(|file| file.name.as_str()).filter(|name| !name.ends_with("/counts")).collect();
    let params: Map<String, Value> = stage
        .params
        .iter()
        .map(|(name, value)| {
            let value = match value {
                ScalarValue::Float64(Some(number)) => json!(number),
                ScalarValue::Boolean(Some(flag)) => json!(flag),
                ScalarValue::Utf8(Some(text)) => json!(text),
                other => panic!("no JSON for {other:?}"),
            };
            (name.clone(), value)
        })
        .collect();
    let mut relations = Map::new();
    for (name, rows) in &stage.relations {
        let kind = |data_type: &DataType| if data_type == &DataType::Float64 { "double" } else { "text" };
        let columns: Map<String, Value> =
            rows.schema_ref().fields().iter().map(|field| (field.name().clone(), json!(kind(field.data_type())))).collect();
        let cell = |column: &dyn Array, row: usize| match column.data_type() {
            DataType::Float64 => json!(column.as_primitive::<Float64Type>().value(row)),
            _ => json!(column.as_string::<i32>().value(row)),
        };
        let rows: Vec<Vec<Value>> =
            (0..rows.num_rows()).map(|row| rows.columns().iter().map(|column| cell(column, row)).collect()).collect();
        relations.insert((*name).to_owned(), json!({ "columns": columns, "rows": rows }));
    }
    json!({ "files": files, "params": params, "relations": relations, "compare": compare })
}

/// Failing and repeated tools, groups of different sizes, some without reward.
fn random(dice: &mut Dice) -> Tables {
    let mut tables = Tables::default();
    for rollout in 0..60 {
        let id = format!("r{rollout:02}");
        let reward = if dice.below(8) == 0 { Value::Null } else { json!(dice.number()) };
        tables.add("rollouts", json!({ "rollout_id": id, "group_id": format!("g{}", rollout / 5), "reward": reward }));
        for step in 0..1 + dice.below(8) {
            let reason = if dice.below(6) == 0 { "length" } else { "stop" };
            let state = format!("s{}", dice.below(3));
            tables.add("calls", json!({ "rollout_id": id, "step": step, "finish_reason": reason, "observation_hash": state }));
            tables.add("values", json!({ "rollout_id": id, "step": step, "value": dice.number() }));
            for tool in 0..dice.below(3) {
                let status = if dice.below(3) == 0 { "error" } else { "ok" };
                let hash = format!("h{}", dice.below(3));
                let span = format!("t{step}_{tool}");
                tables.add(
                    "tool_calls",
                    json!({
                        "rollout_id": id, "span_id": span, "step": step, "seq": step * 1000 + tool + 1, "name": "search",
                        "status": status, "arguments_hash": hash,
                    }),
                );
            }
        }
    }
    tables
}

#[test]
fn duckdb_gives_the_same_rows() {
    let Some(python) = peers::python() else { return };
    let pairs =
        [("discounted", "group_std", "scaled"), ("state_group", "leave_one_out", "potential"), ("gae", "batch_whiten", "scaled")];
    for (method, comparison, form) in pairs {
        let folder = tempfile::tempdir().expect("a directory");
        let location = folder.path().to_str().expect("UTF-8");
        let values = settings(&[
            ("credit.method", method),
            ("credit.comparison", comparison),
            ("credit.gamma", "0.9"),
            ("air.form", form),
        ]);
        let stages = block_on(async {
            let lake = lake_at(location, &random(&mut Dice(7)), &["ingest", "derive", "values"], 1).await.expect("a lake");
            let context = context(&lake, &values).expect("settings");
            air::run(&context).await.expect("air runs");
            credit::run(&context).await.expect("credit runs");
            let files = engine::sql_files(&context.config).expect("SQL files");
            let found = json!({ "air_rewards": ["rollout_id", "step", "rule", "evidence_span_id", "value"] });
            let given = json!({
                "credits": ["rollout_id", "step", "verdict", "reason", "advantage", "return_value"],
                "transitions": ["rollout_id", "step", "drop_reason", "reward", "advantage"],
            });
            json!([
                described(&air::stage(&context.config, &files).expect("a stage"), found),
                described(&credit::stage(&context.config, &files).expect("a stage"), given),
            ])
        });
        let pipelines = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines");
        let mut duckdb = Command::new(&python);
        duckdb.arg(peers::script("duckdb_stages.py")).arg(location).arg(pipelines).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = duckdb.stderr(Stdio::piped()).spawn().expect("Python starts");
        child.stdin.take().expect("piped").write_all(stages.to_string().as_bytes()).expect("writes");
        let output = child.wait_with_output().expect("ends");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && output.stdout.ends_with(b"rows agree\n"), "{method} with {comparison}: {said}");
    }
}
