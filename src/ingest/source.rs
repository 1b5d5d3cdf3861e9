//! Where traces are read from: files, directories, globs, object-store URLs and standard input.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path as StorePath;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use tokio::runtime::Handle;
use url::Url;

use crate::exit::Fault;

/// One file to read, under the name that the tables give for it.
pub struct Source {
    pub name: String,
    pub size_bytes: u64,
    place: Place,
}

enum Place {
    Local(PathBuf),
    Object {
        store: Arc<dyn ObjectStore>,
        path: StorePath,
        e_tag: Option<String>,
    },
    /// Standard input, kept in a temporary file: it is read twice (hash, then records).
    Spooled(tempfile::NamedTempFile),
    /// Listed, but it cannot be opened; its reason goes to `rejects`.
    Unreadable(String),
}

/// Finds every file that `paths` name, sorted by name, each once.
///
/// A path is a file, a directory (all files below it, hidden ones left out), a glob, a URL of an object or of a prefix that ends in
/// `/`, or `-` for standard input. A path that names nothing is wrong use; a file that is there but cannot be opened is set aside.
pub async fn find(paths: &[String]) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    for path in paths {
        let before = sources.len();
        if path == "-" {
            sources.push(spool_stdin()?);
        } else if let Some(url) = store_url(path) {
            find_objects(&url, &mut sources).await?;
        } else {
            find_local(path.strip_prefix("file://").unwrap_or(path), &mut sources)?;
        }
        if sources.len() == before {
            return Err(Fault::Usage(format!(
                "`{path}` names no file; give a file, a directory, a glob in quotes, a URL or `-`"
            ))
            .into());
        }
    }
    sources.sort_by(|a, b| a.name.cmp(&b.name));
    sources.dedup_by(|a, b| a.name == b.name);
    Ok(sources)
}

/// The file or object that a batch was read from before, if it is still there.
pub async fn find_again(name: &str) -> Result<Option<Source>> {
    let mut found = Vec::new();
    if let Some(url) = store_url(name) {
        find_objects(&url, &mut found).await?;
    } else if Path::new(name).is_file() {
        found.push(local(Path::new(name)));
    }
    Ok(found.into_iter().find(|source| source.name == name))
}

impl Source {
    /// A reader from the first byte. Local files are not read ahead: callers read in large pieces.
    pub fn open(&self, runtime: &Handle) -> io::Result<Box<dyn Read + Send>> {
        match &self.place {
            Place::Local(path) => Ok(Box::new(File::open(path)?)),
            Place::Spooled(file) => {
                let mut file = file.reopen()?;
                file.seek(SeekFrom::Start(0))?;
                Ok(Box::new(file))
            }
            Place::Object { store, path, .. } => {
                let stream = runtime.block_on(store.get(path)).map_err(io::Error::other)?.into_stream();
                Ok(Box::new(ObjectReader { runtime: runtime.clone(), stream, piece: Bytes::new() }))
            }
            Place::Unreadable(reason) => Err(io::Error::new(io::ErrorKind::PermissionDenied, reason.clone())),
        }
    }

    /// Whether the name says that it is compressed. Only sizes are guessed from it.
    pub fn looks_compressed(&self) -> bool {
        [".gz", ".zst", ".zstd"].iter().any(|ending| self.name.ends_with(ending))
    }

    /// Hash of the contents; for an object the store's entity tag, so that it is not fetched twice.
    pub fn hash(&self) -> Result<String> {
        let hash_file = |path: &Path| -> io::Result<String> {
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(File::open(path)?)?;
            Ok(hasher.finalize().to_hex().to_string())
        };
        match &self.place {
            Place::Local(path) => hash_file(path).or_else(|error| Ok(format!("unreadable: {}", error.kind()))),
            Place::Spooled(file) => hash_file(file.path()).context("cannot read back standard input"),
            Place::Object { path, e_tag, .. } => match e_tag {
                Some(tag) => Ok(format!("etag:{tag}")),
                None => anyhow::bail!("the store gives no entity tag for `{path}`; copy it to a local disk first"),
            },
            Place::Unreadable(reason) => Ok(format!("unreadable: {reason}")),
        }
    }
}

fn spool_stdin() -> Result<Source> {
    let mut file = tempfile::NamedTempFile::new().context("cannot make a temporary file for standard input")?;
    let size_bytes = io::copy(&mut io::stdin().lock(), &mut file).context("cannot read standard input")?;
    Ok(Source { name: "-".to_owned(), size_bytes, place: Place::Spooled(file) })
}

/// A URL of an object store; local paths and `file://` are not.
fn store_url(path: &str) -> Option<Url> {
    let (scheme, _) = path.split_once("://")?;
    if scheme == "file" { None } else { Url::parse(path).ok() }
}

