//! DuckDB as a second engine for the SQL of a stage: the same files on the same rows have to give the same tables.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use fulgurite::engine::SqlFile;
use fulgurite::stage::Context;
use fulgurite::{engine, schema};
use object_store::ObjectStoreExt as _;
use serde_json::{Value, json};

use crate::cases::BATCH;
use crate::peers;

/// Runs the built-in SQL files of a stage on DuckDB and compares every table with what the stage committed.
///
/// * `inputs`: stages that it reads.
/// * `prepare`: statements that make the relations which come from the configuration.
pub async fn check(context: &Context, stage: &str, inputs: &[&str], prepare: &[&str]) {
    let files = engine::SqlFiles::builtin().expect("the built-in files parse").stage(stage);
    check_files(context, stage, inputs, prepare, &files, &json!({})).await;
}

/// Like `check`, with these files and the values of their parameters.
pub async fn check_files(context: &Context, stage: &str, inputs: &[&str], prepare: &[&str], files: &[SqlFile], params: &Value) {
    let Some(python) = peers::python() else { return };
    let folder = tempfile::tempdir().expect("a directory");
    let mut tables = serde_json::Map::new();
    for input in inputs {
        for name in schema::tables_of(input) {
            tables.insert(name.to_owned(), download(context, name, folder.path()).await);
        }
    }
    let mut expected = serde_json::Map::new();
    for name in schema::tables_of(stage) {
        let sorted_by = &schema::table(name).expect("a table").doc.sorted_by;
        expected
            .insert(name.to_owned(), json!({ "files": download(context, name, folder.path()).await, "sorted_by": sorted_by }));
    }
    let statements: Vec<Value> = files
        .iter()
        .filter(|file| file.header.audits.is_none())
        .map(|file| {
            let names: Vec<&str> = file.header.params.iter().map(|param| param.name.as_str()).collect();
            json!({ "name": file.name, "sql": file.text, "reads": file.header.reads, "writes": file.header.writes, "params": names })
        })
        .collect();
    let job = json!({ "tables": tables, "prepare": prepare, "statements": statements, "params": params, "expected": expected });
    let mut child = Command::new(python)
        .arg(peers::script("second_engine.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("Python starts");
    child.stdin.take().expect("a pipe").write_all(job.to_string().as_bytes()).expect("Python reads its job");
    let output = child.wait_with_output().expect("Python ends");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

/// The committed files of a table as local files; their paths.
async fn download(context: &Context, table: &str, folder: &Path) -> Value {
    let mut paths = Vec::new();
    for found in context.lake.files(table, Some(BATCH)).await.expect("the files are listed") {
        for file in found.files {
            let bytes = context.lake.store().get(&file.path.as_str().into()).await.expect("the file is there");
            let path = folder.join(format!("{table}-{}.parquet", paths.len()));
            std::fs::write(&path, bytes.bytes().await.expect("the file can be read")).expect("the copy is written");
            paths.push(path.display().to_string());
        }
    }
    json!(paths)
}
