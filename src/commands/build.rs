//! `fulgurite build`: the SQL stages of a batch in order, each where it is stale.

use std::time::Instant;

use anyhow::Result;

use crate::cli::Reporter;
use crate::stage::{Context, Summary};
use crate::{air, credit, derive};

/// Runs derive, air and credit. Each reports on stderr as it ends; the summary is that of all: the rows and counts of each, done where one
/// of them ran.
pub async fn run(context: &Context, reporter: &Reporter) -> Result<Summary> {
    let started = Instant::now();
    let mut all = Summary { stage: "build".to_owned(), batch: context.batch.clone(), ..Summary::default() };
    let mut statuses = Vec::new();
    for stage in ["derive", "air", "credit"] {
        context.stop.check()?;
        let summary = match stage {
            "derive" => derive::run(context).await?,
            "air" => air::run(context).await?,
            _ => credit::run(context).await?,
        };
        reporter.tell(&context.progress, &summary);
        all.rows.extend(summary.rows);
        all.counts.extend(summary.counts);
        all.manifest = summary.manifest;
        all.run_id = summary.run_id;
        statuses.push(summary.status);
    }
    let ran = statuses.iter().find(|status| ["done", "would_run"].contains(&status.as_str()));
    all.status = ran.cloned().unwrap_or_else(|| "nothing_to_do".to_owned());
    all.seconds = started.elapsed().as_secs_f64();
    Ok(all)
}
