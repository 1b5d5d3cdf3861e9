//! `fulgurite report`: the page in a file, or on stdout.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;

use super::sql::{Session, Target};
use crate::config::Config;
use crate::lake::Lake;
use crate::progress::Progress;
use crate::report;
use crate::stage::{Stop, Summary};

/// What stands for stdout.
const STDOUT: &str = "-";

#[derive(Debug, Clone, clap::Args)]
pub struct ReportArgs {
    /// File to write, whole or not at all; - for stdout
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    pub output: PathBuf,
    /// Rollouts of each batch that are shown whole, the most different ones
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub rollouts: usize,
}

/// Writes the page.
pub async fn run(
    lake: &Lake,
    batch: Option<&str>,
    config: &Config,
    progress: &Progress,
    stop: &Stop,
    args: ReportArgs,
) -> Result<Summary> {
    let started = Instant::now();
    let to_stdout = args.output == Path::new(STDOUT);
    let target = Target::new(None, (!to_stdout).then(|| args.output.clone()))?;
    let session = Session::open(lake, batch, config, stop).await?;
    let report = report::make(session.context(), lake, batch, args.rollouts, stop).await?;
    target.text(&report.html)?;
    let summary = Summary {
        stage: "report".to_owned(),
        batch: batch.unwrap_or("all").to_owned(),
        status: "done".to_owned(),
        seconds: started.elapsed().as_secs_f64(),
        counts: report.counts,
        ..Summary::default()
    };
    progress.clear();
    progress.message(summary.to_string());
    if !to_stdout {
        progress.message(format!("open `{}` in a browser", args.output.display()));
    }
    Ok(summary)
}
