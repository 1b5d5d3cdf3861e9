//! The commit: one manifest, written last. A run killed before it leaves the lake as it was, one killed after it as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutMode, PutOptions, PutPayload};

use super::folder::StoredFolder;
use super::manifest::{DataFile, FORMAT, Lineage, Manifest, TableEntry};
use super::policy::PolicyEntry;
use super::writer::{FILE_BYTES, TableWriter, Target};
use super::{Lake, Read, local, store, table_folder};
use crate::exit::Fault;
use crate::schema::{self, Table};

/// Hexadecimal digits of a run's random name.
pub const RUN_ID_DIGITS: usize = 16;

/// One run of a stage on a batch, from before it reads its inputs to its commit. Dropped without one, its files are left for vacuum.
pub struct Run {
    pub(super) lake: Lake,
    pub(super) stage: String,
    pub(super) batch: String,
    id: String,
    started_at: String,
    previous: Option<Manifest>,
    next_version: u64,
    progress: Arc<Progress>,
    pub(super) policy: Option<PolicyEntry>,
    pub(super) states: BTreeMap<String, StoredFolder>,
}

/// What the writers of a run have done.
#[derive(Default)]
pub struct Progress {
    pub written: Mutex<Vec<Written>>,
    pub open_writers: AtomicUsize,
}

pub struct Written {
    pub table: &'static Table,
    pub part: u32,
    pub file: DataFile,
}

impl Run {
    pub(super) fn new(lake: Lake, stage: &str, batch: &str, previous: Option<Manifest>, next_version: u64) -> Run {
        Run {
            lake,
            stage: stage.to_owned(),
            batch: batch.to_owned(),
            id: uuid::Uuid::new_v4().simple().to_string()[..RUN_ID_DIGITS].to_owned(),
            started_at: jiff::Timestamp::now().to_string(),
            previous,
            next_version,
            progress: Arc::default(),
            policy: None,
            states: BTreeMap::new(),
        }
    }

    /// Random name of this run.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The newest commit when this run began.
    pub fn previous(&self) -> Option<&Manifest> {
        self.previous.as_ref()
    }

    /// A writer for one of the stage's tables. May be called several times for one table, from several threads: its rows are those of
    /// part 0, then those of part 1 and so on, so that names and order do not depend on timing. Each has to be finished before the commit.
    pub fn writer(&self, table: &str, part: u32) -> Result<TableWriter> {
        let table = schema::table(table)?;
        let (name, maker) = (&table.doc.name, &table.doc.made_by);
        ensure!(maker == &self.stage, "`{}` may not write `{name}`, which is made by `{maker}`", self.stage);
        let target = Target {
            store: self.lake.store(),
            directory: self.lake.directory.clone(),
            folder: table_folder(name, &self.batch),
            run_id: self.id.clone(),
            file_bytes: FILE_BYTES,
            runtime: tokio::runtime::Handle::try_current().ok(),
        };
        TableWriter::new(table, target, part, Arc::clone(&self.progress))
    }

    /// Puts the manifest. A table of the stage that nothing was written to gets a file without rows.
    ///
    /// Where another run committed since `begin`: if it made the same from the same, its manifest is returned (its `run_id` tells) and ours
    /// is dropped; else this is `Fault::TryAgain`, and nothing of this run is visible.
    pub async fn commit(self, lineage: Lineage, counts: BTreeMap<String, u64>) -> Result<Manifest> {
        for table in schema::tables_of(&self.stage) {
            if !self.written(|files| files.iter().any(|written| written.table.doc.name == table)) {
                self.writer(table, 0)?.finish().await?;
            }
        }
        ensure!(self.progress.open_writers.load(Ordering::Relaxed) == 0, "a writer of `{}` was not finished", self.stage);
        let manifest = self.manifest(lineage, counts);
        self.sync_folders()?;
        self.put(manifest).await
    }

    /// Commits what stands again under the next number, with what `manifest` says otherwise: a seal, or fewer states.
    pub(super) async fn commit_again(self, manifest: Manifest) -> Result<Manifest> {
        let committed_at = jiff::Timestamp::now().to_string();
        let again = Manifest { version: self.next_version, run_id: self.id.clone(), committed_at, ..manifest };
        self.put(again).await
    }

    /// Ends the run without a commit and removes its files, as far as the store lets it; vacuum takes the rest.
    pub async fn abandon(self) {
        self.remove_files().await;
    }

