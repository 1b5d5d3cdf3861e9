//! Whole folders in the lake, file by file, named by a manifest: policies, and the states of a trainer.

use std::fs::{self, File};
use std::io::{self, BufReader, Write as _};
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::writer::{Hashing, upload};
use super::{Lake, local, store};
use crate::exit::Fault;

/// Read from a file at once while it is copied.
const COPY_BYTES: usize = 1 << 20;

/// A folder that a manifest names, with every file of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StoredFolder {
    /// Relative to the lake.
    pub folder: String,
    /// In the order of their names.
    pub files: Vec<StoredFile>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredFile {
    /// Relative to the folder, parts separated by `/`.
    pub name: String,
    pub size_bytes: u64,
    /// BLAKE3 of the file.
    pub hash: String,
}

/// A stored folder on this machine's disk: the lake's own, or a copy that goes when this is dropped.
#[derive(Debug)]
pub struct Fetched {
    folder: PathBuf,
    _copy: Option<TempDir>,
}

impl Fetched {
    pub fn path(&self) -> &FilePath {
        &self.folder
    }
}

impl StoredFolder {
    /// Path of each file, relative to the lake.
    pub fn paths(&self) -> impl Iterator<Item = String> + '_ {
        self.files.iter().map(|file| format!("{}/{}", self.folder, file.name))
    }

    pub fn size_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size_bytes).sum()
    }

    /// Hash of the contents: names and hashes of all files, not where they lie.
    pub fn hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for StoredFile { name, hash, .. } in &self.files {
            hasher.update(format!("{name} {hash}\n").as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }
}

impl Lake {
    /// Copies every file below `source`, links followed and hidden ones left out, to a folder of the lake that is not there yet.
    ///
    /// Nothing counts before a manifest names it. Files of a lake that is a directory are fsynced; their folders are the commit's matter.
    pub(super) async fn put_folder(&self, source: &FilePath, folder: &str) -> Result<StoredFolder> {
        let mut names = Vec::new();
        list_names(source, "", &mut names)?;
        names.sort();
        ensure!(!names.is_empty(), Fault::Usage(format!("`{}` holds no file", source.display())));
        let mut stored = StoredFolder { folder: folder.to_owned(), files: Vec::new() };
        for name in names {
            let from = source.join(&name);
            let path = format!("{folder}/{name}");
            let copied = match &self.directory {
                Some(directory) => {
                    let to = directory.join(&path);
                    tokio::task::spawn_blocking(move || copy_durably(&from, &to)).await.context("copying panicked")?
                }
                None => self.upload_file(&from, &path).await,
            };
            let (size_bytes, hash) = copied.with_context(|| format!("cannot store `{path}`"))?;
            stored.files.push(StoredFile { name, size_bytes, hash });
        }
        Ok(stored)
    }

    async fn upload_file(&self, from: &FilePath, path: &str) -> Result<(u64, String)> {
        let source = File::open(from).with_context(|| format!("cannot read `{}`", from.display()))?;
        let mut hasher = blake3::Hasher::new();
        let mut size_bytes = 0;
        let look = |bytes: &[u8]| {
            hasher.update(bytes);
            size_bytes += bytes.len() as u64;
        };
        let expected_bytes = source.metadata()?.len();
        upload(Arc::clone(&self.store), &Path::from(path), expected_bytes, source, look).await?;
        Ok((size_bytes, hasher.finalize().to_hex().to_string()))
    }

