//! The lake's contract, run on every kind of store.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use bytes::Bytes;
use fulgurite::exit::{ExitCode, code_of};
use fulgurite::lake::{Dialect, Freshness, Input, Lake, Lineage, Manifest};
use fulgurite::schema;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::json;

use crate::peers::{self, Server};

/// Rows of `values`: steps `from..to` of one rollout.
pub fn values(from: i64, to: i64) -> RecordBatch {
    let steps: Vec<i64> = (from..to).collect();
    let columns: [(&str, ArrayRef); 4] = [
        ("rollout_id", Arc::new(StringArray::from(vec!["r"; steps.len()]))),
        ("call_id", Arc::new(StringArray::from_iter_values(steps.iter().map(|step| format!("call-{step}"))))),
        ("step", Arc::new(Int64Array::from(steps.clone()))),
        ("value", Arc::new(Float64Array::from_iter_values(steps.iter().map(|step| *step as f64 / 8.0)))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

/// A lineage of the stage `values` that depends on one number.
pub fn lineage(setting: u32) -> Lineage {
    Lineage::new("values", json!({ "setting": setting })).unwrap()
}

/// A whole run of the stage `values`.
pub async fn run(lake: &Lake, batch: &str, rows: &RecordBatch, setting: u32) -> anyhow::Result<Manifest> {
    let run = lake.begin("values", batch).await?;
    let mut writer = run.writer("values", 0)?;
    writer.write(rows)?;
    writer.finish().await?;
    run.commit(lineage(setting), BTreeMap::new()).await
}

/// Steps of the rows that a batch's manifest names, in their order; sizes and hashes are compared with what the manifest says.
pub async fn steps(lake: &Lake, batch: &str) -> Vec<i64> {
    let mut steps = Vec::new();
    for file in lake.files("values", Some(batch)).await.unwrap().into_iter().flat_map(|batch| batch.files) {
        let bytes: Bytes = lake.store().get(&Path::from(file.path.as_str())).await.unwrap().bytes().await.unwrap();
        assert_eq!((bytes.len() as u64, blake3::hash(&bytes).to_hex().as_str()), (file.size_bytes, file.hash.as_str()));
        for rows in ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap() {
            let rows = rows.unwrap();
            steps.extend(rows["step"].as_any().downcast_ref::<Int64Array>().unwrap().values());
        }
    }
    steps
}

/// Everything that a stage, a reader and an operator rely on.
pub async fn contract(lake: &Lake) {
    lake.check().await.unwrap();
    assert_eq!(lake.manifest("values", "b").await.unwrap(), None);
    assert!(lake.manifests().await.unwrap().is_empty() && lake.files("values", None).await.unwrap().is_empty());

    parts_come_in_order_and_nothing_shows_before_the_commit(lake).await;
    a_finished_run_is_fresh_until_something_changes(lake).await;
    of_two_runs_one_commits(lake).await;
    a_seal_stays(lake).await;
    tables_that_got_no_rows_are_there(lake).await;
    a_file_too_large_for_one_request_arrives_whole(lake).await;
    vacuum_takes_what_counts_no_more(lake).await;
    status_tells_what_depends_on_what(lake).await;
    crate::policies::contract(lake).await;
    assert_eq!(code_of(&lake.manifest("values", "a/b").await.unwrap_err()), ExitCode::Usage);
}

async fn parts_come_in_order_and_nothing_shows_before_the_commit(lake: &Lake) {
    let run = lake.begin("values", "b").await.unwrap();
    for (part, rows) in [(1, values(50, 90)), (0, values(0, 50))] {
        let mut writer = run.writer("values", part).unwrap();
        writer.write(&rows).unwrap();
        assert_eq!(writer.finish().await.unwrap().len(), 1);
    }
    assert!(lake.files("values", Some("b")).await.unwrap().is_empty());
    let manifest = run.commit(lineage(1), BTreeMap::from([("files".to_owned(), 2)])).await.unwrap();
    assert_eq!((manifest.version, manifest.tables["values"].rows, manifest.counts["files"]), (1, 90, 2));
    assert_eq!(lake.manifest("values", "b").await.unwrap(), Some(manifest));
    assert_eq!(steps(lake, "b").await, (0..90).collect::<Vec<_>>());
}

async fn a_finished_run_is_fresh_until_something_changes(lake: &Lake) {
    let run = lake.begin("values", "b").await.unwrap();
    assert_eq!(lineage(1).freshness(run.previous()), Freshness::Fresh);
    assert_eq!(lineage(2).freshness(run.previous()).reasons(), ["setting `setting` was 1, is 2"]);
    let replaced = self::run(lake, "b", &values(0, 10), 2).await.unwrap();
    assert_eq!((replaced.version, steps(lake, "b").await.len()), (2, 10));
}

async fn of_two_runs_one_commits(lake: &Lake) {
    let [winner, twin, loser] =
        [lake.begin("values", "race").await, lake.begin("values", "race").await, lake.begin("values", "race").await]
            .map(Result::unwrap);
    let mut paths = Vec::new();
    for (run, rows) in [(&winner, values(0, 3)), (&twin, values(0, 3)), (&loser, values(0, 4))] {
        let mut writer = run.writer("values", 0).unwrap();
        writer.write(&rows).unwrap();
        paths.extend(writer.finish().await.unwrap().into_iter().map(|file| Path::from(file.path)));
    }
    let won = winner.commit(lineage(1), BTreeMap::new()).await.unwrap();
    let agreed = twin.commit(lineage(1), BTreeMap::new()).await.unwrap();
    assert_eq!(agreed, won, "the same from the same is agreed with");
    let error = loser.commit(lineage(2), BTreeMap::new()).await.unwrap_err();
    assert_eq!(code_of(&error), ExitCode::TryAgain);
    assert!(error.to_string().starts_with("another run of `values` on batch `race` committed first"), "{error}");
    assert_eq!(steps(lake, "race").await, [0, 1, 2]);
    for (path, there) in paths.iter().zip([true, false, false]) {
        assert_eq!(lake.store().head(path).await.is_ok(), there, "{path}");
    }
}

async fn a_seal_stays(lake: &Lake) {
    assert_eq!(code_of(&lake.seal("values", "never-run").await.unwrap_err()), ExitCode::Failed);
    let sealed = lake.seal("values", "race").await.unwrap();
    assert_eq!(lake.seal("values", "race").await.unwrap(), sealed, "sealing twice does nothing");
    assert!(sealed.sealed && sealed.version == 2);
    assert_eq!(lineage(1).freshness(Some(&sealed)).word(), "sealed");
    assert_eq!(lineage(9).freshness(Some(&sealed)).word(), "sealed (older settings)");
    assert_eq!(steps(lake, "race").await, [0, 1, 2]);
}

async fn tables_that_got_no_rows_are_there(lake: &Lake) {
    let run = lake.begin("ingest", "empty").await.unwrap();
    let manifest = run.commit(Lineage::new("ingest", json!({})).unwrap(), BTreeMap::new()).await.unwrap();
    assert_eq!(manifest.tables.keys().collect::<Vec<_>>(), ["rejects", "spans"]);
    assert!(manifest.tables.values().all(|entry| entry.rows == 0 && entry.files.len() == 1));
}

async fn a_file_too_large_for_one_request_arrives_whole(lake: &Lake) {
    let run = lake.begin("ingest", "large").await.unwrap();
    let table = schema::table("rejects").unwrap();
    let mut writer = run.writer("rejects", 0).unwrap();
    let mut noise = blake3::Hasher::new().finalize_xof();
    let mut bytes = vec![0; 32 << 10];
    for line in 0..400 {
        noise.fill(&mut bytes);
        let raw: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let row = json!({"source_file": "f", "source_line": line, "byte_offset": 0, "size_bytes": 0, "code": "json", "reason": "", "raw": raw});
        writer.write(&crate::rows::batch(table, &[row])).unwrap();
    }
    let files = writer.finish().await.unwrap();
    assert!(files[0].size_bytes > 10 << 20, "{}", files[0].size_bytes);
    let stored = lake.store().get(&Path::from(files[0].path.as_str())).await.unwrap().bytes().await.unwrap();
    assert_eq!(blake3::hash(&stored).to_hex().as_str(), files[0].hash);
    run.abandon().await;
    assert!(lake.store().head(&Path::from(files[0].path.as_str())).await.is_err(), "an abandoned run leaves nothing");
}

async fn vacuum_takes_what_counts_no_more(lake: &Lake) {
    let before = run(lake, "v", &values(0, 5), 1).await.unwrap();
    let after = run(lake, "v", &values(0, 6), 2).await.unwrap();
    let killed = lake.begin("values", "v").await.unwrap();
    let mut writer = killed.writer("values", 0).unwrap();
    writer.write(&values(0, 7)).unwrap();
    let left = writer.finish().await.unwrap();
    drop(killed);
    let own = Path::from("values/batch=v/notes.parquet");
    lake.store().put(&own, "mine".into()).await.unwrap();

    assert_eq!(lake.vacuum(Duration::from_secs(3600), false).await.unwrap().paths, Vec::<String>::new(), "all is young");
    tokio::time::sleep(Duration::from_millis(1100)).await; // stores keep times by the second
    let planned = lake.vacuum(Duration::ZERO, true).await.unwrap();
    for path in [&before.tables["values"].files[0].path, &left[0].path] {
        assert!(planned.paths.contains(path), "{path} not in {planned:?}");
    }
    assert!(!planned.paths.contains(&after.tables["values"].files[0].path));
    assert_eq!(lake.vacuum(Duration::ZERO, false).await.unwrap(), planned, "a dry run tells what the real one does");
    assert_eq!(lake.vacuum(Duration::ZERO, false).await.unwrap().paths, Vec::<String>::new());
    assert_eq!(steps(lake, "v").await.len(), 6);
    assert_eq!(steps(lake, "race").await, [0, 1, 2], "a sealed batch still has its files");
    lake.store().head(&own).await.expect("what others put there is theirs");
}

async fn status_tells_what_depends_on_what(lake: &Lake) {
    let source = run(lake, "s", &values(0, 5), 1).await.unwrap();
    let mut depends = Lineage::new("credit", json!({})).unwrap();
    depends.inputs.push(source.input(&["values"]).unwrap());
    lake.begin("credit", "s").await.unwrap().commit(depends, BTreeMap::new()).await.unwrap();
    let status = async |current: &BTreeMap<(String, String), Lineage>| -> Vec<(String, String, Vec<String>)> {
        let all = lake.status(current).await.unwrap();
        all.into_iter().filter(|one| one.batch == "s").map(|one| (one.stage, one.status, one.reasons)).collect()
    };
    let entry = |stage: &str, status: &str, reasons: &[&str]| {
        (stage.to_owned(), status.to_owned(), reasons.iter().map(|reason| reason.to_string()).collect())
    };
    assert_eq!(status(&BTreeMap::new()).await, [entry("values", "fresh", &[]), entry("credit", "fresh", &[])]);
    // A setting of the first stage changes: the second waits for it.
    let changed = BTreeMap::from([(("values".to_owned(), "s".to_owned()), lineage(2))]);
    let expected =
        [entry("values", "stale", &["setting `setting` was 1, is 2"]), entry("credit", "stale", &["input `values/s` is stale"])];
    assert_eq!(status(&changed).await, expected);
    // It runs, and gives the same rows: the second was fresh all along.
    run(lake, "s", &values(0, 5), 2).await.unwrap();
    assert_eq!(status(&BTreeMap::new()).await, [entry("values", "fresh", &[]), entry("credit", "fresh", &[])]);
    // It gives others.
    run(lake, "s", &values(0, 6), 3).await.unwrap();
    assert_eq!(status(&BTreeMap::new()).await[1], entry("credit", "stale", &["input `values/s` changed"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_in_memory() {
    contract(&Lake::open("memory://").await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_in_a_directory() {
    let folder = tempfile::tempdir().unwrap();
    let location = folder.path().join("made/lake");
    assert_eq!(code_of(&Lake::open_existing(location.to_str().unwrap()).await.unwrap_err()), ExitCode::Usage);
    contract(&Lake::open(location.to_str().unwrap()).await.unwrap()).await;
    let url = format!("file://{}", location.display());
    let views = Lake::open_existing(&url).await.unwrap().views(Dialect::Duckdb, Some("race")).await.unwrap();
    assert!(views.contains(&format!("'{}/values/batch=race/part-", location.display())), "{views}");
    assert!(views.contains("-- calls: not written yet"), "{views}");
}

/// The contract at the URL in FULGURITE_TEST_LAKE: run by the tests below in a process of their own, whose environment says where the
/// store is, as a user's would.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by contract_on_s3 and contract_on_azure"]
async fn contract_at_url() {
    let url = std::env::var("FULGURITE_TEST_LAKE").unwrap();
    let root = Lake::open(&url).await.unwrap();
    run(&root, "b", &values(0, 3), 1).await.unwrap();
    assert_eq!(steps(&root, "b").await, [0, 1, 2]);
    contract(&Lake::open(&format!("{url}/below/it")).await.unwrap()).await;
}

#[test]
fn contract_on_s3() {
    let Some(python) = peers::python() else { return };
    let server = Server::start(Command::new(python).arg(peers::script("s3_server.py")).arg("lakes"));
    let environment = [
        ("FULGURITE_TEST_LAKE", "s3://lakes"),
        ("AWS_ENDPOINT_URL", &server.url),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
    ];
    run_contract_at_url(&environment);
}

#[test]
fn contract_on_azure() {
    let Ok(azurite) = std::env::var("FULGURITE_AZURITE") else {
        return peers::skip("FULGURITE_AZURITE does not name the command `azurite-blob`; `make peers` sets it");
    };
    let Some(python) = peers::python() else { return };
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let arguments =
        ["--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--blobHost", "127.0.0.1", "--blobPort", &port];
    let _server = Server::start(Command::new(azurite).args(arguments));
    let url = format!("http://127.0.0.1:{port}");
    let made = Command::new(python).arg(peers::script("azure_container.py")).args([&url, "lakes"]).status().unwrap();
    assert!(made.success());
    let environment =
        [("FULGURITE_TEST_LAKE", "az://lakes"), ("AZURE_STORAGE_USE_EMULATOR", "true"), ("AZURITE_BLOB_STORAGE_URL", &url)];
    run_contract_at_url(&environment);
}

fn run_contract_at_url(environment: &[(&str, &str)]) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "lake::contract_at_url", "--ignored", "--nocapture"]).envs(environment.iter().copied());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

/// A file as an input, as ingest states it.
#[test]
fn an_input_that_is_a_file_makes_its_stage_stale() {
    let mut before = lineage(1);
    before.inputs.push(Input { name: "traces/a.jsonl".into(), tables: vec![], hash: "1".into(), size_bytes: 1 });
    assert_ne!(before.fingerprint("values"), lineage(1).fingerprint("values"));
}
