//! Checkpoints of a run that is under way: committed like every other output, under the stage `checkpoint`, and gone when the run has ended.
//!
//! A checkpoint is a folder with `weights.safetensors` (what is trained), `optimiser.safetensors` and `progress.json`. Steps that were left out
//! because a number was not finite are written aside as states too, and those stay.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use tch::Tensor;
use tokio::runtime::Handle;

use super::metrics::StepMetrics;
use super::optimiser::AdamW;
use crate::lake::{Fetched, Freshness, Lake, Lineage, Manifest, Run};
use crate::model::safetensors;

const STAGE: &str = "checkpoint";
const ASIDE: &str = "aside-";
const WEIGHTS: &str = "weights.safetensors";
const OPTIMISER: &str = "optimiser.safetensors";
const PROGRESS: &str = "progress.json";

/// Where a run stands beside its weights.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Of the steps that are done; their number is the next step.
    pub steps: Vec<StepMetrics>,
    /// How many of the last steps were left out, without one that was not between them.
    pub skipped_in_a_row: u64,
}

/// The checkpoints of one run. For synchronous code on a thread that may block.
pub struct Checkpoints {
    pub lake: Lake,
    pub batch: String,
    /// What the run depends on: a checkpoint of other rows, settings or another policy is not gone on from.
    pub lineage: Lineage,
    /// How many are kept.
    pub keep: usize,
}

impl Checkpoints {
    /// The newest checkpoint of a run like this one.
    pub fn latest(&self) -> Result<Option<Fetched>> {
        Handle::current().block_on(async {
            let standing = self.lake.manifest(STAGE, &self.batch).await?.filter(|standing| self.made(standing));
            let states = standing.map(|standing| standing.states).unwrap_or_default();
            match states.iter().rfind(|(name, _)| !name.starts_with(ASIDE)) {
                Some((_, state)) => self.lake.fetch_folder(state).await.map(Some),
                None => Ok(None),
            }
        })
    }

    /// Commits a checkpoint after so many steps, and lets the oldest go.
    pub fn save(&self, weights: &[(String, Tensor)], optimiser: &AdamW, progress: &Progress) -> Result<()> {
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        safetensors::write(&folder.path().join(WEIGHTS), weights)?;
        optimiser.save(&folder.path().join(OPTIMISER))?;
        std::fs::write(folder.path().join(PROGRESS), serde_json::to_vec(progress)?)?;
        self.commit(Some((&format!("step-{:06}", progress.steps.len()), folder.path())), self.keep.saturating_sub(1))
    }

    /// Commits what a step was about that had to be left out. Returns the name that it has in the lake.
    pub fn set_aside(&self, step: u64, record: &serde_json::Value) -> Result<String> {
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        std::fs::write(folder.path().join("step.json"), serde_json::to_vec_pretty(record)?)?;
        let name = format!("{ASIDE}{step:06}");
        self.commit(Some((&name, folder.path())), self.keep)?;
        Ok(name)
    }

    /// Lets all checkpoints go: the run has ended. Cheap where there are none.
    pub async fn clear(&self) -> Result<()> {
        self.clear_if(|_| true).await
    }

    /// As [`Checkpoints::clear`], but leaves those that a run unlike this one made.
    pub async fn clear_own(&self) -> Result<()> {
        self.clear_if(|standing| self.made(standing)).await
    }

    async fn clear_if(&self, may_go: impl Fn(&Manifest) -> bool) -> Result<()> {
        let standing = self.lake.manifest(STAGE, &self.batch).await?;
        let holds_some = |standing: &Manifest| standing.states.keys().any(|name| !name.starts_with(ASIDE));
        if standing.is_some_and(|standing| may_go(&standing) && holds_some(&standing)) {
            self.commit_async(None, 0).await?;
        }
        Ok(())
    }

    /// Whether what stands was made by a run like this one.
    fn made(&self, standing: &Manifest) -> bool {
        self.lineage.freshness(Some(standing)) == Freshness::Fresh
    }

    fn commit(&self, state: Option<(&str, &Path)>, keep: usize) -> Result<()> {
        Handle::current().block_on(self.commit_async(state, keep))
    }

    /// * `keep`: how many of the checkpoints that stand are kept beside the new state.
    async fn commit_async(&self, state: Option<(&str, &Path)>, keep: usize) -> Result<()> {
        let mut run: Run = self.lake.begin(STAGE, &self.batch).await?;
        let before = run.previous().cloned();
        if let Some(before) = before.as_ref().filter(|before| self.made(before)) {
            let new = state.map(|(name, _)| name);
            let names = before.states.keys().filter(|name| Some(name.as_str()) != new);
            let (aside, checkpoints): (Vec<&String>, Vec<&String>) = names.partition(|name| name.starts_with(ASIDE));
            for name in aside.into_iter().chain(checkpoints.into_iter().rev().take(keep)) {
                run.keep_state(name)?;
            }
        }
        if let Some((name, folder)) = state {
            run.put_state(name, folder).await?;
        }
        let after = run.commit(self.lineage.clone(), BTreeMap::new()).await?;
        if let Some(before) = before {
            self.lake.prune_states(&before, &after).await;
        }
        Ok(())
    }
}

/// Puts weights and optimiser back to where a checkpoint was made.
///
/// * `weights`: the model's own tensors, which are written over.
pub fn restore(folder: &Path, weights: &[(String, Tensor)], optimiser: &mut AdamW) -> Result<Progress> {
    let _guard = tch::no_grad_guard();
    let stored = safetensors::read_all(&folder.join(WEIGHTS))?;
    for (name, weight) in weights {
        let found = stored.get(name).with_context(|| format!("the checkpoint has no `{name}`"))?;
        weight.shallow_clone().f_copy_(found).with_context(|| format!("`{name}` of the checkpoint"))?;
    }
    optimiser.load(&folder.join(OPTIMISER))?;
    let progress = std::fs::read(folder.join(PROGRESS)).context("the checkpoint has no progress")?;
    serde_json::from_slice(&progress).context("the checkpoint's progress cannot be read")
}
