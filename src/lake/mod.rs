//! The lake: tables as Parquet files, and manifests that say which files count.
//!
//! ```text
//! <lake>/<table>/batch=<batch>/part-<run id>-<n>.parquet    rows
//! <lake>/policies/<version>-<run id>/                       a policy: a Hugging Face model directory
//! <lake>/_manifests/<stage>/<batch>/v00000007.json          the commit: written last, names every table of its stage
//! ```
//!
//! Data files go first, under names with a random run id; then the next manifest number is put with `PutMode::Create`, the one conditional
//! write that every store has. Our own reads take their file list from a manifest, never from a listing.
//!
//! A stage does this:
//! ```ignore
//! let run = lake.begin("derive", "2026-11-22").await?;         // before it looks at its inputs
//! if let Freshness::Fresh = lineage.freshness(run.previous()) { return Ok(nothing_to_do) }
//! let mut calls = run.writer("calls", 0)?;
//! calls.write(&rows)?;                                          // plain synchronous work, as often as needed
//! calls.finish().await?;
//! run.commit(lineage, counts).await?;
//! ```

mod commit;
mod draft;
mod folder;
mod local;
mod manifest;
mod mended;
mod parquet;
mod policy;
mod status;
mod store;
mod traces;
mod vacuum;
mod views;
mod writer;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::exit::Fault;
use crate::schema;

pub use commit::Run;
pub use folder::{Fetched, StoredFile, StoredFolder};
pub use manifest::{DataFile, Freshness, Input, Lineage, Manifest, TableEntry, hash_hex};
pub use policy::PolicyEntry;
pub use status::StageStatus;
pub use store::fault as store_fault;
pub use vacuum::Vacuumed;
pub use views::Dialect;
pub use writer::TableWriter;

/// Manifests read at once where many are wanted.
const READS_AT_ONCE: usize = 16;

/// A place that holds tables and manifests: a directory or an object-store URL. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Lake {
    location: String,
    store: Arc<dyn ObjectStore>,
    /// The directory, where the lake is one: what is written there goes through `std::fs`, which can fsync.
    directory: Option<PathBuf>,
    /// Manifests that were read, by their paths. What stands under a path never changes, and a loop asks for the same ones again and again.
    read: Arc<Mutex<HashMap<Path, Arc<Manifest>>>>,
}

/// The committed files of one table in one batch.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchFiles {
    pub batch: String,
    pub rows: u64,
    /// In the order of their rows.
    pub files: Vec<DataFile>,
}

impl Lake {
    /// Opens a directory (made if it is not there) or a URL (`file://`, `memory://`, `s3://`, `gs://`, `az://`).
    ///
    /// Credentials and endpoints come from the environment, as each cloud's own tools read them (`AWS_ENDPOINT_URL`, `AZURE_...`,
    /// `GOOGLE_...`). A bucket is not looked at before the first read. Each `memory://` is a lake of its own.
    pub async fn open(location: &str) -> Result<Lake> {
        if let Some(directory) = store::directory(location)? {
            std::fs::create_dir_all(&directory).with_context(|| format!("cannot make the lake `{}`", directory.display()))?;
        }
        Lake::open_existing(location).await
    }

    /// Like `open`, for commands that only read: a directory that is not there is wrong use.
    pub async fn open_existing(location: &str) -> Result<Lake> {
        let directory = store::directory(location)?;
        if let Some(directory) = &directory
            && !directory.is_dir()
        {
            return Err(Fault::Usage(format!("there is no lake at `{location}`; `fulgurite ingest` makes one")).into());
        }
        let store = store::open(location, directory.as_deref())?;
        Ok(Lake { directory, ..Lake::on(store, location.trim_end_matches('/')) })
    }

    /// A lake on any store, its root at the store's. Commits go through the store's conditional put.
    pub fn on(store: Arc<dyn ObjectStore>, location: &str) -> Lake {
        Lake { location: location.to_owned(), store, directory: None, read: Arc::default() }
    }

    /// As it was given to `open`, without a slash at the end.
    pub fn location(&self) -> &str {
        &self.location
    }

    /// The directory, where the lake is one.
    pub fn directory(&self) -> Option<&FilePath> {
        self.directory.as_deref()
    }

