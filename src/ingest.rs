//! Trace files into the tables `spans` and `rejects`.
//!
//! ```text
//! files ─ decode ─ blocks ─┬─ read ─► spans ─► spill (partitions) ─ resolve ─► rows ─ columns ─► Parquet
//!                          └─ rejects, with file, line, offset, reason and raw text
//! ```
//!
//! Files and blocks of one file are read in parallel. Memory is bounded whatever the size of the input: a block of a few megabytes for
//! each thread and 64 MiB of spans, then one partition of whole rollouts for each thread. What is written does not depend on which
//! thread read what.

mod columns;
mod decode;
mod earlier;
mod partition;
mod period;
mod reading;
mod rejects;
mod source;
mod spill;

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context as _, Result};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use crate::exit::Fault;
use crate::lake::{Input, Lineage, Run};
use crate::stage::{Context, Summary, counted};
use columns::RejectRow;
use earlier::Earlier;
use period::Period;
use source::Source;

/// Settings of the stage `ingest`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct IngestConfig {
    /// Attribute or metadata keys that hold the task id, best first, tried before the keys that the formats define.
    pub task_id_keys: Vec<String>,
    /// How many records may be set aside: a number, or a share of all records such as `5%`. More end the stage with exit code 1,
    /// and nothing is committed. Empty allows any number.
    pub max_rejects: String,
    /// Longest record that is read, in bytes; a longer one is set aside with its first 64 KiB.
    pub max_record_bytes: usize,
    /// Rollouts that began before this are left out: a day (midnight UTC) or an ISO 8601 time. Empty: none are.
    pub since: String,
    /// Rollouts that began at this time or later are left out, as `since`. A rollout without times is left out with either.
    pub until: String,
}

impl Default for IngestConfig {
    fn default() -> Self {
        Self {
            task_id_keys: Vec::new(),
            max_rejects: String::new(),
            max_record_bytes: 64 << 20,
            since: String::new(),
            until: String::new(),
        }
    }
}

/// Reads every file that `paths` name into the batch. The paths of a batch are given together: another set of files replaces it.
pub async fn run(context: &Context, paths: &[String]) -> Result<Summary> {
    read(context, paths, Earlier::Replace).await
}

/// As [`run`], with the files that the batch was read from before.
///
/// # Errors
/// Among others: one of those files is not there any more ([`Fault::Failed`]).
pub async fn add(context: &Context, paths: &[String]) -> Result<Summary> {
    read(context, paths, Earlier::Keep).await
}

async fn read(context: &Context, paths: &[String], earlier: Earlier) -> Result<Summary> {
    let started = Instant::now();
    let limit = Limit::parse(&context.config.ingest.max_rejects)?;
    let period = Period::parse(&context.config.ingest.since, &context.config.ingest.until)?;
    let run = context.lake.begin("ingest", &context.batch).await?;
    let before = run.previous().map_or_else(Vec::new, |manifest| manifest.lineage.inputs.clone());
    let mut sources = source::find(paths).await?;
    if earlier == Earlier::Keep {
        sources.extend(earlier::missing(&before, &sources).await?);
        sources.sort_by(|a, b| a.name.cmp(&b.name));
    }
    let threads = context.config.threads();
    let runtime = Handle::current();
    let kept = if earlier == Earlier::Keep { before.clone() } else { Vec::new() };
    let (sources, inputs) = tokio::task::spawn_blocking(move || -> Result<_> {
        let inputs = inputs(&sources, threads)?;
        earlier::check(&kept, &sources, &inputs, &runtime)?;
        Ok((sources, inputs))
    })
    .await??;
    let left_out = earlier::left_out(&before, &inputs);

    let lineage = Lineage { inputs, ..Lineage::new("ingest", serde_json::to_value(&context.config.ingest)?)? };
    let freshness = lineage.freshness(run.previous());
    if let Some(summary) =
        context.standing(&freshness, run.previous(), started).or_else(|| context.would_run("ingest", &freshness))
    {
        return Ok(summary);
    }
    let work = Work { context, run: &run, sources: &sources, limit, period, runtime: Handle::current() };
    let worked = tokio::task::block_in_place(|| work.pool()?.install(|| work.all()));
    match worked.and_then(|outcome| context.stop.check().map(|()| outcome).map_err(Into::into)) {
        Ok(mut outcome) => {
            let manifest = run.commit(lineage, outcome.counts).await?;
            if left_out > 0 {
                let files = counted(left_out, "files");
                outcome
                    .warnings
                    .push(format!("{files} of before not given again: their spans are gone from the batch (`--add` keeps them)"));
            }
            Ok(Summary { warnings: outcome.warnings, ..Summary::of(&manifest, "done", started) })
        }
        Err(error) => {
            run.abandon().await;
            Err(error)
        }
    }
}

