//! What every stage is given and what it gives back. A stage is one `run(&Context, ...) -> Result<Summary>`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use serde::Serialize;

use crate::config::Config;
use crate::exit::Fault;
use crate::lake::{Freshness, Lake, Manifest};
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

impl Summary {
    /// What a stage's manifest says.
    ///
    /// * `status`: done, nothing_to_do or sealed.
    pub fn of(manifest: &Manifest, status: &str, started: Instant) -> Summary {
        Summary {
            stage: manifest.stage.clone(),
            batch: manifest.batch.clone(),
            status: status.to_owned(),
            rows: manifest.tables.iter().map(|(name, entry)| (name.clone(), entry.rows)).collect(),
            manifest: manifest.path(),
            run_id: manifest.run_id.clone(),
            seconds: started.elapsed().as_secs_f64(),
            counts: manifest.counts.clone(),
            warnings: Vec::new(),
        }
    }
}

impl Context {
    /// The end of a run whose output stands already; `None` where it has to run.
    pub fn standing(&self, freshness: &Freshness, previous: Option<&Manifest>, started: Instant) -> Option<Summary> {
        let status = match freshness {
            Freshness::Fresh => "nothing_to_do",
            Freshness::Sealed(_) => "sealed",
            Freshness::Missing | Freshness::Stale(_) => return None,
        };
        previous.filter(|_| !self.rebuild).map(|manifest| Summary::of(manifest, status, started))
    }

    /// With `--dry-run`, the end of a run that would have to do something: it says why.
    pub fn would_run(&self, stage: &str, freshness: &Freshness) -> Option<Summary> {
        if !self.dry_run {
            return None;
        }
        let why = match freshness {
            _ if self.rebuild => "`--rebuild` asks for it".to_owned(),
            Freshness::Missing => "it has not run on this batch".to_owned(),
            other => other.reasons().join("; "),
        };
        self.progress.message(format!("{stage} would run: {why}"));
        Some(Summary { stage: stage.to_owned(), batch: self.batch.clone(), status: "would_run".to_owned(), ..Summary::default() })
    }
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
            write!(f, ", {}", counted(*count, &what.replace('_', " ")))?;
        }
        Ok(())
    }
}

/// `2 rejects`, but `1 reject`.
pub fn counted(count: u64, plural: &str) -> String {
    let stem = match plural.strip_suffix("ches") {
        Some(_) => plural.strip_suffix("es"),
        None => plural.strip_suffix('s').filter(|stem| !stem.ends_with('s')),
    };
    format!("{count} {}", stem.filter(|_| count == 1).unwrap_or(plural))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_a_thing_is_named_in_the_singular() {
        for (count, plural, said) in [
            (1, "rejects", "1 reject"),
            (2, "rejects", "2 rejects"),
            (1, "tool success", "1 tool success"),
            (1, "batches", "1 batch"),
            (2, "batches", "2 batches"),
            (0, "files", "0 files"),
        ] {
            assert_eq!(counted(count, plural), said);
        }
    }
}
