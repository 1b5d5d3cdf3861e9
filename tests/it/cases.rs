//! Cases of SQL stages as files: tables in, rows out, the working of the expected values in the comments.
//!
//! ```text
//! # what the case shows, and how its numbers come about
//! set air.cap = 10
//!
//! tool_calls
//! rollout_id | span_id | step | status
//! a          | t0      | 0    | error
//!
//! expect air_rewards where rule = 'tool_error'
//! rollout_id | step | value
//! a          | 0    | -0.1
//! ```
//!
//! An empty cell takes what such a row usually has. Expected numbers may be SQL (`(2.0 / 3) / (sqrt(1.0 / 3) + 1e-6)`), and have to agree to
//! 1e-12. Rollouts without rows in `calls` get as many calls as they say. The stage that makes the first expected table
//! runs on what is stated of the tables before it; `run air credit` says otherwise. `refuse TEXT` expects an error that says TEXT.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type};
use arrow::util::display::array_value_to_string;
use datafusion::prelude::SessionContext;
use fulgurite::config::Config;
use fulgurite::lake::{Lake, Lineage};
use fulgurite::stage::{Context, Summary};
use fulgurite::{air, credit, derive, engine, schema};
use serde_json::{Map, Value, json};

/// Batch of every test.
pub const BATCH: &str = "b";

/// Rows of tables, by table.
#[derive(Debug, Clone, Default)]
pub struct Tables(BTreeMap<String, Vec<Map<String, Value>>>);

impl Tables {
    /// Adds a row. Columns that it does not name take what such a row usually has.
    pub fn add(&mut self, table: &str, row: Value) {
        let Value::Object(row) = row else { panic!("a row is an object, not {row}") };
        self.0.entry(table.to_owned()).or_default().push(row);
    }

    /// The rows of a table, to be put into another order.
    pub fn rows_mut(&mut self, table: &str) -> &mut Vec<Map<String, Value>> {
        self.0.entry(table.to_owned()).or_default()
    }

    /// Gives rollouts without rows in `calls` as many calls as they say, and the others the number that they have.
    fn complete(&mut self) {
        let mut made = Vec::new();
        let mut counts: BTreeMap<String, i64> = BTreeMap::new();
        for call in self.0.get("calls").into_iter().flatten() {
            *counts.entry(call["rollout_id"].to_string()).or_default() += 1;
        }
        for rollout in self.0.get_mut("rollouts").into_iter().flatten() {
            if let Some(count) = counts.get(&rollout["rollout_id"].to_string()) {
                rollout.insert("calls".to_owned(), json!(count));
                continue;
            }
            for step in 0..rollout.get("calls").and_then(Value::as_i64).unwrap_or(0) {
                made.push(json!({ "rollout_id": rollout["rollout_id"], "step": step }));
            }
        }
        for call in made {
            self.add("calls", call);
        }
    }

    fn batch(&self, name: &str) -> Result<RecordBatch> {
        let schema = schema::table(name)?.arrow.clone();
        let rows = self.0.get(name).map(Vec::as_slice).unwrap_or_default();
        let full: Vec<Value> = rows.iter().enumerate().map(|(index, row)| Value::Object(usual(name, row, index))).collect();
        let mut decoder = arrow::json::ReaderBuilder::new(schema.clone()).build_decoder()?;
        decoder.serialize(&full)?;
        Ok(decoder.flush()?.unwrap_or_else(|| RecordBatch::new_empty(schema)))
    }
}

