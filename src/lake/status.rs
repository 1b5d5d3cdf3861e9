//! What stands in the lake: every stage and batch, and whether it is fresh.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use serde::Serialize;

use super::Lake;
use super::manifest::{Freshness, Lineage, Manifest};
use crate::schema;

/// One stage on one batch.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageStatus {
    pub stage: String,
    pub batch: String,
    pub version: u64,
    /// fresh, stale, sealed, or sealed (older settings).
    pub status: String,
    /// What has changed since, in words.
    pub reasons: Vec<String>,
    /// Rows of each table.
    pub rows: BTreeMap<String, u64>,
    /// Version of the policy that it made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<u64>,
    /// Names of the states that it can go on from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<String>,
    pub size_bytes: u64,
    /// RFC 3339, UTC.
    pub committed_at: String,
    pub run_id: String,
    pub code_version: String,
}

impl Lake {
    /// Every stage and batch, by batch and then in the order in which stages read each other.
    ///
    /// * `current`: what a run would depend on today, by stage and batch, as far as the caller knows it. Where it does not, inputs that are
    ///   tables of this lake and the schemas are compared, and settings, SQL and files are taken to be what they were.
    pub async fn status(&self, current: &BTreeMap<(String, String), Lineage>) -> Result<Vec<StageStatus>> {
        let manifests = self.manifests().await?;
        let mut stale: BTreeSet<String> = BTreeSet::new();
        let mut statuses = Vec::new();
        for manifest in in_order(&manifests) {
            let known = current.get(&(manifest.stage.clone(), manifest.batch.clone()));
            let lineage = known.cloned().map_or_else(|| lineage_today(manifest, &manifests), Ok)?;
            let mut freshness = lineage.freshness(Some(manifest));
            let waits = manifest.lineage.inputs.iter().map(|input| &input.name).filter(|name| stale.contains(*name));
            let waits: Vec<String> = waits.map(|name| format!("input `{name}` is stale")).collect();
            if matches!(freshness, Freshness::Fresh) && !waits.is_empty() && manifest.goes_stale_by_cascade() {
                freshness = Freshness::Stale(waits);
            }
            if matches!(freshness, Freshness::Stale(_)) {
                stale.insert(format!("{}/{}", manifest.stage, manifest.batch));
            }
            statuses.push(StageStatus {
                stage: manifest.stage.clone(),
                batch: manifest.batch.clone(),
                version: manifest.version,
                status: freshness.word().to_owned(),
                reasons: freshness.reasons().to_vec(),
                rows: manifest.tables.iter().map(|(name, entry)| (name.clone(), entry.rows)).collect(),
                policy: manifest.policy_version(),
                states: manifest.states.keys().cloned().collect(),
                size_bytes: manifest.size_bytes(),
                committed_at: manifest.committed_at.clone(),
                run_id: manifest.run_id.clone(),
                code_version: manifest.code_version.clone(),
            });
        }
        Ok(statuses)
    }
}

/// Batch by batch; within one, a stage after those whose tables it read.
fn in_order(manifests: &[Manifest]) -> Vec<&Manifest> {
    let by_name: BTreeMap<String, &Manifest> = manifests.iter().map(|m| (format!("{}/{}", m.stage, m.batch), m)).collect();
    let mut ordered: Vec<&Manifest> = manifests.iter().collect();
    ordered.sort_by_key(|manifest| (&manifest.batch, depth(manifest, &by_name, manifests.len()), &manifest.stage));
    ordered
}

/// How many stages of the same batch stand before this one; `limit` ends a circle, which no stage makes but a manifest could state.
fn depth(manifest: &Manifest, by_name: &BTreeMap<String, &Manifest>, limit: usize) -> usize {
    let inputs = manifest.lineage.inputs.iter().filter_map(|input| by_name.get(&input.name));
    let same_batch = inputs.filter(|input| input.batch == manifest.batch && limit > 0);
    same_batch.map(|input| 1 + depth(input, by_name, limit - 1)).max().unwrap_or(0)
}

/// The manifest's lineage with what this program can see for itself brought up to date.
fn lineage_today(manifest: &Manifest, all: &[Manifest]) -> Result<Lineage> {
    let mut lineage = manifest.lineage.clone();
    for input in &mut lineage.inputs {
        let tables: Vec<&str> = input.tables.iter().map(String::as_str).collect();
        let source = all.iter().find(|source| !tables.is_empty() && input.name == format!("{}/{}", source.stage, source.batch));
        if let Some(source) = source {
            *input = source.input(&tables)?;
        }
    }
    for table in schema::tables_of(&manifest.stage) {
        lineage.schemas.insert(table.to_owned(), schema::table(table)?.hash.clone());
    }
    Ok(lineage)
}
