//! The files of tables: how columns are stored, that equal rows give equal bytes, and that other readers see the same.

use std::collections::BTreeMap;
use std::process::Command;

use fulgurite::lake::{Dialect, Lake, Lineage};
use fulgurite::schema::{self, Table};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use parquet::basic::{Compression, Encoding};
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::{Value, json};

use crate::{peers, rows};

/// Writes rows as one file, cut into batches of `at_once`, and gives its footer and hash.
async fn write(table: &Table, rows: &[Value], at_once: usize) -> (ParquetMetaData, String) {
    let lake = Lake::open("memory://").await.unwrap();
    let run = lake.begin(&table.doc.made_by, "b").await.unwrap();
    let mut writer = run.writer(&table.doc.name, 0).unwrap();
    for some in rows.chunks(at_once) {
        writer.write(&rows::batch(table, some)).unwrap();
    }
    let files = writer.finish().await.unwrap();
    let bytes = lake.store().get(&Path::from(files[0].path.as_str())).await.unwrap().bytes().await.unwrap();
    (SerializedFileReader::new(bytes).unwrap().metadata().clone(), files[0].hash.clone())
}

fn column<'a>(footer: &'a ParquetMetaData, path: &str) -> &'a ColumnChunkMetaData {
    footer.row_group(0).columns().iter().find(|column| column.column_path().string() == path).unwrap()
}

fn has(column: &ColumnChunkMetaData, encoding: Encoding) -> bool {
    column.encodings().any(|found| found == encoding)
}

/// A wrong leaf path in the writer's settings is ignored without a word, so what came of them is read back.
#[tokio::test]
async fn every_column_is_stored_as_meant() {
    for table in schema::tables() {
        let (footer, _) = write(table, &rows::json_rows(table, 200), 200).await;
        let name = &table.doc.name;
        let sorted: Vec<_> = footer.row_group(0).sorting_columns().unwrap().iter().map(|column| column.column_idx).collect();
        let expected: Vec<_> = table.doc.sorted_by.iter().map(|name| table.arrow.index_of(name).unwrap() as i32).collect();
        assert_eq!(sorted, expected, "{name}");
        for doc in &table.doc.columns {
            let path = if doc.sql_type.ends_with("[]") { format!("{}.list.element", doc.name) } else { doc.name.clone() };
            let column = column(&footer, &path);
            assert!(matches!(column.compression(), Compression::ZSTD(_)), "{name}.{path}");
            let dictionary = column.dictionary_page_offset().is_some();
            match doc.sql_type.as_str() {
                "integer[]" => {
                    assert!(!dictionary && has(column, Encoding::PLAIN) && column.statistics().is_none(), "{name}.{path}")
                }
                "real[]" => {
                    assert!(
                        !dictionary && has(column, Encoding::BYTE_STREAM_SPLIT) && column.statistics().is_none(),
                        "{name}.{path}"
                    );
                }
                _ => {}
            }
            let expected = match doc.name.as_str() {
                "messages" | "input_messages" | "output_messages" | "attributes" | "raw" | "tool_result" => Some(false),
                "span_id" | "call_id" | "start_ns" | "seq" | "step" => Some(false),
                "agent" | "model" | "status" | "rollout_id" | "tools" | "source_file" | "split" => Some(true),
                _ => None,
            };
            if let Some(expected) = expected {
                assert_eq!(dictionary, expected, "{name}.{path}");
            }
            if matches!(doc.name.as_str(), "messages" | "attributes" | "raw") {
                assert!(column.statistics().is_none(), "{name}.{path}");
            }
            if matches!(doc.name.as_str(), "start_ns" | "seq" | "step") {
                assert!(has(column, Encoding::DELTA_BINARY_PACKED) && column.statistics().is_some(), "{name}.{path}");
            }
        }
        let metadata = footer.file_metadata().key_value_metadata();
        assert!(metadata.is_none_or(|pairs| pairs.iter().all(|pair| pair.key != "ARROW:schema")), "{name}");
    }
}

#[tokio::test]
async fn equal_rows_give_equal_bytes_however_they_come() {
    for name in ["spans", "values"] {
        let table = schema::table(name).unwrap();
        let rows = rows::json_rows(table, 3000);
        let (_, whole) = write(table, &rows, 3000).await;
        for at_once in [1, 7, 1023, 1024, 2000] {
            assert_eq!(write(table, &rows, at_once).await.1, whole, "{name} cut by {at_once}");
        }
    }
}

#[tokio::test]
async fn rows_out_of_order_are_told() {
    let table = schema::table("values").unwrap();
    let mut rows = rows::json_rows(table, 1500);
    rows.swap(1100, 1101);
    let lake = Lake::open("memory://").await.unwrap();
    let run = lake.begin("values", "b").await.unwrap();
    let mut writer = run.writer("values", 0).unwrap();
    writer.write(&rows::batch(table, &rows[..900])).unwrap();
    let result = writer.write(&rows::batch(table, &rows[900..])).and_then(|()| writer.close());
    let expected = "row 1101 of `values` comes after a row that it should precede: rows have to be sorted by rollout_id, step";
    assert_eq!(result.unwrap_err().to_string(), expected);
    let error = run.commit(Lineage::new("values", json!({})).unwrap(), BTreeMap::new()).await.unwrap_err();
    assert_eq!(error.to_string(), "a writer of `values` was not finished", "and what is half written is not committed");
}

/// DuckDB through the views that the lake prints, Polars and pyarrow through the files: same rows, same types.
#[tokio::test(flavor = "multi_thread")]
async fn other_readers_see_the_same() {
    let Some(python) = peers::python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let lake = Lake::open(folder.path().join("it's a lake").to_str().unwrap()).await.unwrap();
    let mut tables = serde_json::Map::new();
    let stages: std::collections::BTreeSet<&String> = schema::tables().iter().map(|table| &table.doc.made_by).collect();
    for stage in stages {
        let run = lake.begin(stage, "2026-11-22").await.unwrap();
        for name in schema::tables_of(stage) {
            let table = schema::table(name).unwrap();
            let rows = rows::json_rows(table, 300);
            let mut writer = run.writer(name, 0).unwrap();
            writer.write(&rows::batch(table, &rows)).unwrap();
            let files = writer.finish().await.unwrap();
            let paths: Vec<_> = files.iter().map(|file| lake.directory().unwrap().join(&file.path)).collect();
            let columns: serde_json::Map<_, _> =
                table.doc.columns.iter().map(|column| (column.name.clone(), json!(column.sql_type))).collect();
            tables.insert(name.to_owned(), json!({"columns": columns, "files": paths, "rows": rows}));
        }
        run.commit(Lineage::new(stage, json!({})).unwrap(), BTreeMap::new()).await.unwrap();
    }
    let views = lake.views(Dialect::Duckdb, None).await.unwrap();
    let expected = folder.path().join("expected.json");
    std::fs::write(&expected, json!({"views": views, "tables": tables}).to_string()).unwrap();
    let output = Command::new(python).arg(peers::script("read_tables.py")).arg(&expected).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
