//! Folders in the lake: policies and states of a trainer, on every kind of store (called from `lake::contract`).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path as FilePath;
use std::time::Duration;

use fulgurite::exit::{ExitCode, code_of};
use fulgurite::lake::{Freshness, Lake, Lineage, Manifest};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use serde_json::json;
use tempfile::TempDir;

/// A folder with files in it, one of them below another folder, one hidden, one a link.
fn folder(files: &[(&str, Vec<u8>)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, contents) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }
    folder
}

fn lineage(stage: &str, setting: u32) -> Lineage {
    Lineage::new(stage, json!({ "setting": setting })).unwrap()
}

pub async fn commit_policy(
    lake: &Lake,
    batch: &str,
    version: u64,
    parent: Option<u64>,
    from: &FilePath,
) -> anyhow::Result<Manifest> {
    let mut run = lake.begin("policy", batch).await?;
    run.put_policy(version, parent, from).await?;
    run.commit(lineage("policy", version as u32), BTreeMap::new()).await
}

async fn is_there(lake: &Lake, path: &str) -> bool {
    lake.store().head(&Path::from(path)).await.is_ok()
}

pub async fn contract(lake: &Lake) {
    policies_are_what_manifests_name(lake).await;
    a_stage_that_read_a_policy_goes_stale_with_it(lake).await;
    a_state_is_kept_or_gone(lake).await;
    vacuum_takes_superseded_folders(lake).await;
}

async fn policies_are_what_manifests_name(lake: &Lake) {
    let error = lake.policy(None).await.unwrap_err();
    assert_eq!(code_of(&error), ExitCode::Usage);
    assert!(error.to_string().contains("fulgurite policy import"), "{error}");

    // More than one part of an upload, and nothing that compresses or repeats.
    let mut weights = vec![0; 9 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut weights);
    let zero = folder(&[
        ("config.json", b"{}".to_vec()),
        ("model.safetensors", weights.clone()),
        ("trainer/state", vec![7]),
        ("empty", vec![]),
        (".cache/x", vec![1]),
    ]);
    std::os::unix::fs::symlink(zero.path().join("config.json"), zero.path().join("linked.json")).unwrap();

    let mut run = lake.begin("policy", "0000").await.unwrap();
    run.put_policy(0, None, zero.path()).await.unwrap();
    assert!(lake.policies().await.unwrap().is_empty(), "nothing counts before the commit");
    let manifest = run.commit(lineage("policy", 0), BTreeMap::new()).await.unwrap();
    let policy = lake.policy(None).await.unwrap();
    assert_eq!(manifest.policy.as_ref(), Some(&policy));
    assert_eq!((policy.version, policy.parent), (0, None));
    assert_eq!(policy.stored.folder, format!("policies/0000-{}", manifest.run_id));
    let names: Vec<_> = policy.stored.files.iter().map(|file| (file.name.as_str(), file.size_bytes)).collect();
    let expected = [("config.json", 2), ("empty", 0), ("linked.json", 2), ("model.safetensors", 9 << 20), ("trainer/state", 1)];
    assert_eq!(names, expected);
    assert_eq!(policy.stored.files[3].hash, blake3::hash(&weights).to_hex().as_str());

    let fetched = lake.fetch_policy(&policy).await.unwrap();
    assert_eq!(fs::read(fetched.path().join("model.safetensors")).unwrap(), weights);
    assert_eq!(fs::read(fetched.path().join("trainer/state")).unwrap(), [7]);
    assert_eq!(fs::read(fetched.path().join("linked.json")).unwrap(), b"{}");
    let copy = fetched.path().to_owned();
    drop(fetched);
    assert_eq!(copy.exists(), lake.directory().is_some(), "a copy goes with its guard, the lake's own folder stays");

    let one = folder(&[("config.json", b"{\"one\":1}".to_vec())]);
    commit_policy(lake, "0001", 1, Some(0), one.path()).await.unwrap();
    let versions: Vec<_> = lake.policies().await.unwrap().iter().map(|policy| (policy.version, policy.parent)).collect();
    assert_eq!(versions, [(0, None), (1, Some(0))]);
    assert_eq!(lake.policy(None).await.unwrap().version, 1);
    assert_eq!(lake.policy(Some(0)).await.unwrap(), policy);
    let error = lake.policy(Some(7)).await.unwrap_err();
    assert_eq!(code_of(&error), ExitCode::Usage);
    assert!(error.to_string().ends_with("there are 0, 1"), "{error}");
    let error = commit_policy(lake, "0002", 1, Some(0), one.path()).await.unwrap_err();
    assert_eq!(error.to_string(), "policy 1 is there already, committed by `policy` on `0001`");

    // What was committed and is no longer what it was is not used.
    let path = Path::from(policy.stored.paths().next().unwrap());
    lake.store().put(&path, "{ }, changed".into()).await.unwrap();
    let error = lake.fetch_policy(&policy).await.unwrap_err();
    assert_eq!(code_of(&error), ExitCode::Failed);
    lake.store().put(&path, "{}".into()).await.unwrap();

    let listed = lake.status(&BTreeMap::new()).await.unwrap();
    let shown: Vec<_> = listed.iter().filter(|one| one.stage == "policy").map(|one| (one.policy, one.size_bytes)).collect();
    assert_eq!(shown, [(Some(0), (9 << 20) + 5), (Some(1), 9)]);
}

