//! From the flags that every command understands to what it works with: settings, a lake, a batch, a runtime.

use std::io::Write as _;

use anyhow::{Context as _, Result};

use super::{Globals, Reporter, signals};
use crate::commands;
use crate::commands::diff::Side;
use crate::config::Config;
use crate::exit::Fault;
use crate::lake::Lake;
use crate::progress::Progress;
use crate::stage::{Context, Stop, Summary};

impl Globals {
    /// The pipeline file with `--set` and `--threads` applied.
    pub(super) fn config(&self) -> Result<Config> {
        let mut config = Config::load(self.pipeline.as_deref(), &self.settings)?;
        config.threads = self.threads.unwrap_or(config.threads);
        Ok(config)
    }

    /// Whether the caller says what the settings are.
    pub(super) fn names_settings(&self) -> bool {
        self.pipeline.is_some() || !self.settings.is_empty()
    }

    pub(super) fn batch(&self) -> Result<&str, Fault> {
        let missing = "which batch? name it with `--batch ID`, such as a day (2026-11-22) or an iteration (iter-0003)";
        self.batch.as_deref().ok_or_else(|| Fault::Usage(missing.to_owned()))
    }

    /// What `fulgurite diff` compares: two batches as they are committed, or what settings give where any are named.
    pub(super) fn sides(&self, args: &commands::diff::DiffArgs) -> Result<(Side, Side)> {
        let batch = self.batch()?.to_owned();
        let other_batch = args.other_batch.clone().unwrap_or_else(|| batch.clone());
        if !self.names_settings() && !args.names_settings() {
            return Ok((Side { batch, config: None }, Side { batch: other_batch, config: None }));
        }
        let pipeline = args.other_pipeline.clone().or_else(|| self.pipeline.clone());
        let settings = [self.settings.as_slice(), &args.other_settings].concat();
        let other = Globals { pipeline, settings, ..self.clone() };
        Ok((Side { batch, config: Some(self.config()?) }, Side { batch: other_batch, config: Some(other.config()?) }))
    }

    pub(super) fn lake(&self) -> Result<&str, Fault> {
        let missing = "which lake? name it with `--lake URL`, a directory or s3://, gs:// or az://";
        self.lake.as_deref().ok_or_else(|| Fault::Usage(missing.to_owned()))
    }

    /// Runs a stage on the batch and reports it.
    pub(super) fn stage(&self, opening: Opening, work: impl AsyncFnOnce(&mut Context) -> Result<Summary>) -> Result<u8> {
        let (context, summary) = self.on_batch(opening, work)?;
        let reporter = Reporter::new(self);
        reporter.tell(&context.progress, &summary);
        reporter.finished(&summary)
    }

    /// Prints what a stage found out about one rollout.
    pub(super) fn explain(&self, work: impl AsyncFnOnce(&mut Context) -> Result<String>) -> Result<()> {
        let (_, text) = self.on_batch(Opening::Existing, work)?;
        Ok(writeln!(std::io::stdout(), "{}", text.trim_end())?)
    }

    pub(super) fn on_batch<T>(
        &self,
        opening: Opening,
        work: impl AsyncFnOnce(&mut Context) -> Result<T>,
    ) -> Result<(Context, T)> {
        let (config, progress, stop) = self.surroundings()?;
        let (location, batch) = (self.lake()?, self.batch()?.to_owned());
        runtime(&config)?.block_on(async {
            let lake = match opening {
                Opening::Make => Lake::open(location).await?,
                Opening::Existing => Lake::open_existing(location).await?,
            };
            let mut context = Context { lake, batch, config, rebuild: self.rebuild, dry_run: self.dry_run, progress, stop };
            let done = work(&mut context).await?;
            Ok((context, done))
        })
    }

    /// Does something with a lake that is there already.
    pub(super) fn on_lake<T>(&self, work: impl AsyncFnOnce(&Lake, &Config, &Progress, &Stop) -> Result<T>) -> Result<T> {
        let (config, progress, stop) = self.surroundings()?;
        let location = self.lake()?;
        runtime(&config)?.block_on(async {
            let lake = Lake::open_existing(location).await?;
            work(&lake, &config, &progress, &stop).await
        })
    }

    pub(super) fn surroundings(&self) -> Result<(Config, Progress, Stop)> {
        let stop = Stop::default();
        signals::install(&stop)?;
        Ok((self.config()?, Progress::new(self.quiet), stop))
    }
}

/// Whether a lake that is not there is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opening {
    Make,
    Existing,
}

/// The async runtime: its workers wait for stores and drive DataFusion, as many as `threads` says.
pub(super) fn runtime(config: &Config) -> Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(config.threads()).enable_all().build().context("cannot start the async runtime")
}
