//! `fulgurite seal` and `fulgurite vacuum`: what keeps a lake in order.

use std::io::Write as _;
use std::time::Duration;

use anyhow::Result;

use crate::exit::Fault;
use crate::lake::Lake;
use crate::progress::Progress;

const SECONDS_PER_HOUR: f64 = 3600.0;

/// Seals what a stage made of a batch.
pub async fn seal(lake: &Lake, stage: &str, batch: &str, progress: &Progress) -> Result<()> {
    let manifest = lake.seal(stage, batch).await?;
    progress.message(format!("{stage} {batch}: sealed as version {}", manifest.version));
    Ok(())
}

/// Removes files that count no more and prints their paths, one a line.
///
/// * `grace_hours`: how long a superseded file stays.
pub async fn vacuum(lake: &Lake, grace_hours: f64, dry_run: bool, json: bool, progress: &Progress) -> Result<()> {
    let grace = Duration::try_from_secs_f64(grace_hours * SECONDS_PER_HOUR)
        .map_err(|error| Fault::Usage(format!("`--grace {grace_hours}`: {error}")))?;
    let vacuumed = lake.vacuum(grace, dry_run).await?;
    let mut out = std::io::stdout().lock();
    if json {
        return Ok(writeln!(out, "{}", serde_json::to_string(&vacuumed)?)?);
    }
    for path in &vacuumed.paths {
        writeln!(out, "{path}")?;
    }
    let done = if dry_run { "would be removed" } else { "removed" };
    progress.message(format!("{} files {done}, {}", vacuumed.paths.len(), indicatif::BinaryBytes(vacuumed.size_bytes)));
    Ok(())
}
