//! Removes data files that count no more: superseded ones, and what runs that never committed left behind.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;
use futures::TryStreamExt;
use jiff::Timestamp;
use object_store::ObjectStoreExt;
use object_store::path::Path;

use super::commit::RUN_ID_DIGITS;
use super::{Lake, Manifest, Read, local, policy, store};
use crate::schema;

/// What vacuum removed, or would remove.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Vacuumed {
    /// Relative to the lake, in order.
    pub paths: Vec<String>,
    pub size_bytes: u64,
}

impl Lake {
    /// Removes files that no newest manifest names, that are older than `grace`, and, where an earlier manifest named them, whose
    /// replacement is older than `grace` too, so that a query which began before it can end. Manifests stay: they are the history.
    ///
    /// `grace` has to be longer than the longest run and the longest query. With `dry_run` nothing is removed.
    pub async fn vacuum(&self, grace: Duration, dry_run: bool) -> Result<Vacuumed> {
        // The files first and the manifests after, so that whatever was committed in between is seen.
        let mut candidates = Vec::new();
        for table in schema::tables() {
            candidates.extend(self.list(&table.doc.name).await?.into_iter().filter(|meta| is_ours(meta.location.filename())));
        }
        candidates.extend(self.list("_manifests").await?.into_iter().filter(|meta| is_partial(meta.location.filename())));
        candidates.extend(self.list("_check").await?);
        for (folder, depth) in [(policy::POLICIES, 1), (policy::STATES, 3)] {
            let listed = self.list(folder).await?.into_iter();
            candidates.extend(listed.filter(|meta| is_in_folder_of_a_run(meta.location.as_ref(), depth)));
        }
        let named = self.named_files().await?;
        let mut vacuumed = Vacuumed::default();
        let old = |at: Timestamp| {
            let age = Timestamp::now().duration_since(at);
            age.is_positive() && age.unsigned_abs() >= grace
        };
        for meta in candidates {
            let written_at = Timestamp::from_millisecond(meta.last_modified.timestamp_millis())?;
            let superseded = match named.get(meta.location.as_ref()) {
                None => true,
                Some(Named::Counts) => false,
                Some(Named::SupersededAt(at)) => old(*at),
            };
            if superseded && old(written_at) {
                if !dry_run {
                    match self.store.delete(&meta.location).await {
                        Ok(()) | Err(object_store::Error::NotFound { .. }) => self.remove_empty_folders(meta.location.as_ref()),
                        Err(error) => return Err(store::fault(error, &format!("cannot remove `{}`", meta.location))),
                    }
                }
                vacuumed.size_bytes += meta.size;
                vacuumed.paths.push(meta.location.to_string());
            }
        }
        vacuumed.paths.sort();
        Ok(vacuumed)
    }

    async fn list(&self, folder: &str) -> Result<Vec<object_store::ObjectMeta>> {
        let listed = self.store.list(Some(&Path::from(folder))).try_collect().await;
        listed.map_err(|error| store::fault(error, &format!("cannot list `{folder}`")))
    }

    /// Every file that a manifest names, with whether it counts.
    async fn named_files(&self) -> Result<BTreeMap<String, Named>> {
        let mut named = BTreeMap::new();
        let mut versions: BTreeMap<(String, String), BTreeSet<(u64, Timestamp)>> = BTreeMap::new();
        for (path, meta) in self.manifest_paths("").await? {
            let put_at = Timestamp::from_millisecond(meta.last_modified.timestamp_millis())?;
            versions.entry((path.stage, path.batch)).or_default().insert((path.version, put_at));
        }
        for ((stage, batch), versions) in versions {
            let listed = versions.last().map_or(0, |(version, _)| *version);
            // From old to new: a file that a later manifest names again counts as that one says.
            let mut successors = versions.iter().skip(1).map(|(_, put_at)| *put_at);
            for (version, _) in &versions {
                let superseded_at = successors.next();
                if let (Read::Complete(manifest), Some(at)) = (self.read_manifest(&stage, &batch, *version).await?, superseded_at)
                {
                    named.extend(manifest.paths().map(|path| (path, Named::SupersededAt(at))));
                }
            }
            let (newest, _) = self.newest_from(&stage, &batch, listed).await?;
            named.extend(newest.iter().flat_map(Manifest::paths).map(|path| (path, Named::Counts)));
        }
        Ok(named)
    }
}

enum Named {
    Counts,
    SupersededAt(Timestamp),
}

/// Whether a run of ours gave a file its name; what others put beside is theirs.
fn is_ours(name: Option<&str>) -> bool {
    is_partial(name) || name.is_some_and(|name| name.starts_with("part-") && name.ends_with(".parquet"))
}

/// Whether a path leads through a folder `<name>-<run id>`, as policies and states are kept in.
///
/// * `depth`: parts of the path before that folder.
fn is_in_folder_of_a_run(path: &str, depth: usize) -> bool {
    let mut parts = path.split('/').skip(depth);
    let run_id = parts.next().and_then(|folder| folder.rsplit_once('-')).map_or("", |(_, run_id)| run_id);
    run_id.len() == RUN_ID_DIGITS && run_id.bytes().all(|byte| byte.is_ascii_hexdigit()) && parts.next().is_some()
}

fn is_partial(name: Option<&str>) -> bool {
    name.is_some_and(|name| name.starts_with('.') && name.ends_with(local::PARTIAL_SUFFIX))
}
