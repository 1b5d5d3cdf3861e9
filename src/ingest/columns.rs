//! Resolved rows as Arrow columns.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use arrow::array::{
    ArrayRef, BooleanArray, Float32Builder, Float64Array, Int32Array, Int32Builder, Int64Array, ListBuilder, RecordBatch,
    StringArray,
};
use arrow::datatypes::{DataType, Field, Schema};

use crate::trace::resolve::Row;

/// Rows as a batch of the table `spans`, columns in the schema's order.
///
/// * `files`: paths or URLs as given to ingest, by `Origin::file`.
pub fn spans(rows: &[Row], files: &[String], schema: &Arc<Schema>) -> Result<RecordBatch> {
    let text = |get: fn(&Row) -> Option<&str>| -> ArrayRef { Arc::new(rows.iter().map(get).collect::<StringArray>()) };
    let long = |get: fn(&Row) -> Option<i64>| -> ArrayRef { Arc::new(rows.iter().map(get).collect::<Int64Array>()) };
    let int = |get: fn(&Row) -> Option<i32>| -> ArrayRef { Arc::new(rows.iter().map(get).collect::<Int32Array>()) };
    let double = |get: fn(&Row) -> Option<f64>| -> ArrayRef { Arc::new(rows.iter().map(get).collect::<Float64Array>()) };
    let flag = |get: fn(&Row) -> Option<bool>| -> ArrayRef { Arc::new(rows.iter().map(get).collect::<BooleanArray>()) };
    let ids = |get: fn(&Row) -> Option<&[i32]>| -> ArrayRef { int_lists(rows.iter().map(get)) };
    let logprobs = |get: fn(&Row) -> Option<&[f32]>| -> ArrayRef { real_lists(rows.iter().map(get)) };
    let source_file: ArrayRef = Arc::new(rows.iter().map(|row| files.get(row.origin.file as usize)).collect::<StringArray>());

    let columns: Vec<(&str, ArrayRef)> = vec![
        ("rollout_id", text(|row| Some(&row.rollout_id))),
        ("rollout_id_source", text(|row| Some(row.rollout_id_source))),
        ("seq", long(|row| Some(row.seq))),
        ("span_id", text(|row| Some(&row.span_id))),
        ("parent_span_id", text(|row| row.parent_span_id.as_deref())),
        ("trace_id", text(|row| row.trace_id.as_deref())),
        ("depth", int(|row| Some(row.depth))),
        ("kind", text(|row| Some(row.kind.as_str()))),
        ("kind_evidence", text(|row| row.kind_evidence.as_deref())),
        ("name", text(|row| row.name.as_deref())),
        ("dedup_of", text(|row| row.dedup_of.as_deref())),
        ("attempt_id", text(|row| row.attempt_id.as_deref())),
        ("session_id", text(|row| row.session_id.as_deref())),
        ("group_id", text(|row| row.group_id.as_deref())),
        ("task_id", text(|row| row.task_id.as_deref())),
        ("task_id_source", text(|row| row.task_id_source.map(|source| source.as_str()))),
        ("task_input", text(|row| row.task_input.as_deref())),
        ("split", text(|row| row.split.as_deref())),
        ("policy_version", long(|row| row.policy_version)),
        ("rollout_status", text(|row| row.rollout_status.as_deref())),
        ("start_ns", long(|row| row.start_ns)),
        ("end_ns", long(|row| row.end_ns)),
        ("time_precision_ns", long(|row| row.time_precision_ns)),
        ("status", text(|row| Some(row.status.as_str()))),
        ("status_message", text(|row| row.status_message.as_deref())),
        ("error_type", text(|row| row.error_type.as_deref())),
        ("agent", text(|row| row.agent.as_deref())),
        ("agent_path", text(|row| row.agent_path.as_deref())),
        ("provider", text(|row| row.provider.as_deref())),
        ("model_requested", text(|row| row.model_requested.as_deref())),
        ("model", text(|row| row.model.as_deref())),
        ("response_id", text(|row| row.response_id.as_deref())),
        ("choice_index", int(|row| row.choice_index)),
        ("temperature", double(|row| row.temperature)),
        ("top_p", double(|row| row.top_p)),
        ("top_k", long(|row| row.top_k)),
        ("max_tokens", long(|row| row.max_tokens)),
        ("request_params", text(|row| row.request_params.as_deref())),
        ("input_messages", text(|row| row.input_messages.as_deref())),
        ("output_messages", text(|row| row.output_messages.as_deref())),
        ("tools", text(|row| row.tools.as_deref())),
        ("finish_reason", text(|row| row.finish_reason.as_deref())),
        ("input_tokens", long(|row| row.input_tokens)),
        ("output_tokens", long(|row| row.output_tokens)),
        ("cached_tokens", long(|row| row.cached_tokens)),
        ("reasoning_tokens", long(|row| row.reasoning_tokens)),
        ("stream", flag(|row| row.stream)),
        ("http_status", int(|row| row.http_status)),
        ("abandoned", flag(|row| row.abandoned)),
        ("prompt_token_ids", ids(|row| row.prompt_token_ids.as_deref())),
        ("response_token_ids", ids(|row| row.response_token_ids.as_deref())),
        ("behaviour_logprobs", logprobs(|row| row.behaviour_logprobs.as_deref())),
        ("sampled_logprobs", logprobs(|row| row.sampled_logprobs.as_deref())),
        ("observation_hash", text(|row| row.observation_hash.as_deref())),
        ("prompt_hash", text(|row| row.prompt_hash.as_deref())),
        ("refusal", flag(|row| row.refusal)),
        ("response_empty", flag(|row| row.response_empty)),
        ("tool_name", text(|row| row.tool_name.as_deref())),
        ("tool_call_id", text(|row| row.tool_call_id.as_deref())),
        ("asked_by", text(|row| row.asked_by.as_deref())),
        ("asked_by_source", text(|row| row.asked_by_source)),
        ("tool_arguments", text(|row| row.tool_arguments.as_deref())),
        ("arguments_valid", flag(|row| row.arguments_valid)),
        ("arguments_hash", text(|row| row.arguments_hash.as_deref())),
        ("tool_offered", flag(|row| row.tool_offered)),
        ("tool_result", text(|row| row.tool_result.as_deref())),
        ("result_empty", flag(|row| row.result_empty)),
        ("tool_status", text(|row| row.tool_status.map(|status| status.as_str()))),
        ("tool_status_evidence", text(|row| row.tool_status_evidence.map(|evidence| evidence.as_str()))),
        ("reward_name", text(|row| row.reward_name.as_deref())),
        ("reward_value", double(|row| row.reward_value)),
        ("reward_label", text(|row| row.reward_label.as_deref())),
        ("reward_source", text(|row| row.reward_source.as_deref())),
        ("reward_comment", text(|row| row.reward_comment.as_deref())),
        ("reward_primary", flag(|row| row.reward_primary)),
        ("reward_target", text(|row| row.reward_target.as_deref())),
        ("reward_final", flag(|row| row.reward_final)),
        ("service_name", text(|row| row.service_name.as_deref())),
        ("scope_name", text(|row| row.scope_name.as_deref())),
        ("scope_version", text(|row| row.scope_version.as_deref())),
        ("events", text(|row| row.events.as_deref())),
        ("links", text(|row| row.links.as_deref())),
        ("attributes", text(|row| row.attributes.as_deref())),
        ("resource", text(|row| row.resource.as_deref())),
        ("source_file", source_file),
        ("source_line", long(|row| Some(row.origin.line as i64))),
        ("source_position", int(|row| Some(row.origin.position as i32))),
        ("source_format", text(|row| Some(row.source_format.as_str()))),
        ("convention", text(|row| row.convention.map(|convention| convention.as_str()))),
    ];
    batch(columns, schema)
}

