//! Policies in the lake, and the states that a trainer goes on from: folders that count once a manifest names them.
//!
//! ```text
//! <lake>/policies/0003-<run id>/                       a Hugging Face model directory, committed by the stage that made it
//! <lake>/_states/<stage>/<batch>/<name>-<run id>/      whatever a run needs to go on, such as weights and optimiser
//! ```

use std::collections::BTreeMap;
use std::path::Path as FilePath;

use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::folder::{Fetched, StoredFolder};
use super::manifest::Manifest;
use super::{Lake, Run, check_name};
use crate::exit::Fault;

/// Folder of all policies, relative to the lake.
pub(super) const POLICIES: &str = "policies";

/// Stages whose commits may hold a policy. The others are many, and are not read where one is looked for.
const POLICY_STAGES: [&str; 2] = ["policy", "train"];

/// Folder of all states, relative to the lake.
pub(super) const STATES: &str = "_states";

/// A policy: the model, tokenizer and chat template that answered, or will answer, the calls of its version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyEntry {
    /// From 0. One lake holds one line of policies.
    pub version: u64,
    /// Version that it was trained from; `None` for one that came from outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<u64>,
    #[serde(flatten)]
    pub stored: StoredFolder,
}

impl Lake {
    /// Every committed policy, by version.
    pub async fn policies(&self) -> Result<Vec<PolicyEntry>> {
        Ok(self.policy_manifests().await?.into_iter().filter_map(|manifest| manifest.policy).collect())
    }

    /// One policy, the newest where no version is given. `Fault::Usage` names those that are there.
    pub async fn policy(&self, version: Option<u64>) -> Result<PolicyEntry> {
        let manifest = self.policy_manifest(version).await?;
        Ok(manifest.policy.expect("`policy_manifest` gives only manifests with one"))
    }

    /// The commit that holds a policy: `input(&["policy"])` of it is what a stage that reads the policy writes down.
    pub async fn policy_manifest(&self, version: Option<u64>) -> Result<Manifest> {
        let manifests = self.policy_manifests().await?;
        let Some(newest) = manifests.last().and_then(Manifest::policy_version) else {
            let message = format!("there is no policy in `{}` yet; `fulgurite policy import` brings one in", self.location);
            return Err(Fault::Usage(message).into());
        };
        let version = version.unwrap_or(newest);
        let mut found: Vec<Manifest> =
            manifests.iter().filter(|manifest| manifest.policy_version() == Some(version)).cloned().collect();
        match (found.pop(), found.pop()) {
            (Some(manifest), None) => Ok(manifest),
            (Some(one), Some(other)) => bail!(Fault::Failed(format!(
                "policy {version} was committed twice, by `{}` on `{}` and by `{}` on `{}`: two runs went on from one policy at once",
                other.stage, other.batch, one.stage, one.batch
            ))),
            (None, _) => {
                let there: Vec<String> =
                    manifests.iter().filter_map(Manifest::policy_version).map(|version| version.to_string()).collect();
                let message = format!("there is no policy {version} in `{}`; there are {}", self.location, there.join(", "));
                Err(Fault::Usage(message).into())
            }
        }
    }

    /// The policy's folder on this machine: a Hugging Face model directory, to be read only.
    pub async fn fetch_policy(&self, policy: &PolicyEntry) -> Result<Fetched> {
        self.fetch_folder(&policy.stored).await
    }

    /// The newest manifests that hold a policy, by its version.
    pub async fn policy_manifests(&self) -> Result<Vec<Manifest>> {
        let mut manifests = Vec::new();
        for stage in POLICY_STAGES {
            manifests.append(&mut self.manifests_of(stage).await?);
        }
        manifests.retain(|manifest| manifest.policy.is_some());
        manifests.sort_by_key(Manifest::policy_version);
        Ok(manifests)
    }

    /// Lets the states of a stage on a batch go; its tables and its policy stay. Nothing happens where it has none.
    pub async fn drop_states(&self, stage: &str, batch: &str) -> Result<()> {
        let run = self.begin(stage, batch).await?;
        let Some(before) = run.previous().filter(|before| !before.states.is_empty()).cloned() else { return Ok(()) };
        let after = run.commit_again(Manifest { states: BTreeMap::new(), ..before.clone() }).await?;
        self.prune_states(&before, &after).await;
        Ok(())
    }

    /// Removes the states that a commit named and its successor no longer names, without a grace time: they are large, and only the stage
    /// itself reads them.
    pub async fn prune_states(&self, before: &Manifest, after: &Manifest) {
        for state in before.states.values().filter(|state| !after.states.values().any(|kept| kept == *state)) {
            self.remove_folder(state).await;
        }
    }
}

impl Run {
    /// Copies a model folder into the lake as policy `version`, which this run's commit will name.
    ///
    /// * `parent`: the version that it was trained from.
    ///
    /// `Fault::Usage` where another stage or batch has committed that version already.
    pub async fn put_policy(&mut self, version: u64, parent: Option<u64>, folder: &FilePath) -> Result<()> {
        ensure!(self.policy.is_none(), "a run commits one policy");
        ensure!(POLICY_STAGES.contains(&self.stage.as_str()), "`{}` commits no policies", self.stage);
        let standing = self.lake.policy_manifests().await?;
        let others = |manifest: &&Manifest| (manifest.stage != self.stage) || (manifest.batch != self.batch);
        if let Some(other) = standing.iter().filter(others).find(|manifest| manifest.policy_version() == Some(version)) {
            let message = format!("policy {version} is there already, committed by `{}` on `{}`", other.stage, other.batch);
            return Err(Fault::Usage(message).into());
        }
        let stored = self.lake.put_folder(folder, &format!("{POLICIES}/{version:04}-{}", self.id())).await?;
        self.policy = Some(PolicyEntry { version, parent, stored });
        Ok(())
    }

    /// Copies a folder into the lake as a state of this stage on this batch, which this run's commit will name.
    pub async fn put_state(&mut self, name: &str, folder: &FilePath) -> Result<()> {
        check_name("state", name)?;
        ensure!(!self.states.contains_key(name), "state `{name}` is put twice");
        let path = format!("{STATES}/{}/{}/{name}-{}", self.stage, self.batch, self.id());
        let stored = self.lake.put_folder(folder, &path).await?;
        self.states.insert(name.to_owned(), stored);
        Ok(())
    }

    /// Lets this run's commit name a state of the commit before it again: what is neither put nor kept counts no more.
    pub fn keep_state(&mut self, name: &str) -> Result<()> {
        let Some(state) = self.previous().and_then(|manifest| manifest.states.get(name)).cloned() else {
            bail!("`{}` on batch `{}` has no state `{name}` to keep", self.stage, self.batch);
        };
        ensure!(self.states.insert(name.to_owned(), state).is_none(), "state `{name}` is put and kept");
        Ok(())
    }

    /// Folders that this run itself has put.
    pub(super) fn own_folders(&self) -> impl Iterator<Item = &StoredFolder> {
        let policy = self.policy.iter().map(|policy| &policy.stored);
        policy.chain(self.states.values()).filter(|stored| stored.folder.ends_with(self.id()))
    }
}

impl Manifest {
    /// Version of the policy that this commit holds.
    pub fn policy_version(&self) -> Option<u64> {
        self.policy.as_ref().map(|policy| policy.version)
    }
}