/// The row with every column that may not be null, and those that a call or tool call usually has.
fn usual(table: &str, row: &Map<String, Value>, index: usize) -> Map<String, Value> {
    let step = row.get("step").and_then(Value::as_i64);
    let mut full = Map::new();
    for field in schema::table(table).expect("a table").arrow.fields() {
        let value = match (table, field.name().as_str()) {
            (_, "call_id") => step.map(|step| json!(format!("c{step}"))),
            ("calls", "seq") => step.map(|step| json!(step * 1000)),
            ("tool_calls", "seq") => Some(json!(step.unwrap_or(1000) * 1000 + 1 + index as i64)),
            ("rewards" | "spans", "seq") => Some(json!(index)),
            ("spans", "kind") => Some(json!("other")),
            ("spans", "status") => Some(json!("unset")),
            ("spans", "depth") => Some(json!(1)),
            (_, "split") if !field.is_nullable() => Some(json!("train")),
            (_, "status") => Some(json!("ok")),
            (_, "token_source") => Some(json!("none")),
            ("air_rewards", "scale") => Some(json!(1.0)),
            ("air_rewards", "rule") => Some(json!("a_rule")),
            ("rewards", "reward_id") => Some(json!(format!("r{index}"))),
            ("rewards", "is_primary") => Some(json!(true)),
            ("calls", "response") => Some(json!("{\"role\":\"assistant\",\"content\":\"yes\"}")),
            _ if field.is_nullable() => None,
            _ => Some(match field.data_type() {
                DataType::Utf8 => json!("x"),
                DataType::Boolean => json!(false),
                _ => json!(0),
            }),
        };
        if let Some(value) = row.get(field.name()).cloned().or(value).filter(|value| !value.is_null()) {
            full.insert(field.name().clone(), value);
        }
    }
    full
}

/// A lake in memory that holds these tables, as the stages that make them would have written them.
///
/// * `parts`: files that the rows of each table are dealt out to, in turn.
pub async fn lake(tables: &Tables, stages: &[&str], parts: usize) -> Result<Lake> {
    lake_at("memory://", tables, stages, parts).await
}

/// Like `lake`, at a place of one's own.
pub async fn lake_at(location: &str, tables: &Tables, stages: &[&str], parts: usize) -> Result<Lake> {
    let mut tables = tables.clone();
    tables.complete();
    let lake = Lake::open(location).await?;
    for stage in stages {
        let run = lake.begin(stage, BATCH).await?;
        for name in schema::tables_of(stage) {
            let rows = tables.batch(name)?;
            for part in 0..parts {
                let dealt = (part..rows.num_rows()).step_by(parts).map(|row| row as u64).collect::<arrow::array::UInt64Array>();
                let dealt = arrow::compute::take_record_batch(&rows, &dealt)?;
                let mut writer = run.writer(name, part as u32)?;
                writer.write(&sorted(&dealt, &schema::table(name)?.doc.sorted_by)?)?;
                writer.finish().await?;
            }
        }
        run.commit(Lineage::new(stage, json!({}))?, BTreeMap::new()).await?;
    }
    Ok(lake)
}

fn sorted(rows: &RecordBatch, by: &[String]) -> Result<RecordBatch> {
    let columns: Vec<_> = by
        .iter()
        .filter_map(|name| rows.column_by_name(name).cloned())
        .map(|values| arrow::compute::SortColumn { values, options: None })
        .collect();
    let order = arrow::compute::lexsort_to_indices(&columns, None)?;
    Ok(arrow::compute::take_record_batch(rows, &order)?)
}

/// A context on the test's batch. Settings are `stage.key=value`.
pub fn context(lake: &Lake, settings: &[String]) -> Result<Context> {
    let config = Config::load(None, settings)?;
    Ok(Context {
        lake: lake.clone(),
        batch: BATCH.to_owned(),
        config,
        rebuild: false,
        dry_run: false,
        progress: Default::default(),
        stop: Default::default(),
    })
}

/// Runs stages by name on tables, and returns the context for reading what they made, with their summaries.
///
/// The tables of every stage that is not run are taken as they are.
pub async fn run(tables: &Tables, settings: &[String], stages: &[&str]) -> Result<(Context, Vec<Summary>)> {
    run_on_parts(tables, settings, stages, 1).await
}

