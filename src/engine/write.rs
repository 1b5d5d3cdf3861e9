//! Rows of a plan into a table of the lake, or kept for the files after it: in memory, or in temporary Parquet.

use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::datasource::listing::ListingTableUrl;
use datafusion::datasource::{MemTable, TableProvider};
use datafusion::physical_plan::display::DisplayableExecutionPlan;
use datafusion::physical_plan::{
    ExecutionPlan, SendableRecordBatchStream, displayable, execute_stream, execute_stream_partitioned,
};
use datafusion::prelude::DataFrame;
use futures::{StreamExt, stream};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use tokio::sync::mpsc;

use super::grain::GrainCheck;
use super::ranges::ROLLOUT_ID;
use super::session;
use crate::lake::{DataFile, Run};
use crate::schema::Table;
use crate::stage::Stop;

/// Batches that wait for the encoder at most.
const QUEUE: usize = 4;

/// Rows of a relation that are kept in memory rather than in files, in bytes.
const HELD_BYTES: usize = 16 << 20;

/// Writes sorted plans, one after the other, as `table`, checking every row against the schema, the order and the grain. Up to `at_once` of
/// the plans run beside each other, and encoding on a thread beside them.
pub(super) async fn table(
    plans: Vec<DataFrame>,
    at_once: usize,
    table: &Table,
    grain: &[String],
    run: &Run,
    stop: &Stop,
) -> Result<Vec<DataFile>> {
    let mut writer = run.writer(&table.doc.name, 0)?;
    let mut grain = GrainCheck::new(&table.doc.name, grain, &table.doc.sorted_by);
    let (sender, mut receiver) = mpsc::channel::<RecordBatch>(QUEUE);
    let encoder = tokio::task::spawn_blocking(move || -> Result<_> {
        while let Some(batch) = receiver.blocking_recv() {
            grain.rows(&batch)?;
            writer.write(&batch)?;
        }
        Ok(writer)
    });
    let mut plans = plans.into_iter();
    let mut running: VecDeque<_> = plans.by_ref().take(at_once).map(|rows| start(rows, &table.doc.name)).collect();
    'all: while let Some(mut rows) = running.pop_front() {
        while let Some(batch) = rows.recv().await {
            stop.check()?;
            if sender.send(batch?).await.is_err() {
                break 'all; // the encoder failed: its own error tells why
            }
        }
        running.extend(plans.next().map(|rows| start(rows, &table.doc.name)));
    }
    drop(sender);
    encoder.await.context("the thread that encodes rows panicked")??.finish().await
}

/// Runs a plan in a task of its own, `QUEUE` batches ahead of whoever takes them.
fn start(rows: DataFrame, name: &str) -> mpsc::Receiver<Result<RecordBatch>> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let name = name.to_owned();
    tokio::spawn(async move {
        if let Err(error) = run_into(rows, &name, &sender).await {
            let _ = sender.send(Err(error)).await; // nobody waits any more
        }
    });
    receiver
}

async fn run_into(rows: DataFrame, name: &str, sender: &mpsc::Sender<Result<RecordBatch>>) -> Result<()> {
    let tasks = Arc::new(rows.task_ctx());
    let plan = physical(rows, name).await?;
    let mut stream = execute_stream(Arc::clone(&plan), tasks)?;
    while let Some(batch) = stream.next().await {
        if sender.send(Ok(batch?)).await.is_err() {
            break;
        }
    }
    tell_metrics(&plan, name);
    Ok(())
}

/// Keeps the rows of plans until the stage ends, each partition in the order that they come: in memory while they are few, else as
/// Parquet files in `folder`. Up to `at_once` of the plans run beside each other. Returns the rows of each plan.
pub(super) async fn keep(
    plans: Vec<DataFrame>,
    at_once: usize,
    folder: &Path,
    name: &str,
    stop: &Stop,
) -> Result<Vec<Arc<dyn TableProvider>>> {
    let held_bytes = Arc::new(AtomicUsize::new(0));
    let keep = |(number, rows): (usize, DataFrame)| {
        let (base, name) = (folder.join(format!("{name}-{number}")), name.to_owned());
        tokio::spawn(keep_one(rows, base, name, Arc::clone(&held_bytes), stop.clone()))
    };
    let mut kept = stream::iter(plans.into_iter().enumerate()).map(keep).buffered(at_once);
    let mut tables = Vec::new();
    while let Some(table) = kept.next().await {
        tables.push(table.context("the task that keeps a relation panicked")??);
    }
    Ok(tables)
}

