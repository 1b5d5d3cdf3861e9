//! Rows of a plan into a table of the lake, or kept for the files after it: in memory, or in temporary files.

use std::collections::VecDeque;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::writer::FileWriter;
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::arrow::ArrowFormat;
use datafusion::datasource::file_format::parquet::ParquetFormat;
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

/// Keeps the rows of plans until the stage ends, each partition in the order that they come: in memory while they are few, else as files
/// in `folder`. Up to `at_once` of the plans run beside each other. Returns the rows of each plan.
///
/// * `sorted_by`: the order in which each plan gives its rows; none where that does not matter.
pub(super) async fn keep(
    plans: Vec<DataFrame>,
    sorted_by: &[String],
    at_once: usize,
    folder: &Path,
    name: &str,
    stop: &Stop,
) -> Result<Vec<Arc<dyn TableProvider>>> {
    let held_bytes = Arc::new(AtomicUsize::new(0));
    let format = if plans.len() > 1 { KeptFormat::Arrow } else { KeptFormat::Parquet };
    let keep = |(number, rows): (usize, DataFrame)| {
        let (base, name) = (folder.join(format!("{name}-{number}")), name.to_owned());
        tokio::spawn(keep_one(rows, sorted_by.to_vec(), format, base, name, Arc::clone(&held_bytes), stop.clone()))
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
    sorted_by: Vec<String>,
    format: KeptFormat,
    base: PathBuf,
    name: String,
    held_bytes: Arc<AtomicUsize>,
    stop: Stop,
) -> Result<Arc<dyn TableProvider>> {
    let schema = Arc::new(rows.schema().as_arrow().clone());
    let tasks = Arc::new(rows.task_ctx());
    let plan = physical(rows, &name).await?;
    let streams = execute_stream_partitioned(Arc::clone(&plan), tasks)?;
    let path = |part: usize| PathBuf::from(format!("{}-{part}.{}", base.display(), format.extension()));
    let tasks: Vec<_> = streams
        .into_iter()
        .enumerate()
        .map(|(part, stream)| {
            tokio::spawn(partition(stream, Arc::clone(&schema), format, path(part), Arc::clone(&held_bytes), stop.clone()))
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
        return Ok(Arc::new(MemTable::try_new(schema, held)?.with_sort_order(session::orders(&sorted_by))));
    }
    let mut urls = Vec::new();
    for (part, kept) in kept.into_iter().enumerate() {
        let path = match kept {
            Kept::File(path) => path,
            Kept::Rows(rows) => {
                KeptWriter::begin(format, &path(part), &schema, &rows)?.close()?;
                path(part)
            }
        };
        urls.push(ListingTableUrl::parse(path.to_string_lossy())?);
    }
    session::listing(schema, format.file_format(), urls, &sorted_by)
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
    format: KeptFormat,
    path: PathBuf,
    held_bytes: Arc<AtomicUsize>,
    stop: Stop,
) -> Result<Kept> {
    let mut held = Vec::new();
    let mut file: Option<KeptWriter> = None;
    while let Some(batch) = stream.next().await {
        stop.check()?;
        // An operator may know better than the plan that a column has no nulls.
        let batch = RecordBatch::try_new(Arc::clone(&schema), batch?.columns().to_vec())?;
        match &mut file {
            None => {
                let bytes = batch.get_array_memory_size();
                held.push(batch);
                if held_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > HELD_BYTES {
                    file = Some(KeptWriter::begin(format, &path, &schema, &held)?);
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

/// How rows that are kept lie in files. They are read once or twice within seconds and then deleted: compression does not pay.
#[derive(Debug, Clone, Copy)]
enum KeptFormat {
    /// Rows of one range, which are read whole: as they lie in memory, a batch at a time.
    Arrow,
    /// Rows in one piece, in which ranges are found by the statistics of row groups.
    Parquet,
}

impl KeptFormat {
    fn extension(self) -> &'static str {
        match self {
            KeptFormat::Arrow => "arrow",
            KeptFormat::Parquet => "parquet",
        }
    }

    fn file_format(self) -> Arc<dyn FileFormat> {
        match self {
            KeptFormat::Arrow => Arc::new(ArrowFormat),
            KeptFormat::Parquet => Arc::new(ParquetFormat::default()),
        }
    }
}

/// A temporary file that is being written.
enum KeptWriter {
    Arrow(FileWriter<BufWriter<File>>),
    Parquet(ArrowWriter<File>),
}

impl KeptWriter {
    /// A file that begins with these rows.
    fn begin(format: KeptFormat, path: &Path, schema: &SchemaRef, rows: &[RecordBatch]) -> Result<KeptWriter> {
        let file = File::create(path).with_context(|| format!("cannot create `{}`", path.display()))?;
        let mut writer = match format {
            KeptFormat::Arrow => KeptWriter::Arrow(FileWriter::try_new_buffered(file, schema)?),
            KeptFormat::Parquet => {
                let properties = WriterProperties::builder()
                    .set_compression(Compression::UNCOMPRESSED)
                    .set_dictionary_enabled(false)
                    .set_statistics_enabled(EnabledStatistics::None)
                    .set_column_statistics_enabled(ROLLOUT_ID.into(), EnabledStatistics::Chunk)
                    .build();
                KeptWriter::Parquet(ArrowWriter::try_new(file, Arc::clone(schema), Some(properties))?)
            }
        };
        rows.iter().try_for_each(|batch| writer.write(batch))?;
        Ok(writer)
    }

    fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        match self {
            KeptWriter::Arrow(writer) => writer.write(rows)?,
            KeptWriter::Parquet(writer) => writer.write(rows)?,
        }
        Ok(())
    }

    fn close(self) -> Result<()> {
        match self {
            KeptWriter::Arrow(mut writer) => writer.finish()?,
            KeptWriter::Parquet(writer) => drop(writer.close()?),
        }
        Ok(())
    }
}