/// Like `run`, the rows of each table dealt out to several files.
pub async fn run_on_parts(
    tables: &Tables,
    settings: &[String],
    stages: &[&str],
    parts: usize,
) -> Result<(Context, Vec<Summary>)> {
    let given: Vec<&str> = ["ingest", "derive", "air", "values"].into_iter().filter(|stage| !stages.contains(stage)).collect();
    let lake = lake(tables, &given, parts).await?;
    let context = context(&lake, settings)?;
    let mut summaries = Vec::new();
    for stage in stages {
        summaries.push(match *stage {
            "derive" => derive::run(&context).await?,
            "air" => air::run(&context).await?,
            "credit" => credit::run(&context).await?,
            other => panic!("no test runs `{other}`"),
        });
    }
    Ok((context, summaries))
}

/// A session with every table that is committed.
pub async fn session(context: &Context) -> Result<SessionContext> {
    let session = engine::session(&context.config, &context.lake)?;
    for table in schema::tables() {
        let name = table.doc.name.as_str();
        for found in context.lake.files(name, Some(BATCH)).await? {
            session.register_table(name, engine::lake_table(table, &found.files)?)?;
        }
    }
    Ok(session)
}

/// Rows of a query over the committed tables.
pub async fn query(context: &Context, sql: &str) -> Result<RecordBatch> {
    let frame = session(context).await?.sql(sql).await?;
    let schema = std::sync::Arc::new(frame.schema().as_arrow().clone());
    Ok(arrow::compute::concat_batches(&schema, &frame.collect().await?)?)
}

/// A column of numbers.
pub fn numbers(rows: &RecordBatch, column: &str) -> Vec<Option<f64>> {
    rows.column_by_name(column).expect("the column is there").as_primitive::<Float64Type>().iter().collect()
}

/// A column as text.
pub fn texts(rows: &RecordBatch, column: &str) -> Vec<String> {
    let column = rows.column_by_name(column).expect("the column is there");
    (0..column.len()).map(|row| array_value_to_string(column, row).expect("prints")).collect()
}

/// A sequence of numbers that look random and are the same on every machine (splitmix64).
#[derive(Debug, Clone)]
pub struct Dice(pub u64);

impl Dice {
    /// A number from 0 up to, but without, `below`.
    pub fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below
    }

    /// A number between -1 and 1.
    pub fn number(&mut self) -> f64 {
        self.below(1 << 53) as f64 / (1u64 << 52) as f64 - 1.0
    }
}

/// Settings as `--set` takes them.
pub fn settings(pairs: &[(&str, &str)]) -> Vec<String> {
    pairs.iter().map(|(key, value)| format!("{key}={value}")).collect()
}

/// Runs a future to its end.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime starts").block_on(future)
}

/// One case, as its file has it.
#[derive(Debug, Default)]
struct Case {
    settings: Vec<String>,
    stages: Vec<String>,
    tables: Tables,
    expected: Vec<Expected>,
    refused: Option<String>,
}

