//! What `--explain` prints: the rows of one rollout as a table that a person can read, cut to the terminal.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use arrow::array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use arrow::util::pretty::pretty_format_batches;
use datafusion::common::ParamValues;
use datafusion::prelude::SessionContext;
use datafusion::scalar::ScalarValue;
use serde_json::Value;

use crate::engine;
use crate::exit::Fault;
use crate::schema;
use crate::stage::Context;

/// Columns of a terminal whose width is not known, such as a file.
const WIDTH_OF_A_FILE: usize = 160;

/// Rollouts that an error names beside the one that is not there.
const SHOWN_ROLLOUTS: usize = 5;

/// One row, as text by column; what is null is not there.
pub(crate) type Row = BTreeMap<String, String>;

/// A column of the printed table.
pub(crate) struct Column {
    name: &'static str,
    /// Characters that it is cut to at most; texts give way where the terminal is narrower than that.
    limit: usize,
}

impl Column {
    pub(crate) fn new(name: &'static str, limit: usize) -> Column {
        Column { name, limit }
    }
}

/// A session with the tables of these stages, as they stand on the context's batch. `Fault::Usage` where one has not run.
pub(crate) async fn session(context: &Context, stages: &[&str]) -> Result<SessionContext> {
    let session = engine::session(&context.config, &context.lake)?;
    for stage in stages {
        let manifest = context.lake.manifest(stage, &context.batch).await?.ok_or_else(|| {
            Fault::Usage(format!("`{stage}` has not run on batch `{}`; run `fulgurite {stage}` on it first", context.batch))
        })?;
        for name in schema::tables_of(stage) {
            let files = manifest.tables.get(name).map(|entry| entry.files.as_slice()).unwrap_or_default();
            session.register_table(name, engine::lake_table(schema::table(name)?, files)?)?;
        }
    }
    Ok(session)
}

/// Rows of a built-in query about one rollout.
pub(crate) async fn rows(session: &SessionContext, query: &str, rollout: &str) -> Result<Vec<Row>> {
    let frame = session.sql(query).await?;
    let frame = frame.with_param_values(ParamValues::from(vec![("rollout", ScalarValue::from(rollout))]))?;
    let mut rows = Vec::new();
    for batch in frame.collect().await? {
        let options = FormatOptions::default();
        let columns =
            batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options)).collect::<Result<Vec<_>, _>>()?;
        for index in 0..batch.num_rows() {
            let filled = batch.columns().iter().zip(&columns).zip(batch.schema_ref().fields());
            let filled = filled.filter(|((column, _), _)| column.is_valid(index));
            rows.push(filled.map(|((_, text), field)| (field.name().clone(), text.value(index).to_string())).collect());
        }
    }
    Ok(rows)
}

/// A rollout in one line. `Fault::Usage` where the batch has none of this name, with some that it has.
pub(crate) async fn rollout(context: &Context, session: &SessionContext, rollout: &str) -> Result<String> {
    let found = rows(session, include_str!("../pipelines/explain/rollout.sql"), rollout).await?;
    let Some(row) = found.first() else {
        let others = format!("select rollout_id from rollouts order by rollout_id limit {SHOWN_ROLLOUTS}");
        let others = rows(session, &others, rollout).await?;
        let others: Vec<String> = others.iter().map(|row| format!("`{}`", text(row, "rollout_id"))).collect();
        let message = format!("batch `{}` has no rollout `{rollout}`; it has {}, ...", context.batch, others.join(", "));
        return Err(Fault::Usage(message).into());
    };
    let mut line = format!("rollout {}: {}", text(row, "rollout_id"), text(row, "status"));
    if let Some(class) = row.get("failure_class") {
        line.push_str(&format!(" ({class})"));
    }
    let reward = row.get("reward").map_or("no reward stated".to_owned(), |reward| format!("reward {}", number(reward)));
    line.push_str(&format!(", {reward}, group {}, split {}", text(row, "group_id"), text(row, "split")));
    line.push_str(&format!(
        ", {} calls, {} tool calls, {} failed",
        text(row, "calls"),
        text(row, "tool_calls"),
        text(row, "tool_errors")
    ));
    Ok(line)
}

/// A column's text, empty where it is null.
pub(crate) fn text<'a>(row: &'a Row, column: &str) -> &'a str {
    row.get(column).map_or("", String::as_str)
}

/// What the call answered: its text, the tools that it asked for, or why there is nothing.
pub(crate) fn said(row: &Row) -> String {
    let response: Value = serde_json::from_str(text(row, "response")).unwrap_or_default();
    let calls = response["tool_calls"].as_array().into_iter().flatten().map(|call| {
        let call = if call["function"].is_object() { &call["function"] } else { call };
        format!("{}({})", plain(&call["name"]), plain(&call["arguments"]))
    });
    let said: Vec<String> = std::iter::once(plain(&response["content"])).chain(calls).filter(|part| !part.is_empty()).collect();
    match (said.is_empty(), row.get("error"), row.get("finish_reason")) {
        (false, _, _) => said.join(" "),
        (true, Some(error), _) => format!("failed: {error}"),
        (true, None, Some(reason)) => format!("nothing ({reason})"),
        (true, None, None) => "nothing recorded".to_owned(),
    }
}