/// * `base`: beginning of the names of files.
/// * `held_bytes`: what the whole relation holds in memory.
async fn keep_one(
    rows: DataFrame,
    base: PathBuf,
    name: String,
    held_bytes: Arc<AtomicUsize>,
    stop: Stop,
) -> Result<Arc<dyn TableProvider>> {
    let schema = Arc::new(rows.schema().as_arrow().clone());
    let tasks = Arc::new(rows.task_ctx());
    let plan = physical(rows, &name).await?;
    let streams = execute_stream_partitioned(Arc::clone(&plan), tasks)?;
    let path = |part: usize| PathBuf::from(format!("{}-{part}.parquet", base.display()));
    let tasks: Vec<_> = streams
        .into_iter()
        .enumerate()
        .map(|(part, stream)| {
            tokio::spawn(partition(stream, Arc::clone(&schema), path(part), Arc::clone(&held_bytes), stop.clone()))
        })
        .collect();
    let mut kept = Vec::new();
    for task in tasks {
        kept.push(task.await.context("the task that keeps a relation panicked")??);
    }
    tell_metrics(&plan, &name);
    let spilled = kept.iter().any(|part| matches!(part, Kept::File(_)));
    if !spilled {
        let held = kept.into_iter().map(|part| if let Kept::Rows(rows) = part { rows } else { Vec::new() }).collect();
        return Ok(Arc::new(MemTable::try_new(schema, held)?));
    }
    let mut urls = Vec::new();
    for (part, kept) in kept.into_iter().enumerate() {
        let path = match kept {
            Kept::File(path) => path,
            Kept::Rows(rows) => {
                spill(&path(part), &schema, &rows)?.close()?;
                path(part)
            }
        };
        urls.push(ListingTableUrl::parse(path.to_string_lossy())?);
    }
    session::listing(schema, urls, &[])
}

/// The plan that runs, told to whoever looks for what makes it slow (`RUST_LOG=fulgurite::engine=debug`).
async fn physical(rows: DataFrame, name: &str) -> Result<Arc<dyn ExecutionPlan>> {
    let plan = rows.create_physical_plan().await?;
    tracing::debug!("plan of `{name}`:\n{}", displayable(plan.as_ref()).indent(false));
    Ok(plan)
}

/// What each operator of a plan took, once it has run (`RUST_LOG=fulgurite::engine=trace`).
fn tell_metrics(plan: &Arc<dyn ExecutionPlan>, name: &str) {
    tracing::trace!("`{name}` took:\n{}", DisplayableExecutionPlan::with_metrics(plan.as_ref()).indent(false));
}

/// Where the rows of one partition are.
enum Kept {
    Rows(Vec<RecordBatch>),
    File(PathBuf),
}

/// Reads one partition to its end.
///
/// * `held_bytes`: what all partitions of the relation hold in memory.
async fn partition(
    mut stream: SendableRecordBatchStream,
    schema: SchemaRef,
    path: PathBuf,
    held_bytes: Arc<AtomicUsize>,
    stop: Stop,
) -> Result<Kept> {
    let mut held = Vec::new();
    let mut file = None;
    while let Some(batch) = stream.next().await {
        stop.check()?;
        // An operator may know better than the plan that a column has no nulls.
        let batch = RecordBatch::try_new(Arc::clone(&schema), batch?.columns().to_vec())?;
        match &mut file {
            None => {
                let bytes = batch.get_array_memory_size();
                held.push(batch);
                if held_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > HELD_BYTES {
                    file = Some(spill(&path, &schema, &held)?);
                    held = Vec::new();
                }
            }
            Some(file) => file.write(&batch)?,
        }
    }
    match file {
        None => Ok(Kept::Rows(held)),
        Some(file) => {
            file.close()?;
            Ok(Kept::File(path))
        }
    }
}

/// A temporary file that begins with these rows.
fn spill(path: &Path, schema: &SchemaRef, rows: &[RecordBatch]) -> Result<ArrowWriter<File>> {
    // Read once or twice within seconds and then deleted: neither compression nor dictionaries pay, nor statistics but those by which
    // ranges are found.
    let properties = WriterProperties::builder()
        .set_compression(Compression::UNCOMPRESSED)
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_column_statistics_enabled(ROLLOUT_ID.into(), EnabledStatistics::Chunk)
        .build();
    let file = File::create(path).with_context(|| format!("cannot create `{}`", path.display()))?;
    let mut writer = ArrowWriter::try_new(file, Arc::clone(schema), Some(properties))?;
    rows.iter().try_for_each(|batch| writer.write(batch))?;
    Ok(writer)
}