async fn find_objects(url: &Url, sources: &mut Vec<Source>) -> Result<()> {
    let bucket = &url[..url::Position::BeforePath];
    let store = crate::lake::open_store(bucket)?;
    let path = StorePath::from_url_path(url.path()).with_context(|| format!("`{url}` is no path of a store"))?;
    let mut add = |meta: ObjectMeta| {
        let name = format!("{bucket}/{}", meta.location);
        let place = Place::Object { store: Arc::clone(&store), path: meta.location, e_tag: meta.e_tag };
        sources.push(Source { name, size_bytes: meta.size, place });
    };
    if !url.path().ends_with('/') {
        match store.head(&path).await {
            Ok(meta) => {
                add(meta);
                return Ok(());
            }
            Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(crate::lake::store_fault(error, &format!("cannot look at `{url}`"))),
        }
    }
    let listed: Result<Vec<ObjectMeta>, _> = store.list(Some(&path)).try_collect().await;
    let listed = listed.map_err(|error| crate::lake::store_fault(error, &format!("cannot list `{url}`")))?;
    listed.into_iter().filter(|meta| meta.size > 0).for_each(&mut add);
    Ok(())
}

fn find_local(path: &str, sources: &mut Vec<Source>) -> Result<()> {
    let literal = Path::new(path);
    match std::fs::metadata(literal) {
        Ok(found) if found.is_dir() => {
            walk(literal, &mut |file| sources.push(file));
            Ok(())
        }
        Ok(_) => {
            sources.push(local(literal));
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => find_matching(path, sources),
        Err(_) => {
            sources.push(local(literal));
            Ok(())
        }
    }
}

/// Files that match a glob, looked for below its longest part without a wildcard.
fn find_matching(pattern: &str, sources: &mut Vec<Source>) -> Result<()> {
    if !pattern.contains(['*', '?', '[', '{']) {
        return Ok(());
    }
    let matcher = globset::GlobBuilder::new(pattern)
        .literal_separator(true)
        .build()
        .map_err(|error| Fault::Usage(format!("`{pattern}` is no glob: {error}")))?
        .compile_matcher();
    let fixed: PathBuf = Path::new(pattern)
        .components()
        .take_while(|part| !part.as_os_str().to_string_lossy().contains(['*', '?', '[', '{']))
        .collect();
    let below = if fixed.as_os_str().is_empty() { Path::new(".") } else { fixed.as_path() };
    walk(below, &mut |file: Source| {
        let name = file.name.strip_prefix("./").filter(|_| !pattern.starts_with("./")).unwrap_or(&file.name).to_owned();
        if matcher.is_match(&name) {
            sources.push(Source { name, ..file });
        }
    });
    Ok(())
}

/// Every file below a directory. One that cannot be listed is given as an unreadable file.
fn walk(directory: &Path, found: &mut dyn FnMut(Source)) {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => {
            let name = directory.to_string_lossy().into_owned();
            return found(Source {
                name,
                size_bytes: 0,
                place: Place::Unreadable(format!("cannot list the directory: {error}")),
            });
        }
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => walk(&path, found),
            _ if path.is_file() => found(local(&path)),
            _ => {}
        }
    }
}

fn local(path: &Path) -> Source {
    let name = path.to_string_lossy().into_owned();
    match std::fs::metadata(path) {
        Ok(meta) => Source { name, size_bytes: meta.len(), place: Place::Local(path.to_owned()) },
        Err(error) => Source { name, size_bytes: 0, place: Place::Unreadable(error.to_string()) },
    }
}

/// An object's bytes as they come, for the synchronous readers.
struct ObjectReader {
    runtime: Handle,
    stream: BoxStream<'static, object_store::Result<Bytes>>,
    piece: Bytes,
}

impl Read for ObjectReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.runtime.block_on(self.stream.next()) {
                Some(piece) => self.piece = piece.map_err(io::Error::other)?,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.piece.len());
        buffer[..count].copy_from_slice(&self.piece.split_to(count));
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(paths: &[&str], root: &Path) -> Vec<String> {
        let paths: Vec<String> = paths.iter().map(|path| format!("{}/{path}", root.display())).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let found = runtime.block_on(find(&paths)).unwrap();
        found.iter().map(|source| source.name.strip_prefix(&format!("{}/", root.display())).unwrap().to_owned()).collect()
    }

    #[test]
    fn finds_files_directories_and_globs_once_and_in_order() {
        let root = tempfile::tempdir().unwrap();
        for name in ["b.jsonl", "a.jsonl.gz", "sub/deep/c.json", "sub/.hidden"] {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "{}").unwrap();
        }
        let check = |paths: &[&str], expected: &[&str]| assert_eq!(names(paths, root.path()), expected, "{paths:?}");
        check(&["b.jsonl"], &["b.jsonl"]);
        check(&["*.jsonl*"], &["a.jsonl.gz", "b.jsonl"]);
        check(&["**/*.json*"], &["a.jsonl.gz", "b.jsonl", "sub/deep/c.json"]);
        check(&["sub", "b.jsonl", "b.jsonl"], &["b.jsonl", "sub/deep/c.json"]);
    }

    #[test]
    fn a_path_that_names_nothing_is_wrong_use() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for path in ["/no/such/file.jsonl", "/no/such/*.jsonl"] {
            let error = runtime.block_on(find(&[path.to_owned()])).err().unwrap();
            assert_eq!(crate::exit::code_of(&error), crate::exit::ExitCode::Usage, "{path}");
        }
    }
}