    /// The store, with its root at the lake's: paths of manifests and data files are paths in it.
    pub fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.store)
    }

    /// The same for readers of committed files: one that is not there is an error, never an empty table.
    pub fn committed(&self) -> Arc<dyn ObjectStore> {
        Arc::new(mended::committed(self.store()))
    }

    /// The newest manifest of a stage on a batch.
    pub async fn manifest(&self, stage: &str, batch: &str) -> Result<Option<Manifest>> {
        Ok(self.newest(stage, batch).await?.0)
    }

    /// The newest manifest of every stage and batch, in the order of their names.
    pub async fn manifests(&self) -> Result<Vec<Manifest>> {
        self.manifests_below("").await
    }

    /// The newest manifest of a stage on every batch, in the order of their names.
    async fn manifests_of(&self, stage: &str) -> Result<Vec<Manifest>> {
        self.manifests_below(&format!("/{stage}")).await
    }

    /// * `folder`: below `_manifests`.
    async fn manifests_below(&self, folder: &str) -> Result<Vec<Manifest>> {
        let mut newest: BTreeMap<(String, String), u64> = BTreeMap::new();
        for (path, _) in self.manifest_paths(folder).await? {
            let seen = newest.entry((path.stage, path.batch)).or_default();
            *seen = path.version.max(*seen);
        }
        let reads = futures::stream::iter(newest.into_iter().map(|((stage, batch), version)| async move {
            self.newest_from(&stage, &batch, version).await.map(|(manifest, _)| manifest)
        }));
        let manifests: Vec<Option<Manifest>> = reads.buffered(READS_AT_ONCE).try_collect().await?;
        Ok(manifests.into_iter().flatten().collect())
    }

    /// The committed files of every table, by its name, batch by batch in the order of their names; of one batch, where one is given.
    pub async fn tables(&self, batch: Option<&str>) -> Result<BTreeMap<String, Vec<BatchFiles>>> {
        let manifests = match batch {
            None => self.manifests().await?,
            Some(batch) => {
                let stages: BTreeSet<&str> = schema::tables().iter().map(|table| table.doc.made_by.as_str()).collect();
                let reads = futures::stream::iter(stages.into_iter().map(|stage| self.manifest(stage, batch)));
                reads.buffered(READS_AT_ONCE).try_filter_map(|found| async { Ok(found) }).try_collect().await?
            }
        };
        let mut tables: BTreeMap<String, Vec<BatchFiles>> = BTreeMap::new();
        for manifest in manifests {
            for (table, entry) in manifest.tables {
                let files = BatchFiles { batch: manifest.batch.clone(), rows: entry.rows, files: entry.files };
                tables.entry(table).or_default().push(files);
            }
        }
        Ok(tables)
    }

    /// The committed files of one table. For several, `tables` reads each manifest once.
    pub async fn files(&self, table: &str, batch: Option<&str>) -> Result<Vec<BatchFiles>> {
        schema::table(table)?;
        Ok(self.tables(batch).await?.remove(table).unwrap_or_default())
    }

    /// Begins a run: from here on, a commit of another run is noticed. Nothing is visible to readers until `Run::commit`.
    pub async fn begin(&self, stage: &str, batch: &str) -> Result<Run> {
        let (previous, next_version) = self.newest(stage, batch).await?;
        Ok(Run::new(self.clone(), stage, batch, previous, next_version))
    }

    /// Marks the newest commit of a stage on a batch as done for good: later settings do not make it stale. Doing it twice does nothing.
    pub async fn seal(&self, stage: &str, batch: &str) -> Result<Manifest> {
        let run = self.begin(stage, batch).await?;
        let Some(manifest) = run.previous().cloned() else {
            return Err(Fault::Failed(format!("`{stage}` has not run on batch `{batch}`, so it cannot be sealed")).into());
        };
        if manifest.sealed { Ok(manifest) } else { run.commit_again(Manifest { sealed: true, ..manifest }).await }
    }

    /// Tries out what commits rest on: that a store creates a name once and refuses it the second time.
    pub async fn check(&self) -> Result<()> {
        store::check_conditional_put(self.store.as_ref(), &self.location).await
    }

    /// The newest complete manifest, and the first number that is free.
    async fn newest(&self, stage: &str, batch: &str) -> Result<(Option<Manifest>, u64)> {
        check_name("stage", stage)?;
        check_name("batch", batch)?;
        let listed = self.manifest_paths(&format!("/{stage}/{batch}")).await?;
        let version = listed.iter().map(|(path, _)| path.version).max().unwrap_or(0);
        self.newest_from(stage, batch, version).await
    }

    /// Goes on from a number that a listing gave: forwards, since a listing may lag behind, then back over what is not complete.
    async fn newest_from(&self, stage: &str, batch: &str, listed: u64) -> Result<(Option<Manifest>, u64)> {
        let mut newest = None;
        let mut next = listed + 1;
        loop {
            match self.read_manifest(stage, batch, next).await? {
                Read::Complete(manifest) => newest = Some(manifest),
                Read::Incomplete => {}
                Read::Missing => break,
            }
            next += 1;
        }
        let mut version = listed;
        while newest.is_none() && version > 0 {
            newest = self.already_read(stage, batch, version);
            if newest.is_none()
                && let Read::Complete(manifest) = self.read_manifest(stage, batch, version).await?
            {
                newest = Some(manifest);
            }
            version -= 1;
        }
        Ok((newest.map(Arc::unwrap_or_clone), next))
    }

    /// A manifest that a listing named, where it was read before. Whether one is there at all is for the store to say.
    fn already_read(&self, stage: &str, batch: &str, version: u64) -> Option<Arc<Manifest>> {
        let path = ManifestPath { stage: stage.to_owned(), batch: batch.to_owned(), version }.path();
        self.read.lock().expect("nothing panics with the lock").get(&path).cloned()
    }

    async fn read_manifest(&self, stage: &str, batch: &str, version: u64) -> Result<Read> {
        let path = ManifestPath { stage: stage.to_owned(), batch: batch.to_owned(), version }.path();
        let bytes = match self.store.get(&path).await {
            Ok(found) => found.bytes().await,
            Err(error) => Err(error),
        };
        match bytes {
            Ok(bytes) => match Manifest::from_json(&bytes) {
                Ok(manifest) => {
                    let manifest = Arc::new(manifest);
                    self.read.lock().expect("nothing panics with the lock").insert(path, Arc::clone(&manifest));
                    Ok(Read::Complete(manifest))
                }
                // A directory that can only create files in place may hold the beginning of a manifest, from a run that was killed.
                Err(error) if error.is_eof() => Ok(Read::Incomplete),
                Err(error) => Err(error).with_context(|| format!("manifest `{path}` of `{}` cannot be read", self.location)),
            },
            Err(object_store::Error::NotFound { .. }) => Ok(Read::Missing),
            Err(error) => Err(store::fault(error, &format!("cannot read manifest `{path}`"))),
        }
    }

    /// Every manifest below a folder of `_manifests`, with what the store says about it. A listing: it may lag behind.
    async fn manifest_paths(&self, folder: &str) -> Result<Vec<(ManifestPath, object_store::ObjectMeta)>> {
        let listed = self.store.list(Some(&Path::from(format!("_manifests{folder}")))).try_collect::<Vec<_>>().await;
        let listed = listed.map_err(|error| store::fault(error, "cannot list the manifests"))?;
        Ok(listed.into_iter().filter_map(|meta| Some((ManifestPath::parse(meta.location.as_ref())?, meta))).collect())
    }
}