/// The span that shows a finding: the tool with its arguments and what it answered, or what else it was.
pub(crate) fn evidence(row: &Row) -> String {
    match (row.get("tool"), row.get("span_kind"), row.get("evidence_span_id")) {
        (Some(tool), _, _) => format!("{tool}({}) -> {}", text(row, "arguments"), text(row, "answer")),
        (None, Some(kind), _) => format!("{kind} {}: {}", text(row, "span_name"), text(row, "span_message")),
        (None, None, Some(_)) if row.contains_key("finish_reason") => format!("finish reason {}", text(row, "finish_reason")),
        (None, None, Some(span)) => format!("span {span}"),
        (None, None, None) => String::new(),
    }
}

/// JSON text without its quotes, other JSON as it is written, null as nothing.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A number with at most four digits after the point; other text as it is.
pub(crate) fn number(text: &str) -> String {
    match text.parse::<f64>() {
        Ok(value) if text.contains('.') || text.contains('e') => {
            let short = format!("{value:.4}");
            let short = short.trim_end_matches('0').trim_end_matches('.');
            if short == "-0" { "0".to_owned() } else { short.to_owned() }
        }
        _ => text.to_owned(),
    }
}

/// Prints rows as a table. Columns that repeat for the further rows of a step stay empty there.
///
/// * `repeated`: the columns that belong to a step, and are shown in its first row only.
pub(crate) fn table(columns: &[Column], repeated: &[&str], rows: &[Row]) -> Result<String> {
    let mut cells: Vec<Vec<String>> = Vec::new();
    let mut step = None;
    for row in rows {
        let again = step == Some(text(row, "step"));
        step = Some(text(row, "step"));
        let cell = |column: &Column| match again && repeated.contains(&column.name) {
            true => String::new(),
            false => number(&text(row, column.name).split_whitespace().collect::<Vec<_>>().join(" ")),
        };
        cells.push(columns.iter().map(cell).collect());
    }
    let width = terminal_size::terminal_size().map_or(WIDTH_OF_A_FILE, |(width, _)| usize::from(width.0));
    let widths = widths(columns, &cells, width);
    let arrays = columns.iter().enumerate().map(|(index, column)| {
        let texts = cells.iter().map(|row| Some(cut(&row[index], widths[index])));
        (column.name, Arc::new(texts.collect::<StringArray>()) as ArrayRef)
    });
    let batch = RecordBatch::try_from_iter(arrays).context("cannot lay out the table")?;
    Ok(pretty_format_batches(&[batch])?.to_string())
}

/// Characters of each column: what it needs, up to its limit. Where that is too wide for the terminal, the widest gives way first.
fn widths(columns: &[Column], cells: &[Vec<String>], terminal: usize) -> Vec<usize> {
    let needed = |index: usize| cells.iter().map(|row| row[index].chars().count()).max().unwrap_or_default();
    let mut widths: Vec<usize> =
        columns.iter().enumerate().map(|(index, column)| needed(index).min(column.limit).max(column.name.len())).collect();
    let borders = 3 * columns.len() + 1;
    while widths.iter().sum::<usize>() + borders > terminal {
        let Some(widest) = widths.iter_mut().max().filter(|width| **width > 12) else { break };
        *widest -= 1;
    }
    widths
}

/// The first `width` characters, the last of them `…` where something is left out.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: &[(&str, &str)]) -> Row {
        cells.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn what_a_call_said_is_its_text_and_its_tools() {
        let cases = [
            (r#"{"role":"assistant","content":"Four."}"#, "Four."),
            (r#"{"content":null,"tool_calls":[{"id":"1","name":"add","arguments":"{\"a\": 2}"}]}"#, r#"add({"a": 2})"#),
            (r#"{"tool_calls":[{"type":"function","function":{"name":"add","arguments":"{}"}}]}"#, "add({})"),
            ("not json", "nothing (stop)"),
        ];
        for (response, expected) in cases {
            assert_eq!(said(&row(&[("response", response), ("finish_reason", "stop")])), expected);
        }
    }

    #[test]
    fn numbers_are_short_and_texts_untouched() {
        for (given, expected) in [("0.30000000000000004", "0.3"), ("-0.0", "0"), ("12", "12"), ("1e-9", "0"), ("v1.2", "v1.2")] {
            assert_eq!(number(given), expected);
        }
    }

    #[test]
    fn the_widest_column_gives_way() {
        let columns = [Column::new("step", 5), Column::new("said", 60)];
        let cells = vec![vec!["0".to_owned(), "x".repeat(80)]];
        assert_eq!(widths(&columns, &cells, 200), [4, 60]);
        assert_eq!(widths(&columns, &cells, 40), [4, 29]);
        assert_eq!(cut("äöü", 2), "ä…");
    }
}