    /// A stored folder as a folder of this machine. Where the lake is a directory it is the lake's own, which nobody may write to, and its
    /// files are looked at but not read; else it is downloaded, and every hash checked.
    pub async fn fetch_folder(&self, stored: &StoredFolder) -> Result<Fetched> {
        if let Some(directory) = &self.directory {
            for (file, path) in stored.files.iter().zip(stored.paths()) {
                let size_bytes = fs::metadata(directory.join(&path)).map(|metadata| metadata.len()).ok();
                ensure!(size_bytes == Some(file.size_bytes), gone(&path, "or no longer what was committed"));
            }
            return Ok(Fetched { folder: directory.join(&stored.folder), _copy: None });
        }
        let copy = tempfile::Builder::new().prefix("fulgurite-").tempdir().context("cannot make a temporary folder")?;
        for (file, path) in stored.files.iter().zip(stored.paths()) {
            let to = copy.path().join(&file.name);
            let hash = self.download(&path, &to).await.with_context(|| format!("cannot fetch `{path}`"))?;
            ensure!(hash == file.hash, gone(&path, "as it was committed: its hash is another"));
        }
        Ok(Fetched { folder: copy.path().to_owned(), _copy: Some(copy) })
    }

    async fn download(&self, path: &str, to: &FilePath) -> Result<String> {
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        let found = self.store.get(&Path::from(path)).await;
        let found = found.map_err(|error| store::fault(error, &format!("cannot read `{path}`")))?;
        let mut file = Hashing::new(File::create(to)?);
        let mut chunks = found.into_stream();
        while let Some(bytes) = chunks.try_next().await.map_err(|error| store::fault(error, &format!("cannot read `{path}`")))? {
            file.write_all(&bytes)?;
        }
        Ok(file.hash())
    }

    /// Removes the files of a folder that no manifest names, as far as the store lets it; vacuum takes the rest.
    pub(super) async fn remove_folder(&self, stored: &StoredFolder) {
        for path in stored.paths() {
            match self.store.delete(&Path::from(path.as_str())).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => self.remove_empty_folders(&path),
                Err(error) => tracing::warn!("cannot remove `{path}`, `fulgurite vacuum` will: {error}"),
            }
        }
    }

    /// Folders that a removed file leaves empty go too, up to that of their kind (`policies/`); only a directory has any.
    pub(super) fn remove_empty_folders(&self, path: &str) {
        let Some(directory) = &self.directory else { return };
        let mut parent = path;
        while let Some((above, _)) = parent.rsplit_once('/') {
            // A folder that still holds something refuses, and so do those above it.
            if !above.contains('/') || fs::remove_dir(directory.join(above)).is_err() {
                return;
            }
            parent = above;
        }
    }
}

fn gone(path: &str, how: &str) -> Fault {
    Fault::Failed(format!("`{path}` is not there, {how}; restore it, or run the stage that wrote it again with `--rebuild`"))
}

/// Names of all files below a folder, relative to it.
fn list_names(root: &FilePath, below: &str, names: &mut Vec<String>) -> Result<()> {
    let folder = root.join(below);
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot list `{}`", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_str().filter(|name| Path::from(*name).as_ref() == *name);
        let Some(name) = name else {
            let message =
                format!("`{}` cannot be stored: its name has characters that not every store takes", entry.path().display());
            return Err(Fault::Usage(message).into());
        };
        if name.starts_with('.') {
            continue;
        }
        let name = if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") };
        // A model cache keeps its files as links to blobs.
        if fs::metadata(entry.path()).with_context(|| format!("cannot read `{}`", entry.path().display()))?.is_dir() {
            list_names(root, &name, names)?;
        } else {
            names.push(name);
        }
    }
    Ok(())
}

/// Copies a file under a name that appears when it is whole and on the disk. Returns its size and hash.
fn copy_durably(from: &FilePath, to: &FilePath) -> Result<(u64, String)> {
    let source = File::open(from).with_context(|| format!("cannot read `{}`", from.display()))?;
    let folder = to.parent().context("a stored file has a folder")?;
    fs::create_dir_all(folder)?;
    let mut copy = Hashing::new(local::partial_file(folder)?);
    io::copy(&mut BufReader::with_capacity(COPY_BYTES, source), &mut copy)?;
    let (size_bytes, hash) = (copy.size_bytes, copy.hash());
    let partial = copy.inner;
    partial.as_file().sync_all()?;
    partial.persist(to)?;
    Ok((size_bytes, hash))
}
