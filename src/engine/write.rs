//! Rows of a plan into a table of the lake, or into temporary Parquet.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use arrow::array::RecordBatch;
use datafusion::physical_plan::{
    ExecutionPlan, SendableRecordBatchStream, displayable, execute_stream, execute_stream_partitioned,
};
use datafusion::prelude::DataFrame;
use futures::StreamExt;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use tokio::sync::mpsc;

use super::grain::GrainCheck;
use crate::lake::{DataFile, Run};
use crate::schema::Table;
use crate::stage::Stop;

/// Batches that wait for the encoder at most.
const QUEUE: usize = 4;

/// Writes a sorted plan as `table`, checking every row against the schema, the order and the grain. Encoding runs on a thread beside the
/// query.
pub(super) async fn table(rows: DataFrame, table: &Table, grain: &[String], run: &Run, stop: &Stop) -> Result<Vec<DataFile>> {
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
    let tasks = Arc::new(rows.task_ctx());
    let mut stream = execute_stream(physical(rows, &table.doc.name).await?, tasks)?;
    while let Some(batch) = stream.next().await {
        stop.check()?;
        if sender.send(batch?).await.is_err() {
            break; // the encoder failed: its own error tells why
        }
    }
    drop(sender);
    encoder.await.context("the thread that encodes rows panicked")??.finish().await
}

/// Writes every partition of a plan to a Parquet file in `folder`, rows in the order that they come, and returns the files.
pub(super) async fn temporary(rows: DataFrame, folder: &Path, name: &str, stop: &Stop) -> Result<Vec<PathBuf>> {
    let tasks = Arc::new(rows.task_ctx());
    let streams = execute_stream_partitioned(physical(rows, name).await?, tasks)?;
    let tasks: Vec<_> = streams
        .into_iter()
        .enumerate()
        .map(|(part, stream)| {
            let path = folder.join(format!("{name}-{part}.parquet"));
            tokio::spawn(partition(stream, path, stop.clone()))
        })
        .collect();
    let mut files = Vec::new();
    for task in tasks {
        files.push(task.await.context("the task that writes a relation panicked")??);
    }
    Ok(files)
}

/// The plan that runs, told to whoever looks for what makes it slow (`RUST_LOG=fulgurite::engine=debug`).
async fn physical(rows: DataFrame, name: &str) -> Result<Arc<dyn ExecutionPlan>> {
    let plan = rows.create_physical_plan().await?;
    tracing::debug!("plan of `{name}`:\n{}", displayable(plan.as_ref()).indent(false));
    Ok(plan)
}

async fn partition(mut stream: SendableRecordBatchStream, path: PathBuf, stop: Stop) -> Result<PathBuf> {
    // Read once or twice within seconds and then deleted: neither compression nor dictionaries pay.
    let properties = WriterProperties::builder()
        .set_compression(Compression::UNCOMPRESSED)
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .build();
    let file = File::create(&path).with_context(|| format!("cannot create `{}`", path.display()))?;
    let mut writer = ArrowWriter::try_new(file, stream.schema(), Some(properties))?;
    while let Some(batch) = stream.next().await {
        stop.check()?;
        writer.write(&batch?)?;
    }
    writer.close()?;
    Ok(path)
}
