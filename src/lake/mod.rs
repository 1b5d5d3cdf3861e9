//! The lake: tables as Parquet files, and manifests that say which files count.
//!
//! ```text
//! <lake>/<table>/batch=<batch>/part-<run id>-<n>.parquet    rows
//! <lake>/_manifests/<stage>/<batch>/v00000007.json          the commit: written last, names every table of its stage
//! ```
//!
//! Data files go first, under names with a random run id; then the next manifest number is put with `PutMode::Create`. Our own reads
//! take their file list from a manifest, never from a listing.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use object_store::ObjectStore;
use serde::{Deserialize, Serialize};

/// A place that holds tables and manifests: a directory or an object-store URL.
#[derive(Clone)]
pub struct Lake {
    store: Arc<dyn ObjectStore>,
}

/// The commit of one stage on one batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub stage: String,
    pub batch: String,
    /// Number of this manifest, from 1; the largest one counts.
    pub version: u64,
    pub run_id: String,
    pub code_version: String,
    /// Hash over everything that the output depends on: inputs' contents, SQL text, config of the stage, schemas. Equal means fresh.
    pub fingerprint: String,
    pub sealed: bool,
    pub inputs: Vec<Input>,
    pub tables: BTreeMap<String, TableEntry>,
    /// The stage's configuration, as JSON.
    pub config: serde_json::Value,
    /// Hash of the SQL texts that ran, by file.
    pub sql: BTreeMap<String, String>,
}

/// Something that a stage read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// `<stage>/<batch>` for a table of the lake, else the path or URL of a file.
    pub name: String,
    /// Hash of the contents (of the tables named by the manifest, or of the file).
    pub hash: String,
    pub size_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableEntry {
    pub schema_hash: String,
    pub rows: u64,
    pub files: Vec<DataFile>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataFile {
    /// Relative to the lake.
    pub path: String,
    pub rows: u64,
    pub size_bytes: u64,
    /// BLAKE3 of the file.
    pub hash: String,
}

/// One run of a stage, from its first data file to its commit. Dropped without a commit, its files are left for vacuum.
pub struct Run {
    _private: (),
}

/// Writes one table of a run: rows are checked against the schema, encoded as they come, and rolled over to a new file by size.
pub struct TableWriter {
    _private: (),
}

impl Lake {
    /// Opens a directory (made if it is not there) or a URL (`file://`, `memory://`, `s3://`, `gs://`, `az://`).
    pub async fn open(_location: &str) -> Result<Lake> {
        unimplemented!("lake")
    }

    /// The newest manifest of a stage on a batch.
    pub async fn manifest(&self, _stage: &str, _batch: &str) -> Result<Option<Manifest>> {
        unimplemented!("lake")
    }

    /// Begins a run. Nothing is visible to readers until `Run::commit`.
    pub fn begin(&self, _stage: &str, _batch: &str) -> Run {
        unimplemented!("lake")
    }

    pub fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.store)
    }
}

impl Run {
    /// A writer for one of the stage's tables. `schema` is the table's, from `schema::table`. May be called several times for one
    /// table, from several threads; files are numbered by `part`, so that names and order do not depend on timing.
    pub fn writer(&self, _table: &str, _schema: SchemaRef, _part: u32) -> Result<TableWriter> {
        unimplemented!("lake")
    }

    /// Puts the manifest. Another run that committed meanwhile with the same fingerprint is agreed with; with another it is
    /// `Fault::TryAgain`.
    pub async fn commit(self, _manifest: Manifest) -> Result<Manifest> {
        unimplemented!("lake")
    }
}

impl TableWriter {
    /// Encodes rows. Plain synchronous work; nothing goes over the network here.
    pub fn write(&mut self, _rows: &RecordBatch) -> Result<()> {
        unimplemented!("lake")
    }

    /// Finishes the file and stores it (uploaded, or fsynced where the lake is local).
    pub async fn finish(self) -> Result<Vec<DataFile>> {
        unimplemented!("lake")
    }
}
