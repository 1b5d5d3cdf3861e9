//! Rows as a table, CSV, JSON lines or Parquet, on stdout or in a file.

use std::io::{ErrorKind, IsTerminal as _, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use arrow::array::{Array as _, ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt as _;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use super::mistake;
use crate::commands::table::{Column, cut, render};
use crate::exit::Fault;
use crate::stage::Stop;

/// Characters of a cell that a table shows; the other forms have everything.
const CELL_CHARACTERS: usize = 60;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For the eye; long cells are cut.
    Table,
    /// With a head; lists as text.
    Csv,
    /// One JSON object a line.
    Jsonl,
    Parquet,
}

/// Where rows go, and in which form.
#[derive(Debug, Clone)]
pub struct Target {
    format: Format,
    file: Option<PathBuf>,
}

impl Target {
    /// The form that was asked for, else the one that the file's ending names.
    pub fn new(format: Option<Format>, file: Option<PathBuf>) -> Result<Target> {
        let ending = file.as_ref().and_then(|path| path.extension()).and_then(|ending| ending.to_str());
        let format = format.unwrap_or(match ending {
            Some("csv") => Format::Csv,
            Some("jsonl" | "ndjson") => Format::Jsonl,
            Some("parquet") => Format::Parquet,
            _ => Format::Table,
        });
        if format == Format::Parquet && file.is_none() && std::io::stdout().is_terminal() {
            let message = "Parquet is nothing for a terminal: name a file with `--output`";
            return Err(Fault::Usage(message.to_owned()).into());
        }
        Ok(Target { format, file })
    }

    pub fn is_file(&self) -> bool {
        self.file.is_some()
    }

    /// Whether rows go to stdout for the eye, so that text beside them is in nobody's way.
    pub fn is_table_on_stdout(&self) -> bool {
        self.format == Format::Table && self.file.is_none()
    }

    /// Text that is no rows.
    pub fn text(&self, text: &str) -> Result<()> {
        self.in_place(|out| Ok(out.write_all(text.as_bytes())?))
    }

    /// Writes all rows as they come, except for a table, whose widths need them all.
    pub async fn write(&self, mut rows: SendableRecordBatchStream, query: &str, stop: &Stop) -> Result<()> {
        let schema = rows.schema();
        let (sender, receiver) = std::sync::mpsc::sync_channel::<RecordBatch>(2);
        let target = self.clone();
        // Encoding and writing block, so they have a thread of their own.
        let writer = tokio::task::spawn_blocking(move || {
            target.in_place(|out| match target.format {
                Format::Table => table(out, &schema, receiver),
                Format::Csv => csv(out, &schema, receiver),
                Format::Jsonl => jsonl(out, receiver),
                Format::Parquet => parquet(out, &schema, receiver),
            })
        });
        let mut failed = None;
        while let Some(batch) = rows.next().await {
            let batch = batch
                .map_err(|error| mistake::fault(query, &error))
                .and_then(|batch| stop.check().map(|()| batch).map_err(Into::into));
            match batch {
                // The writer ends early where it failed: its own error says why.
                Ok(batch) => {
                    if tokio::task::block_in_place(|| sender.send(batch)).is_err() {
                        break;
                    }
                }
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        if let Some(error) = failed {
            writer.abort();
            return Err(error);
        }
        drop(sender);
        writer.await.context("the writer stopped")?
    }

    /// Runs `write` on stdout, or on a file that appears under its name once it is whole.
    fn in_place(&self, write: impl FnOnce(&mut (dyn Write + Send)) -> Result<()>) -> Result<()> {
        let Some(path) = &self.file else {
            let mut out = std::io::BufWriter::new(Stdout { closed: false });
            let written = write(&mut out).and_then(|()| Ok(out.flush()?));
            return if out.get_ref().closed { Err(std::io::Error::from(ErrorKind::BrokenPipe).into()) } else { written };
        };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(std::path::Path::new("."));
        if !folder.is_dir() {
            let message = format!("cannot write `{}`: there is no folder `{}`", path.display(), folder.display());
            return Err(Fault::Usage(message).into());
        }
        let file = tempfile::Builder::new()
            .permissions(std::fs::Permissions::from_mode(0o666)) // less what the umask takes, as for any new file
            .tempfile_in(folder)
            .map_err(|error| Fault::Usage(format!("cannot write `{}`: {error}", path.display())))?;
        let mut out = std::io::BufWriter::new(file);
        write(&mut out)?;
        let file = out.into_inner().with_context(|| format!("cannot write `{}`", path.display()))?;
        file.persist(path).with_context(|| format!("cannot write `{}`", path.display()))?;
        Ok(())
    }
}

/// Stdout that remembers whether its reader went away: the encoders turn that error into text.
struct Stdout {
    closed: bool,
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = std::io::stdout().write(bytes);
        self.closed |= written.as_ref().is_err_and(|error| error.kind() == ErrorKind::BrokenPipe);
        written
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stdout().flush()
    }
}

type Batches = std::sync::mpsc::Receiver<RecordBatch>;

fn table(out: &mut (dyn Write + Send), schema: &Schema, batches: Batches) -> Result<()> {
    let columns: Vec<Column> = schema
        .fields()
        .iter()
        .map(|field| Column { head: field.name().clone(), right: field.data_type().is_numeric() })
        .collect();
    let mut rows = Vec::new();
    for batch in batches {
        let cells = batch.columns().iter().map(texts).collect::<Result<Vec<_>>>()?;
        rows.extend((0..batch.num_rows()).map(|row| {
            cells
                .iter()
                .map(|column| if column.is_null(row) { String::new() } else { cut(column.value(row), CELL_CHARACTERS) })
                .collect()
        }));
    }
    out.write_all(render(&columns, &rows).as_bytes())?;
    let plural = if rows.len() == 1 { "" } else { "s" };
    Ok(writeln!(out, "({} row{plural})", rows.len())?)
}

fn csv(out: &mut (dyn Write + Send), schema: &Schema, batches: Batches) -> Result<()> {
    let schema = Arc::new(flat_schema(schema));
    let mut writer = arrow::csv::WriterBuilder::new().with_header(true).build(out);
    // The head is there even where no row is.
    writer.write(&RecordBatch::new_empty(Arc::clone(&schema)))?;
    for batch in batches {
        let columns = batch.columns().iter().map(flat).collect::<Result<Vec<_>>>()?;
        writer.write(&RecordBatch::try_new(Arc::clone(&schema), columns)?)?;
    }
    Ok(())
}

fn jsonl(out: &mut (dyn Write + Send), batches: Batches) -> Result<()> {
    let mut writer = arrow::json::LineDelimitedWriter::new(out);
    for batch in batches {
        writer.write(&batch)?;
    }
    Ok(writer.finish()?)
}

fn parquet(out: &mut (dyn Write + Send), schema: &Arc<Schema>, batches: Batches) -> Result<()> {
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
    let mut writer = ArrowWriter::try_new(out, Arc::clone(schema), Some(properties))?;
    for batch in batches {
        writer.write(&batch)?;
    }
    writer.close()?;
    Ok(())
}

/// CSV has no lists: they become text.
fn flat_schema(schema: &Schema) -> Schema {
    let fields = schema.fields().iter().map(|field| match field.data_type().is_nested() {
        true => Arc::new(Field::new(field.name(), DataType::Utf8, true)),
        false => Arc::clone(field),
    });
    Schema::new(fields.collect::<Vec<_>>())
}

fn flat(column: &ArrayRef) -> Result<ArrayRef> {
    if column.data_type().is_nested() { Ok(Arc::new(texts(column)?)) } else { Ok(Arc::clone(column)) }
}

/// Each value as text; null stays null.
fn texts(column: &ArrayRef) -> Result<StringArray> {
    let formatter = ArrayFormatter::try_new(column, &FormatOptions::default())?;
    Ok((0..column.len()).map(|row| (!column.is_null(row)).then(|| formatter.value(row).to_string())).collect())
}