    fn written<T>(&self, look: impl FnOnce(&mut Vec<Written>) -> T) -> T {
        look(&mut self.progress.written.lock().expect("no thread panics while it holds this"))
    }

    fn manifest(&self, lineage: Lineage, counts: BTreeMap<String, u64>) -> Manifest {
        let mut tables: BTreeMap<String, TableEntry> = BTreeMap::new();
        self.written(|files| {
            files.sort_by(|a, b| (a.part, &a.file.path).cmp(&(b.part, &b.file.path)));
            for Written { table, file, .. } in files {
                let entry = tables.entry(table.doc.name.clone()).or_default();
                entry.rows += file.rows;
                entry.files.push(file.clone());
            }
        });
        Manifest {
            format: FORMAT.to_owned(),
            stage: self.stage.clone(),
            batch: self.batch.clone(),
            version: self.next_version,
            run_id: self.id.clone(),
            code_version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: self.started_at.clone(),
            committed_at: jiff::Timestamp::now().to_string(),
            fingerprint: lineage.fingerprint(&self.stage),
            sealed: false,
            lineage,
            tables,
            policy: self.policy.clone(),
            states: self.states.clone(),
            counts,
        }
    }

    /// The names of the files have to be on the disk before a manifest names them.
    fn sync_folders(&self) -> Result<()> {
        let Some(directory) = &self.lake.directory else { return Ok(()) };
        let mut folders = BTreeSet::from([directory.clone()]);
        self.written(|files| {
            for written in files {
                let folder = directory.join(table_folder(&written.table.doc.name, &self.batch));
                folders.extend(folder.ancestors().take(2).map(std::path::Path::to_path_buf));
            }
        });
        for path in self.own_folders().flat_map(StoredFolder::paths) {
            let path = directory.join(path);
            let above = path.ancestors().skip(1).take_while(|folder| folder.starts_with(directory));
            folders.extend(above.map(std::path::Path::to_path_buf));
        }
        for folder in folders {
            local::sync_folder(&folder).with_context(|| format!("cannot sync `{}`", folder.display()))?;
        }
        Ok(())
    }

    async fn put(self, manifest: Manifest) -> Result<Manifest> {
        let failure = match self.create(&manifest).await {
            Ok(()) => return Ok(manifest),
            Err(failure) => failure,
        };
        // The number may be another run's, or ours: an answer that got lost is asked for again by the store's client, and that fails.
        match self.lake.read_manifest(&self.stage, &self.batch, manifest.version).await? {
            Read::Complete(found) if found.run_id == self.id => Ok(Arc::unwrap_or_clone(found)),
            Read::Complete(found) if found.agrees_with(&manifest) && found.sealed >= manifest.sealed => {
                self.remove_files().await;
                Ok(Arc::unwrap_or_clone(found))
            }
            Read::Complete(found) => {
                self.remove_files().await;
                let message = format!(
                    "another run of `{}` on batch `{}` committed first (run {} at {}); nothing of this run was kept, run it again",
                    self.stage, self.batch, found.run_id, found.committed_at
                );
                Err(Fault::TryAgain(message).into())
            }
            Read::Incomplete => {
                let message = format!("another run of `{}` on batch `{}` is committing; run it again", self.stage, self.batch);
                Err(Fault::TryAgain(message).into())
            }
            // The request may still arrive, so the files stay where they are.
            Read::Missing => Err(store::fault(failure, &format!("cannot commit `{}` on batch `{}`", self.stage, self.batch))),
        }
    }

    /// Creates the manifest under a number that must be free.
    async fn create(&self, manifest: &Manifest) -> Result<(), object_store::Error> {
        let path = manifest.path();
        let Some(directory) = &self.lake.directory else {
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            self.lake.store.put_opts(&Path::from(path), PutPayload::from(manifest.to_json()), options).await?;
            return Ok(());
        };
        local::create(directory, &path, &manifest.to_json()).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => object_store::Error::AlreadyExists { path, source: error.into() },
            _ => object_store::Error::Generic { store: "LocalFileSystem", source: error.into() },
        })
    }

    async fn remove_files(&self) {
        let paths: Vec<String> = self.written(|files| files.drain(..).map(|written| written.file.path).collect());
        for path in paths {
            if let Err(error) = self.lake.store.delete(&Path::from(path.as_str())).await {
                tracing::warn!("cannot remove `{path}`, `fulgurite vacuum` will: {error}");
            }
        }
        for folder in self.own_folders() {
            self.lake.remove_folder(folder).await;
        }
    }
}
