//! What every stage is given and what it gives back. A stage is one `run(&Context, ...) -> Result<Summary>`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use serde::Serialize;

use crate::config::Config;
use crate::exit::Fault;
use crate::lake::Lake;
use crate::progress::Progress;

/// The surroundings of one run of one stage on one batch.
pub struct Context {
    pub lake: Lake,
    pub batch: String,
    pub config: Config,
    /// Redo the stage even where it is fresh or sealed.
    pub rebuild: bool,
    /// Say what would run and why, and change nothing.
    pub dry_run: bool,
    pub progress: Progress,
    pub stop: Stop,
}

/// Set by Ctrl-C and SIGTERM; stages look at it between records, batches and files, and never after their commit.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicU8>);

impl Stop {
    /// The flag that a signal handler sets to the number of the signal.
    pub fn flag(&self) -> Arc<AtomicU8> {
        Arc::clone(&self.0)
    }

    /// Fails once a signal has come.
    pub fn check(&self) -> Result<(), Fault> {
        match self.0.load(Ordering::Relaxed) {
            0 => Ok(()),
            2 => Err(Fault::Interrupted),
            _ => Err(Fault::Terminated),
        }
    }
}

/// What a stage did: printed as one JSON line with `--json`, and as a sentence without.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Summary {
    pub stage: String,
    pub batch: String,
    /// done, nothing_to_do, sealed or, where nothing was to be changed, would_run.
    pub status: String,
    /// Rows of each table that the stage's newest manifest names.
    pub rows: BTreeMap<String, u64>,
    /// Path of the manifest in the lake.
    pub manifest: String,
    pub run_id: String,
    pub seconds: f64,
    /// Counts worth telling, such as files read, records rejected, rows dropped by reason.
    pub counts: BTreeMap<String, u64>,
    pub warnings: Vec<String>,
}

/// One sentence for the person who watches.
impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Summary { stage, batch, status, .. } = self;
        match status.as_str() {
            "would_run" => return write!(f, "{stage} {batch}: would run; nothing was changed"),
            "nothing_to_do" => return write!(f, "{stage} {batch}: nothing to do, it is fresh"),
            "sealed" => return write!(f, "{stage} {batch}: sealed, left as it is (`--rebuild` redoes it)"),
            _ => write!(f, "{stage} {batch}: done in {:.1} s", self.seconds)?,
        }
        for (what, count) in self.rows.iter().chain(self.counts.iter().filter(|(_, count)| **count > 0)) {
            write!(f, ", {count} {}", what.replace('_', " "))?;
        }
        Ok(())
    }
}