/// What stands under a manifest's name.
enum Read {
    Complete(Arc<Manifest>),
    Incomplete,
    Missing,
}

/// `_manifests/<stage>/<batch>/v<version>.json`
#[derive(Debug, Clone, PartialEq)]
struct ManifestPath {
    stage: String,
    batch: String,
    version: u64,
}

impl ManifestPath {
    fn path(&self) -> Path {
        Path::from(format!("_manifests/{}/{}/v{:08}.json", self.stage, self.batch, self.version))
    }

    fn parse(path: &str) -> Option<ManifestPath> {
        let mut parts = path.split('/').skip(1);
        let (stage, batch, name) = (parts.next()?, parts.next()?, parts.next()?);
        let version = name.strip_prefix('v')?.strip_suffix(".json")?.parse().ok()?;
        parts.next().is_none().then(|| ManifestPath { stage: stage.to_owned(), batch: batch.to_owned(), version })
    }
}

/// The store behind a URL such as `s3://bucket`, for reading traces from it.
pub fn open_store(location: &str) -> Result<Arc<dyn ObjectStore>> {
    store::open(location, None)
}

/// A stage's or batch's name becomes a folder on every kind of store and the value of a hive partition, so it is kept plain.
pub fn check_name(what: &str, name: &str) -> Result<(), Fault> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let begins_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if begins_well && name.chars().all(plain) && name.len() <= 128 {
        return Ok(());
    }
    Err(Fault::Usage(format!(
        "`{name}` cannot be the name of a {what}: use letters, digits, `-`, `_` and `.`, a letter or digit first, at most 128 in all"
    )))
}

/// Folder of one table's files of one batch, relative to the lake.
fn table_folder(table: &str, batch: &str) -> String {
    format!("{table}/batch={batch}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_break_a_path_are_refused() {
        for name in ["2026-11-22", "iter-0003", "a.b_c", "7"] {
            assert!(check_name("batch", name).is_ok(), "{name}");
        }
        for name in ["", ".", "..", "_x", "a/b", "a=b", "a b", "ä", "-a", &"x".repeat(129)] {
            assert!(check_name("batch", name).is_err(), "{name}");
        }
    }

    #[test]
    fn manifest_paths_round_trip() {
        let path = ManifestPath { stage: "derive".into(), batch: "2026-11-22".into(), version: 7 };
        assert_eq!(path.path().as_ref(), "_manifests/derive/2026-11-22/v00000007.json");
        assert_eq!(ManifestPath::parse(path.path().as_ref()), Some(path));
        assert_eq!(ManifestPath::parse("_manifests/derive/2026-11-22/.new-x"), None);
    }
}
