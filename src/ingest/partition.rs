//! From partitions of spans to Parquet: each thread takes a run of neighbouring partitions and writes them to a file of its own.

use anyhow::{Context as _, Result};
use rayon::prelude::*;

use super::Work;
use super::columns::{self, RejectRow};
use super::period::LeftOut;
use super::spill::{Partition, Spill};
use crate::trace::reject::bounded_raw;
use crate::trace::resolve::{Components, resolve};

/// Rows encoded at once: a batch of long conversations stays within a few megabytes.
const BATCH_ROWS: usize = 512;

/// Resolves and writes every partition. Files are numbered by the partitions that they hold, so that they do not depend on timing.
pub fn write(work: &Work<'_>, spill: Spill, components: &Components, files: &[String]) -> Result<(Vec<RejectRow>, LeftOut)> {
    let partitions = spill.partitions(components, files)?;
    let bar = work.context.progress.bar("resolving", partitions.len() as u64);
    let table = crate::schema::table("spans")?;
    let lanes = lanes(partitions, work.context.config.threads());
    let written: Vec<(Vec<RejectRow>, LeftOut)> = lanes
        .into_par_iter()
        .enumerate()
        .map(|(part, lane)| {
            let mut writer = work.run.writer("spans", part as u32)?;
            let (mut rejects, mut left_out) = (Vec::new(), LeftOut::default());
            for partition in lane {
                work.context.stop.check()?;
                let (rows, unresolved) = resolve(spill.take(partition)?, components, files);
                rejects.extend(unresolved.into_iter().map(|(origin, reason)| RejectRow {
                    file: origin.file,
                    line: origin.line,
                    offset: origin.offset,
                    size_bytes: 0,
                    code: reason.code().to_owned(),
                    reason: bounded_raw(reason.to_string().as_bytes()),
                    raw: None,
                }));
                let rows = work.period.keep(rows, &mut left_out);
                for chunk in rows.chunks(BATCH_ROWS) {
                    writer.write(&columns::spans(chunk, files, &table.arrow)?)?;
                }
                bar.inc(1);
            }
            writer.close()?;
            work.runtime.block_on(writer.finish()).context("cannot store `spans`")?;
            Ok((rejects, left_out))
        })
        .collect::<Result<_>>()?;
    let (mut rejects, mut left_out) = (Vec::new(), LeftOut::default());
    for (more, others) in written {
        rejects.extend(more);
        left_out += others;
    }
    Ok((rejects, left_out))
}

/// Neighbouring partitions for each thread.
fn lanes(partitions: Vec<Partition>, threads: usize) -> Vec<Vec<Partition>> {
    let count = threads.clamp(1, partitions.len().max(1));
    let total = partitions.len();
    let mut lanes: Vec<Vec<Partition>> = (0..count).map(|_| Vec::new()).collect();
    for (index, partition) in partitions.into_iter().enumerate() {
        lanes[index * count / total].push(partition);
    }
    lanes
}