/// How many rejects are too many.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Limit {
    Any,
    Count(u64),
    Share(f64),
}

impl Limit {
    fn parse(text: &str) -> Result<Limit, Fault> {
        let wrong =
            || Fault::Usage(format!("`ingest.max_rejects` is `{text}`; give a number such as `10`, or a share such as `5%`"));
        match text.strip_suffix('%') {
            _ if text.is_empty() => Ok(Limit::Any),
            Some(share) => match share.trim().parse::<f64>() {
                Ok(share) if (0.0..=100.0).contains(&share) => Ok(Limit::Share(share / 100.0)),
                _ => Err(wrong()),
            },
            None => text.trim().parse().map(Limit::Count).map_err(|_| wrong()),
        }
    }

    fn allows(self, rejects: u64, records: u64) -> bool {
        match self {
            Limit::Any => true,
            Limit::Count(count) => rejects <= count,
            Limit::Share(share) => rejects as f64 <= share * records as f64,
        }
    }
}

/// Names, sizes and hashes of the files: what decides whether the batch is fresh.
fn inputs(sources: &[Source], threads: usize) -> Result<Vec<Input>> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    pool.install(|| {
        let input = |source: &Source| {
            Ok(Input { name: source.name.clone(), tables: Vec::new(), hash: source.hash()?, size_bytes: source.size_bytes })
        };
        sources.par_iter().map(input).collect()
    })
}

/// One run over its files.
struct Work<'a> {
    context: &'a Context,
    run: &'a Run,
    sources: &'a [Source],
    limit: Limit,
    period: Period,
    runtime: Handle,
}

/// What a run wrote.
struct Outcome {
    counts: BTreeMap<String, u64>,
    warnings: Vec<String>,
}

impl Work<'_> {
    fn pool(&self) -> Result<rayon::ThreadPool> {
        Ok(rayon::ThreadPoolBuilder::new().num_threads(self.context.config.threads()).build()?)
    }

    fn all(&self) -> Result<Outcome> {
        let files: Vec<String> = self.sources.iter().map(|source| source.name.clone()).collect();
        let read = reading::read(self.context, self.sources, &self.runtime)?;
        if !self.limit.allows(read.rejects.len(), read.records) {
            return Err(self.too_many(&read.rejects, read.records, &files)?);
        }
        let mut rejects = read.rejects;
        let (unresolved, left_out) = partition::write(self, read.spill, &read.components, &files)?;
        rejects.extend(unresolved)?;
        let mut counts = BTreeMap::from([("files".to_owned(), self.sources.len() as u64), ("records".to_owned(), read.records)]);
        if self.period != Period::default() {
            counts.insert("rollouts_left_out".to_owned(), left_out.outside + left_out.undated);
        }
        let mut warnings: Vec<String> = rejects
            .by_code()
            .into_iter()
            .map(|(code, count)| format!("{} set aside: {code}", counted(count, "records")))
            .collect();
        if left_out.undated > 0 {
            let undated = counted(left_out.undated, "rollouts");
            warnings.push(format!("{undated} left out: nothing says when they began, so that no period holds them"));
        }
        self.write_rejects(rejects, &files)?;
        Ok(Outcome { counts, warnings })
    }

    fn too_many(&self, rejects: &rejects::Rejects, records: u64, files: &[String]) -> Result<anyhow::Error> {
        let shown: Vec<String> = rejects
            .first(5)?
            .iter()
            .map(|row: &RejectRow| format!("  {}:{}: {}", files[row.file as usize], row.line, row.reason))
            .collect();
        let message = format!(
            "{} of {records} records cannot be used, more than `ingest.max_rejects = {}` allows; nothing was committed\n{}",
            rejects.len(),
            self.context.config.ingest.max_rejects,
            shown.join("\n"),
        );
        Ok(Fault::Failed(message).into())
    }

    fn write_rejects(&self, rejects: rejects::Rejects, files: &[String]) -> Result<()> {
        let table = crate::schema::table("rejects")?;
        let mut writer = self.run.writer("rejects", 0)?;
        rejects.in_order(1024, |rows| writer.write(&columns::rejects(rows, files, &table.arrow)?))?;
        writer.close()?;
        self.runtime.block_on(writer.finish()).context("cannot store `rejects`")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_of_rejects() {
        let check = |text: &str, rejects, records, expected| {
            assert_eq!(Limit::parse(text).unwrap().allows(rejects, records), expected, "{text} {rejects}/{records}");
        };
        check("", 10, 10, true);
        check("3", 3, 10, true);
        check("3", 4, 10, false);
        check("0", 0, 0, true);
        check("5%", 5, 100, true);
        check("5%", 6, 100, false);
        for wrong in ["x", "-1", "101%", "%"] {
            assert!(Limit::parse(wrong).is_err(), "{wrong}");
        }
    }
}
