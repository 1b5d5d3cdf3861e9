//! How each column is stored. Measured on agents' tables: rows sorted by rollout and step repeat their prefixes, and token ids stored plainly
//! then compress 36 times; a dictionary or delta encoding breaks the repeats. Log-probabilities do best with their bytes split.

use arrow::datatypes::DataType;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use crate::schema::{LIST_ELEMENT, Table};

/// A row group ends at whichever of these it reaches first. Readers hold one in memory and share a file out by them.
const ROW_GROUP_BYTES: usize = 64 << 20;
const ROW_GROUP_ROWS: usize = 128 << 10;

/// Columns of text that hardly ever repeats: no dictionary, no statistics.
const FREE_TEXT: [&str; 18] = [
    "arguments",
    "attributes",
    "comment",
    "error",
    "events",
    "input_messages",
    "links",
    "messages",
    "output_messages",
    "raw",
    "reason",
    "response",
    "result",
    "reward_comment",
    "status_message",
    "task_input",
    "tool_arguments",
    "tool_result",
];

/// Ids and hashes, nearly all different: no dictionary. Those that many rows share (rollout, trace, group, task) keep theirs.
const UNIQUE_TEXT: [&str; 11] = [
    "arguments_hash",
    "asked_by",
    "call_id",
    "evidence_span_id",
    "observation_hash",
    "parent_span_id",
    "prompt_hash",
    "response_id",
    "reward_id",
    "span_id",
    "tool_call_id",
];

/// Numbers that grow from row to row: differences, bit-packed.
const GROWING: [&str; 6] = ["byte_offset", "end_ns", "seq", "source_line", "start_ns", "step"];

/// The writer's settings for a table.
pub fn properties(table: &Table) -> WriterProperties {
    // What ingest writes is as large as its input and read a few times, what derives from it is read again and again.
    let level = if table.doc.made_by == "ingest" { 1 } else { 3 };
    let level = ZstdLevel::try_new(level).expect("zstd has levels 1 and 3");
    let sorting = table.doc.sorted_by.iter().filter_map(|name| table.arrow.index_of(name).ok());
    // Lists have one leaf each, so that the number of a field is that of its leaf.
    let sorting = sorting.map(|index| SortingColumn { column_idx: index as i32, descending: false, nulls_first: false });
    let mut builder = WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_created_by("fulgurite".to_owned())
        .set_sorting_columns(Some(sorting.collect()));
    for field in table.arrow.fields() {
        let name = field.name().as_str();
        builder = match field.data_type() {
            DataType::List(element) => {
                let leaf = ColumnPath::from(vec![name.to_owned(), "list".to_owned(), LIST_ELEMENT.to_owned()]);
                let encoding = match element.data_type() {
                    DataType::Float32 | DataType::Float64 => Encoding::BYTE_STREAM_SPLIT,
                    _ => Encoding::PLAIN,
                };
                builder
                    .set_column_dictionary_enabled(leaf.clone(), false)
                    .set_column_encoding(leaf.clone(), encoding)
                    .set_column_statistics_enabled(leaf, EnabledStatistics::None)
            }
            DataType::Utf8 if FREE_TEXT.contains(&name) => builder
                .set_column_dictionary_enabled(name.into(), false)
                .set_column_encoding(name.into(), Encoding::PLAIN)
                .set_column_statistics_enabled(name.into(), EnabledStatistics::None),
            DataType::Utf8 if UNIQUE_TEXT.contains(&name) => {
                builder.set_column_dictionary_enabled(name.into(), false).set_column_encoding(name.into(), Encoding::PLAIN)
            }
            DataType::Int64 if GROWING.contains(&name) => builder
                .set_column_dictionary_enabled(name.into(), false)
                .set_column_encoding(name.into(), Encoding::DELTA_BINARY_PACKED),
            _ => builder,
        };
    }
    builder.build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;

    #[test]
    fn every_name_in_the_lists_is_a_column() {
        let names: Vec<&str> =
            schema::tables().iter().flat_map(|t| t.arrow.fields()).map(|field| field.name().as_str()).collect();
        for name in FREE_TEXT.iter().chain(&UNIQUE_TEXT).chain(&GROWING) {
            assert!(names.contains(name), "{name}");
        }
    }
}