/// A record that could not be used, as a row of the table `rejects`.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct RejectRow {
    pub file: u32,
    pub line: u64,
    pub offset: u64,
    pub size_bytes: u64,
    pub code: String,
    pub reason: String,
    pub raw: Option<String>,
}

/// Rows as a batch of the table `rejects`.
pub fn rejects(rows: &[RejectRow], files: &[String], schema: &Arc<Schema>) -> Result<RecordBatch> {
    let long = |get: fn(&RejectRow) -> u64| -> ArrayRef {
        Arc::new(rows.iter().map(|row| Some(get(row) as i64)).collect::<Int64Array>())
    };
    let text = |get: fn(&RejectRow) -> Option<&str>| -> ArrayRef { Arc::new(rows.iter().map(get).collect::<StringArray>()) };
    let source_file: ArrayRef = Arc::new(rows.iter().map(|row| files.get(row.file as usize)).collect::<StringArray>());
    let columns = vec![
        ("source_file", source_file),
        ("source_line", long(|row| row.line)),
        ("byte_offset", long(|row| row.offset)),
        ("size_bytes", long(|row| row.size_bytes)),
        ("code", text(|row| Some(&row.code))),
        ("reason", text(|row| Some(&row.reason))),
        ("raw", text(|row| row.raw.as_deref())),
    ];
    batch(columns, schema)
}

/// Puts named columns into the schema's order; one that is missing or too many is an error in this file.
fn batch(columns: Vec<(&str, ArrayRef)>, schema: &Arc<Schema>) -> Result<RecordBatch> {
    anyhow::ensure!(
        columns.len() == schema.fields().len(),
        "{} columns for a schema of {}",
        columns.len(),
        schema.fields().len()
    );
    let find = |field: &Arc<Field>| {
        let column = columns.iter().find(|(name, _)| name == field.name());
        column.map(|(_, array)| Arc::clone(array)).with_context(|| format!("no column `{}`", field.name()))
    };
    let arrays = schema.fields().iter().map(find).collect::<Result<Vec<_>>>()?;
    Ok(RecordBatch::try_new(Arc::clone(schema), arrays)?)
}

/// The child of every list column is called `element`, as Parquet has it, and holds no nulls.
fn element(data_type: DataType) -> Field {
    Field::new("element", data_type, false)
}

fn int_lists<'a>(lists: impl Iterator<Item = Option<&'a [i32]>>) -> ArrayRef {
    let mut builder = ListBuilder::new(Int32Builder::new()).with_field(element(DataType::Int32));
    for list in lists {
        builder.values().append_slice(list.unwrap_or_default());
        builder.append(list.is_some());
    }
    Arc::new(builder.finish())
}

fn real_lists<'a>(lists: impl Iterator<Item = Option<&'a [f32]>>) -> ArrayRef {
    let mut builder = ListBuilder::new(Float32Builder::new()).with_field(element(DataType::Float32));
    for list in lists {
        builder.values().append_slice(list.unwrap_or_default());
        builder.append(list.is_some());
    }
    Arc::new(builder.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_of_the_schemas_is_filled() {
        let files = vec!["a.jsonl".to_owned()];
        let schema = &crate::schema::table("spans").unwrap().arrow;
        assert_eq!(spans(&[Row::default()], &files, schema).unwrap().num_rows(), 1);
        let schema = &crate::schema::table("rejects").unwrap().arrow;
        assert_eq!(rejects(&[], &files, schema).unwrap().num_rows(), 0);
    }
}