async fn a_stage_that_read_a_policy_goes_stale_with_it(lake: &Lake) {
    let [a, b] = [folder(&[("a", vec![1])]), folder(&[("a", vec![2])])];
    let manifest = commit_policy(lake, "stale", 40, None, a.path()).await.unwrap();
    let reads = |manifest: &Manifest| Lineage { inputs: vec![manifest.input(&["policy"]).unwrap()], ..lineage("eval", 1) };
    let run = lake.begin("eval", "stale").await.unwrap();
    run.commit(reads(&manifest), BTreeMap::new()).await.unwrap();
    let status = async || lake.status(&BTreeMap::new()).await.unwrap().into_iter().find(|one| one.stage == "eval").unwrap();
    assert_eq!(status().await.status, "fresh");
    let again = commit_policy(lake, "stale", 40, None, a.path()).await.unwrap();
    assert_eq!(reads(&again), reads(&manifest), "the same files make the same input");
    assert_eq!(status().await.status, "fresh");
    commit_policy(lake, "stale", 40, None, b.path()).await.unwrap();
    assert_eq!(status().await.reasons, ["input `policy/stale` changed"]);
}

async fn a_state_is_kept_or_gone(lake: &Lake) {
    let mut run = lake.begin("checkpoint", "c").await.unwrap();
    assert!(run.keep_state("step-1").is_err());
    run.put_state("step-1", folder(&[("optimiser", vec![1])]).path()).await.unwrap();
    run.put_state("best", folder(&[("optimiser", vec![9])]).path()).await.unwrap();
    let first = run.commit(lineage("checkpoint", 1), BTreeMap::new()).await.unwrap();

    let mut run = lake.begin("checkpoint", "c").await.unwrap();
    let mut twin = lake.begin("checkpoint", "c").await.unwrap();
    assert_eq!(lineage("checkpoint", 1).freshness(run.previous()), Freshness::Fresh);
    run.keep_state("best").unwrap();
    run.put_state("step-2", folder(&[("optimiser", vec![2])]).path()).await.unwrap();
    let second = run.commit(lineage("checkpoint", 1), BTreeMap::new()).await.unwrap();
    assert_eq!(second.states.keys().collect::<Vec<_>>(), ["best", "step-2"]);
    assert_eq!(second.states["best"], first.states["best"]);

    // Another state from the same settings is not the same.
    twin.put_state("step-3", folder(&[("optimiser", vec![3])]).path()).await.unwrap();
    assert_eq!(code_of(&twin.commit(lineage("checkpoint", 1), BTreeMap::new()).await.unwrap_err()), ExitCode::TryAgain);
    let left: Vec<_> =
        futures::TryStreamExt::try_collect::<Vec<_>>(lake.store().list(Some(&Path::from("_states")))).await.unwrap();
    assert_eq!(left.len(), 3, "the loser took its own away: {left:?}");

    lake.prune_states(&first, &second).await;
    let paths = |manifest: &Manifest, name: &str| manifest.states[name].paths().next().unwrap();
    assert!(!is_there(lake, &paths(&first, "step-1")).await);
    assert!(is_there(lake, &paths(&second, "step-2")).await && is_there(lake, &paths(&second, "best")).await);
    let fetched = lake.fetch_folder(&second.states["best"]).await.unwrap();
    assert_eq!(fs::read(fetched.path().join("optimiser")).unwrap(), [9]);
}

async fn vacuum_takes_superseded_folders(lake: &Lake) {
    let [a, b] = [folder(&[("a", vec![1])]), folder(&[("a", vec![2])])];
    let before = commit_policy(lake, "v", 50, None, a.path()).await.unwrap();
    let after = commit_policy(lake, "v", 50, None, b.path()).await.unwrap();
    let mut killed = lake.begin("policy", "killed").await.unwrap();
    killed.put_policy(51, None, a.path()).await.unwrap();
    let left = format!("policies/0051-{}/a", killed.id());
    drop(killed);
    let own = Path::from("policies/notes/readme.md");
    lake.store().put(&own, "mine".into()).await.unwrap();
    assert!(is_there(lake, &left).await);

    let superseded = before.policy.unwrap().stored;
    assert_eq!(lake.vacuum(Duration::from_secs(3600), false).await.unwrap().paths, Vec::<String>::new(), "all is young");
    tokio::time::sleep(Duration::from_millis(1100)).await; // stores keep times by the second
    let vacuumed = lake.vacuum(Duration::ZERO, false).await.unwrap();
    for path in superseded.paths().chain([left.clone()]) {
        assert!(vacuumed.paths.contains(&path) && !is_there(lake, &path).await, "{path} not in {vacuumed:?}");
    }
    for policy in lake.policies().await.unwrap() {
        lake.fetch_policy(&policy).await.expect("a committed policy stays");
    }
    assert!(is_there(lake, &after.policy.unwrap().stored.paths().next().unwrap()).await);
    assert!(is_there(lake, own.as_ref()).await, "what others put there is theirs");
    if let Some(directory) = lake.directory() {
        assert!(!directory.join(&superseded.folder).exists() && directory.join("policies/notes").exists());
    }
}
