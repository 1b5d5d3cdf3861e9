//! What a batch of rollouts is to be, written down before the first one runs, and which of them are in the lake already.
//!
//! ```text
//! <lake>/_rollouts/<batch>.json                                the plan: what every rollout of the batch follows from
//! <lake>/traces/batch=<batch>/<rollout>.otlp.jsonl.zst          a rollout that has ended: put at once, whole or not at all
//! ```
//!
//! A run that was killed goes on with those that are missing. Shards of one batch share the plan.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail};
use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{ObjectStoreExt as _, PutMode, PutOptions, PutPayload};
use serde_json::{Value, json};

use crate::exit::Fault;
use crate::lake::{Lake, Lineage, hash_hex, store_fault};

/// End of the name of a finished rollout's trace.
pub const TRACE: &str = ".otlp.jsonl.zst";

/// Folder of a batch's traces, relative to the lake.
pub fn traces_folder(batch: &str) -> String {
    format!("traces/batch={batch}")
}

/// The plan of a run: the hashes of what its rollouts follow from.
///
/// * `lineage`: its inputs are the policy and the tasks.
pub fn of(lineage: &Lineage) -> Value {
    let hash = |place: usize| lineage.inputs.get(place).map(|input| &input.hash);
    json!({ "policy": hash(0), "tasks": hash(1), "settings": hash_hex(lineage.config.to_string().as_bytes()) })
}

/// Writes the plan down, or finds it written down already.
///
/// Errors: `Fault::Failed` where the batch was begun by another plan, unless `rebuild`, which takes its traces away.
pub async fn begin(lake: &Lake, batch: &str, plan: &Value, rebuild: bool) -> Result<()> {
    let path = Path::from(format!("_rollouts/{batch}.json"));
    let store = lake.store();
    if rebuild {
        remove_traces(lake, batch).await?;
        remove(lake, &path).await?;
    }
    let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    match store.put_opts(&path, PutPayload::from(plan.to_string().into_bytes()), create).await {
        Ok(_) => return Ok(()),
        Err(object_store::Error::AlreadyExists { .. }) => {}
        Err(error) => return Err(store_fault(error, &format!("cannot write `{path}`"))),
    }
    let found = store.get(&path).await.map_err(|error| store_fault(error, &format!("cannot read `{path}`")))?;
    let found = found.bytes().await.map_err(|error| store_fault(error, &format!("cannot read `{path}`")))?;
    // A plan that was cut off by a kill says nothing; what follows from it is not there yet either.
    let Ok(found) = serde_json::from_slice::<Value>(&found) else {
        remove(lake, &path).await?;
        return Box::pin(begin(lake, batch, plan, false)).await;
    };
    let differs: Vec<String> = keys(plan).union(&keys(&found)).filter(|key| plan[key] != found[key]).cloned().collect();
    if !differs.is_empty() {
        let message = format!(
            "the rollouts of batch `{batch}` were begun with another {}; put it back to go on, or begin anew with `--rebuild`",
            differs.join(", ")
        );
        bail!(Fault::Failed(message));
    }
    Ok(())
}

fn keys(value: &Value) -> BTreeSet<String> {
    value.as_object().map(|object| object.keys().cloned().collect()).unwrap_or_default()
}

/// The rollouts whose traces are in the lake.
pub async fn finished(lake: &Lake, batch: &str) -> Result<BTreeSet<String>> {
    let prefix = Path::from(traces_folder(batch));
    let listed = lake.store().list(Some(&prefix)).try_collect::<Vec<_>>().await;
    let listed = listed.map_err(|error| store_fault(error, "cannot list the traces"))?;
    let names = listed.iter().filter_map(|meta| meta.location.filename()?.strip_suffix(TRACE));
    Ok(names.map(str::to_owned).collect())
}

/// A rollout's trace, as lines of OTLP JSON.
pub async fn read(lake: &Lake, batch: &str, rollout: &str) -> Result<String> {
    let path = Path::from(format!("{}/{rollout}{TRACE}", traces_folder(batch)));
    let doing = || format!("cannot read `{path}`");
    let found = lake.store().get(&path).await.map_err(|error| store_fault(error, &doing()))?;
    let bytes = found.bytes().await.map_err(|error| store_fault(error, &doing()))?;
    let text = zstd::decode_all(bytes.as_ref()).with_context(doing)?;
    String::from_utf8(text).with_context(doing)
}

async fn remove_traces(lake: &Lake, batch: &str) -> Result<()> {
    let prefix = Path::from(traces_folder(batch));
    let listed = lake.store().list(Some(&prefix)).try_collect::<Vec<_>>().await;
    for meta in listed.map_err(|error| store_fault(error, "cannot list the traces"))? {
        remove(lake, &meta.location).await?;
    }
    Ok(())
}

async fn remove(lake: &Lake, path: &Path) -> Result<()> {
    match lake.store().delete(path).await {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(store_fault(error, &format!("cannot remove `{path}`"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::{ExitCode, code_of};

    #[tokio::test]
    async fn a_batch_goes_on_by_the_plan_that_it_was_begun_with() {
        let lake = Lake::open("memory://").await.unwrap();
        let plan = json!({"seed": 1, "policy": "a"});
        begin(&lake, "iter-0000", &plan, false).await.unwrap();
        begin(&lake, "iter-0000", &plan, false).await.unwrap();
        let trace = Path::from("traces/batch=iter-0000/r1.otlp.jsonl.zst");
        lake.store().put(&trace, PutPayload::from(zstd::encode_all("{}\n".as_bytes(), 1).unwrap())).await.unwrap();
        lake.store().put(&Path::from("traces/batch=iter-0000/other"), PutPayload::new()).await.unwrap();
        assert_eq!(finished(&lake, "iter-0000").await.unwrap(), BTreeSet::from(["r1".to_owned()]));
        assert_eq!(read(&lake, "iter-0000", "r1").await.unwrap(), "{}\n");

        let other = json!({"seed": 2, "policy": "a"});
        let error = begin(&lake, "iter-0000", &other, false).await.unwrap_err();
        assert_eq!(code_of(&error), ExitCode::Failed);
        assert!(error.to_string().contains("begun with another seed;"), "{error}");
        begin(&lake, "iter-0000", &other, true).await.unwrap();
        assert!(finished(&lake, "iter-0000").await.unwrap().is_empty());
        begin(&lake, "iter-0000", &other, false).await.unwrap();
    }
}