#[derive(Debug)]
struct Expected {
    /// A table, and what restricts its rows.
    from: String,
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// Runs every case of a folder under `tests/it/sql`, and names each that fails.
pub fn check_folder(folder: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/sql").join(folder);
    let mut files: Vec<_> =
        std::fs::read_dir(&path).expect("the folder is there").map(|entry| entry.expect("lists").path()).collect();
    files.sort();
    assert!(!files.is_empty(), "no cases in {}", path.display());
    let failures: Vec<String> = block_on(async {
        let mut failures = Vec::new();
        for file in &files {
            let text = std::fs::read_to_string(file).expect("a case can be read");
            if let Err(error) = check(&text).await {
                failures.push(format!("{}: {error:#}", file.display()));
            }
        }
        failures
    });
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

async fn check(text: &str) -> Result<()> {
    let case = Case::parse(text)?;
    let stages: Vec<&str> = case.stages.iter().map(String::as_str).collect();
    let result = run(&case.tables, &case.settings, &stages).await;
    if let Some(refused) = &case.refused {
        let error = result.err().map(|error| format!("{error:#}")).unwrap_or_default();
        ensure!(error.contains(refused.as_str()), "expected an error that says `{refused}`, got `{error}`");
        return Ok(());
    }
    let (context, _) = result?;
    let session = session(&context).await?;
    for expected in &case.expected {
        expected.check(&session).await.with_context(|| format!("expect {}", expected.from))?;
    }
    Ok(())
}

impl Case {
    fn parse(text: &str) -> Result<Case> {
        let mut case = Case::default();
        let mut lines = text.lines().filter(|line| !line.starts_with('#')).peekable();
        let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
        while let Some(line) = lines.next() {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                "" => continue,
                "set" => case.settings.push(rest.replacen(" = ", "=", 1)),
                "run" => case.stages = rest.split_whitespace().map(str::to_owned).collect(),
                "refuse" => case.refused = Some(rest.to_owned()),
                _ => {
                    let columns = cells(lines.next().context("a table has a line of columns")?);
                    let mut rows = Vec::new();
                    while let Some(row) = lines.next_if(|line| !line.trim().is_empty()) {
                        let row = cells(row);
                        ensure!(row.len() == columns.len(), "{} cells under {} columns of `{line}`", row.len(), columns.len());
                        rows.push(row);
                    }
                    if word == "expect" {
                        case.expected.push(Expected { from: rest.to_owned(), columns, rows });
                    } else {
                        rows.into_iter().try_for_each(|row| case.add(word, &columns, row))?;
                    }
                }
            }
        }
        if case.stages.is_empty() {
            let table = case.expected.first().and_then(|expected| expected.from.split(' ').next());
            case.stages =
                vec![table.map_or(Ok("credit"), |name| schema::table(name).map(|table| table.doc.made_by.as_str()))?.to_owned()];
        }
        Ok(case)
    }

    fn add(&mut self, table: &str, columns: &[String], cells: Vec<String>) -> Result<()> {
        let schema = &schema::table(table)?.arrow;
        let mut row = Map::new();
        for (column, cell) in columns.iter().zip(cells).filter(|(_, cell)| !cell.is_empty()) {
            let value = match schema.field_with_name(column)?.data_type() {
                _ if cell == "null" => Value::Null,
                DataType::Utf8 => json!(cell),
                _ => serde_json::from_str(&cell).with_context(|| format!("`{cell}` in column `{column}`"))?,
            };
            row.insert(column.clone(), value);
        }
        self.tables.add(table, Value::Object(row));
        Ok(())
    }
}

impl Expected {
    async fn check(&self, session: &SessionContext) -> Result<()> {
        let name = self.from.split(' ').next().unwrap_or_default();
        let order = schema::table(name)?.doc.sorted_by.join(", ");
        let frame = session.sql(&format!("select {} from {} order by {order}", self.columns.join(", "), self.from)).await?;
        let schema = std::sync::Arc::new(frame.schema().as_arrow().clone());
        let found = arrow::compute::concat_batches(&schema, &frame.collect().await?)?;
        let shown = arrow::util::pretty::pretty_format_batches(std::slice::from_ref(&found))?;
        ensure!(found.num_rows() == self.rows.len(), "{} rows expected, found\n{shown}", self.rows.len());
        for (index, row) in self.rows.iter().enumerate() {
            for (column, cell) in found.columns().iter().zip(row) {
                let text = array_value_to_string(column, index)?;
                let agrees = match column.data_type() {
                    _ if cell.is_empty() || cell == "null" => column.is_null(index),
                    DataType::Float64 if column.is_valid(index) => {
                        let expected = evaluate(session, cell).await?;
                        (column.as_primitive::<Float64Type>().value(index) - expected).abs() <= 1e-12
                    }
                    _ => text == *cell,
                };
                ensure!(agrees, "row {index}: expected `{cell}`, found `{text}` in\n{shown}");
            }
        }
        Ok(())
    }
}

/// The value of a number, or of an expression such as `(2.0 / 3) / (sqrt(1.0 / 3) + 1e-6)`.
async fn evaluate(session: &SessionContext, expression: &str) -> Result<f64> {
    if let Ok(number) = expression.parse() {
        return Ok(number);
    }
    let rows = session.sql(&format!("select cast({expression} as double)")).await?.collect().await?;
    Ok(rows[0].column(0).as_primitive::<Float64Type>().value(0))
}
