//! `fulgurite status`: every stage and batch of the lake, and whether it is fresh.

use std::collections::BTreeMap;
use std::io::Write as _;

use anyhow::Result;

use super::table::{Column, cut, render};
use crate::config::Config;
use crate::lake::{Lake, Lineage};
use crate::{air, credit, derive, engine};

/// Characters of the reasons that a line of the table shows; `--json` has them whole.
const REASON_CHARACTERS: usize = 70;

/// Prints a line for each stage and batch on stdout.
///
/// * `current`: what a run would depend on today; empty where no pipeline was named, so that nobody's settings look stale for it.
pub async fn run(lake: &Lake, batch: Option<&str>, current: &BTreeMap<(String, String), Lineage>, json: bool) -> Result<()> {
    let mut statuses = lake.status(current).await?;
    statuses.retain(|status| batch.is_none_or(|batch| status.batch == batch));
    let mut out = std::io::stdout().lock();
    if json {
        return Ok(writeln!(out, "{}", serde_json::to_string(&statuses)?)?);
    }
    let columns = [
        Column::left("batch"),
        Column::left("stage"),
        Column::left("status"),
        Column::left("holds"),
        Column::right("size"),
        Column::left("why"),
    ];
    let rows: Vec<Vec<String>> = statuses
        .iter()
        .map(|status| {
            let tables = status.rows.iter().map(|(table, rows)| format!("{table} {rows}"));
            let policy = status.policy.iter().map(|version| format!("policy {version}"));
            let states = status.states.iter().map(|name| format!("state {name}"));
            let holds: Vec<String> = tables.chain(policy).chain(states).collect();
            let size = indicatif::BinaryBytes(status.size_bytes).to_string();
            let why = cut(&status.reasons.join("; "), REASON_CHARACTERS);
            vec![status.batch.clone(), status.stage.clone(), status.status.clone(), holds.join(", "), size, why]
        })
        .collect();
    if rows.is_empty() {
        return Ok(writeln!(out, "nothing has run here yet: `fulgurite ingest` begins")?);
    }
    Ok(out.write_all(render(&columns, &rows).as_bytes())?)
}

/// What a run of each SQL stage on each batch would depend on today, under this configuration.
pub async fn current(lake: &Lake, config: &Config) -> Result<BTreeMap<(String, String), Lineage>> {
    let files = engine::sql_files(config)?;
    let stages = [derive::stage(config)?, air::stage(config, &files)?, credit::stage(config, &files)?];
    let mut current = BTreeMap::new();
    for manifest in lake.manifests().await? {
        if let Some(stage) = stages.iter().find(|stage| stage.name == manifest.stage) {
            let lineage = engine::current_lineage(lake, &manifest.batch, stage).await?;
            current.insert((manifest.stage, manifest.batch), lineage);
        }
    }
    Ok(current)
}
