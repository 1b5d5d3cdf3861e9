//! Recorded rollouts in the lake: put one by one as they end, and named together by the manifest of the stage `rollout`.

use anyhow::Result;
use object_store::ObjectStoreExt;
use object_store::path::Path;

use super::folder::{StoredFile, StoredFolder};
use super::{Run, hash_hex, store};

/// Under which name a manifest holds them, beside the states of other stages.
const TRACES: &str = "traces";

impl Run {
    /// Lets this run's commit name the traces of these rollouts of its batch, each with its hash. They stay where they are.
    pub async fn name_traces(&mut self, rollouts: &[String]) -> Result<()> {
        let folder = format!("traces/batch={}", self.batch);
        let mut files = Vec::with_capacity(rollouts.len());
        for rollout in rollouts {
            let name = format!("{rollout}.otlp.jsonl.zst");
            let path = Path::from(format!("{folder}/{name}"));
            let doing = || format!("cannot read `{path}`");
            let found = self.lake.store.get(&path).await.map_err(|error| store::fault(error, &doing()))?;
            let bytes = found.bytes().await.map_err(|error| store::fault(error, &doing()))?;
            files.push(StoredFile { name, size_bytes: bytes.len() as u64, hash: hash_hex(&bytes) });
        }
        files.sort_by(|one, other| one.name.cmp(&other.name));
        self.states.insert(TRACES.to_owned(), StoredFolder { folder, files });
        Ok(())
    }
}
