//! Writes one table of a run: rows are checked, cut into chunks that do not depend on how they came, encoded, and rolled over by size.

use std::io::{self, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, ensure};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, make_comparator};
use arrow::compute::{SortOptions, concat_batches};
use arrow::datatypes::DataType;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, WriteMultipart};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use tempfile::NamedTempFile;
use tokio::io::AsyncReadExt;
use tokio::task::JoinHandle;

use super::commit::{Progress, Written};
use super::manifest::DataFile;
use super::{local, parquet as settings, store};
use crate::schema::Table;

/// A file that has grown this large is closed and the next one begun.
pub const FILE_BYTES: usize = 256 << 20;

/// Rows go to the encoder in chunks of at most so many rows, or so many bytes and the row that reaches them. Pages and row groups end at
/// chunks, so the chunks must follow from the rows alone, or equal rows would not give equal bytes.
const CHUNK_ROWS: usize = 1024;
const CHUNK_BYTES: usize = 4 << 20;

/// Size of the parts of an upload, of which up to four are under way.
const UPLOAD_PART_BYTES: usize = 8 << 20;
const UPLOAD_PARTS_AT_ONCE: usize = 4;

/// Writes one table of a run, in the order of its schema. Holds one row group, encoded, and one chunk of rows.
pub struct TableWriter {
    table: &'static Table,
    target: Target,
    part: u32,
    progress: Arc<Progress>,
    file: Option<OpenFile>,
    /// Rows that do not fill a chunk yet.
    pending: Vec<RecordBatch>,
    pending_rows: usize,
    pending_bytes: usize,
    /// The last row that went to the encoder.
    last_row: Option<RecordBatch>,
    rows: u64,
    closed: Vec<Closed>,
}

/// Where the files of a writer go.
pub struct Target {
    pub store: Arc<dyn ObjectStore>,
    /// The lake's directory, where it is one.
    pub directory: Option<PathBuf>,
    /// Folder of the table's files, relative to the lake.
    pub folder: String,
    pub run_id: String,
    /// `FILE_BYTES`, but for tests.
    pub file_bytes: usize,
    /// Where uploads run while the encoder goes on; without one they wait for `finish`.
    pub runtime: Option<tokio::runtime::Handle>,
}

struct OpenFile {
    encoder: ArrowWriter<Hashing<NamedTempFile>>,
    rows: u64,
}

/// A complete file: in its place already, or on its way there.
enum Closed {
    Stored(DataFile),
    Uploading(JoinHandle<Result<DataFile>>),
    Spooled(DataFile, NamedTempFile),
}

impl TableWriter {
    pub(super) fn new(table: &'static Table, target: Target, part: u32, progress: Arc<Progress>) -> Result<TableWriter> {
        if let Some(directory) = &target.directory {
            let folder = directory.join(&target.folder);
            std::fs::create_dir_all(&folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
        }
        progress.open_writers.fetch_add(1, Ordering::Relaxed);
        Ok(TableWriter {
            table,
            target,
            part,
            progress,
            file: None,
            pending: Vec::new(),
            pending_rows: 0,
            pending_bytes: 0,
            last_row: None,
            rows: 0,
            closed: Vec::new(),
        })
    }

    /// Rows written so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Checks and encodes rows, which have to come in the order that the schema states. Plain synchronous work; an upload that this
    /// makes possible goes on beside it.
    pub fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        let rows = self.table.check(rows)?;
        self.rows += rows.num_rows() as u64;
        let mut from = 0;
        while from < rows.num_rows() {
            let (to, full) = self.chunk_end(&rows, from);
            let slice = rows.slice(from, to - from);
            self.pending_rows += slice.num_rows();
            self.pending_bytes += size_bytes(&slice, 0, slice.num_rows());
            self.pending.push(slice);
            if full {
                self.encode_pending()?;
            }
            from = to;
        }
        Ok(())
    }

    /// Encodes what is left and closes the last file. `finish` does it too, but on one thread for all writers.
    pub fn close(&mut self) -> Result<()> {
        self.encode_pending()?;
        if self.file.is_none() && self.closed.is_empty() {
            self.file = Some(self.open_file()?); // a table without rows still has a file, which states its columns
        }
        self.close_file()
    }

    /// Closes the last file and stores all of them: uploaded, or fsynced where the lake is a directory. In the order of their rows.
    pub async fn finish(mut self) -> Result<Vec<DataFile>> {
        let mut writer = tokio::task::spawn_blocking(move || self.close().map(|()| self)).await.context("encoder panicked")??;
        let mut files = Vec::new();
        for closed in std::mem::take(&mut writer.closed) {
            files.push(match closed {
                Closed::Stored(file) => file,
                Closed::Uploading(upload) => upload.await.context("upload panicked")??,
                Closed::Spooled(file, spool) => upload_spool(Arc::clone(&writer.target.store), file, spool).await?,
            });
        }
        let written = files.iter().map(|file| Written { table: writer.table, part: writer.part, file: file.clone() });
        writer.progress.written.lock().expect("no thread panics while it holds this").extend(written);
        writer.progress.open_writers.fetch_sub(1, Ordering::Relaxed);
        Ok(files)
    }

    /// First row of `rows` after `from` that is not of the current chunk, and whether the chunk is full with those before it.
    fn chunk_end(&self, rows: &RecordBatch, from: usize) -> (usize, bool) {
        let most = rows.num_rows().min(from + CHUNK_ROWS - self.pending_rows);
        let reaches = |to: usize| self.pending_bytes + size_bytes(rows, from, to) >= CHUNK_BYTES;
        if !reaches(most) {
            return (most, self.pending_rows + most - from == CHUNK_ROWS);
        }
        let (mut low, mut high) = (from, most); // `low` does not reach the limit, `high` does
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if reaches(middle) { high = middle } else { low = middle }
        }
        (high, true)
    }

    fn encode_pending(&mut self) -> Result<()> {
        let chunk = match self.pending.as_slice() {
            [] => return Ok(()),
            [whole] => whole.clone(),
            pieces => concat_batches(&self.table.arrow, pieces)?,
        };
        self.pending.clear();
        (self.pending_rows, self.pending_bytes) = (0, 0);
        self.check_order(&chunk)?;
        self.last_row = Some(concat_batches(&self.table.arrow, [&chunk.slice(chunk.num_rows() - 1, 1)])?);
        let mut file = match self.file.take() {
            Some(file) => file,
            None => self.open_file()?,
        };
        file.encoder.write(&chunk)?;
        file.rows += chunk.num_rows() as u64;
        let size = file.encoder.bytes_written() + file.encoder.in_progress_size();
        self.file = Some(file);
        if size >= self.target.file_bytes { self.close_file() } else { Ok(()) }
    }

    /// The footer says that rows are sorted and the bytes depend on it, so a stage that forgot its `order by` is told.
    fn check_order(&self, chunk: &RecordBatch) -> Result<()> {
        let doc = &self.table.doc;
        let columns = |rows: &RecordBatch| -> Result<Vec<ArrayRef>> {
            let found = doc.sorted_by.iter().map(|name| rows.column_by_name(name).cloned());
            found.collect::<Option<_>>().context("a sort column is in the schema")
        };
        let here = columns(chunk)?;
        let first = comparators(&columns(self.last_row.as_ref().unwrap_or(chunk))?, &here)?;
        let within = comparators(&here, &here)?;
        let ordered = |compare: &[Comparator], before, after| {
            compare.iter().map(|compare| compare(before, after)).find(|order| order.is_ne()).is_none_or(|order| order.is_lt())
        };
        let broken = (!ordered(&first, 0, 0)).then_some(0);
        let broken = broken.or_else(|| (1..chunk.num_rows()).find(|&row| !ordered(&within, row - 1, row)));
        ensure!(
            broken.is_none(),
            "row {} of `{}` comes after a row that it should precede: rows have to be sorted by {}",
            self.rows as usize - self.pending_rows - chunk.num_rows() + broken.unwrap_or_default(),
            doc.name,
            doc.sorted_by.join(", ")
        );
        Ok(())
    }

    fn open_file(&self) -> Result<OpenFile> {
        let spool = match &self.target.directory {
            Some(directory) => local::partial_file(&directory.join(&self.target.folder)),
            None => NamedTempFile::new(),
        };
        let spool = spool.with_context(|| format!("cannot make a file for `{}`", self.table.doc.name))?;
        // Our own Arrow schema would add nothing: every reader makes the same plain types of what Parquet says.
        let options = ArrowWriterOptions::new().with_properties(settings::properties(self.table)).with_skip_arrow_metadata(true);
        let encoder = ArrowWriter::try_new_with_options(Hashing::new(spool), Arc::clone(&self.table.arrow), options)?;
        Ok(OpenFile { encoder, rows: 0 })
    }

    fn close_file(&mut self) -> Result<()> {
        let Some(OpenFile { encoder, rows }) = self.file.take() else { return Ok(()) };
        let table = &self.table.doc.name;
        let mut hashed = encoder.into_inner().with_context(|| format!("cannot write `{table}`"))?;
        hashed.flush().with_context(|| format!("cannot write `{table}`"))?;
        let name = format!("part-{}-{:05}-{:03}.parquet", self.target.run_id, self.part, self.closed.len());
        let path = format!("{}/{name}", self.target.folder);
        let file = DataFile { path, rows, size_bytes: hashed.size_bytes, hash: hashed.hash() };
        let mut spool = hashed.inner;
        self.closed.push(match (&self.target.directory, &self.target.runtime) {
            (Some(directory), _) => {
                let path = directory.join(&file.path);
                spool.as_file().sync_all().with_context(|| format!("cannot sync `{}`", path.display()))?;
                spool.persist(&path).with_context(|| format!("cannot write `{}`", path.display()))?;
                Closed::Stored(file)
            }
            (None, runtime) => {
                spool.seek(SeekFrom::Start(0))?;
                match runtime {
                    Some(runtime) => Closed::Uploading(runtime.spawn(upload_spool(Arc::clone(&self.target.store), file, spool))),
                    None => Closed::Spooled(file, spool),
                }
            }
        });
        Ok(())
    }
}

type Comparator = arrow::array::DynComparator;

fn comparators(left: &[ArrayRef], right: &[ArrayRef]) -> Result<Vec<Comparator>> {
    let options = SortOptions { descending: false, nulls_first: false };
    Ok(left.iter().zip(right).map(|(left, right)| make_comparator(left, right, options)).collect::<Result<_, _>>()?)
}

/// Size of rows `from..to`, the same however the batch was cut: values and lengths, without buffers that are shared or spare.
fn size_bytes(rows: &RecordBatch, from: usize, to: usize) -> usize {
    let of_column = |column: &ArrayRef| match column.data_type() {
        DataType::Utf8 => {
            let offsets = column.as_string::<i32>().value_offsets();
            (offsets[to] - offsets[from]) as usize + 4 * (to - from)
        }
        DataType::List(element) => {
            let offsets = column.as_list::<i32>().value_offsets();
            (offsets[to] - offsets[from]) as usize * element.data_type().primitive_width().unwrap_or(4) + 4 * (to - from)
        }
        plain => plain.primitive_width().unwrap_or(1) * (to - from),
    };
    rows.columns().iter().map(of_column).sum()
}

async fn upload_spool(store: Arc<dyn ObjectStore>, file: DataFile, spool: NamedTempFile) -> Result<DataFile> {
    // The path goes with `spool`, the handle is read from here.
    let (handle, _spool) = spool.into_parts();
    upload(store, &Path::from(file.path.as_str()), file.size_bytes, handle, |_| {}).await?;
    Ok(file)
}

/// Uploads a file in parts, without holding more than a few of them.
///
/// * `size_bytes`: chooses between one request and several; what is uploaded is what the file holds.
/// * `look`: is shown everything that is uploaded, in order.
pub(super) async fn upload(
    store: Arc<dyn ObjectStore>,
    path: &Path,
    size_bytes: u64,
    source: std::fs::File,
    mut look: impl FnMut(&[u8]),
) -> Result<()> {
    let doing = format!("cannot store `{path}`");
    let mut source = tokio::fs::File::from_std(source);
    if size_bytes <= UPLOAD_PART_BYTES as u64 {
        let mut bytes = Vec::with_capacity(size_bytes as usize);
        source.read_to_end(&mut bytes).await.context(doing.clone())?;
        look(&bytes);
        store.put(path, bytes.into()).await.map_err(|error| store::fault(error, &doing))?;
        return Ok(());
    }
    let upload = store.put_multipart(path).await.map_err(|error| store::fault(error, &doing))?;
    let mut upload = WriteMultipart::new_with_chunk_size(upload, UPLOAD_PART_BYTES);
    loop {
        let mut bytes = vec![0; UPLOAD_PART_BYTES];
        let read = source.read(&mut bytes).await.context(doing.clone())?;
        if read == 0 {
            break;
        }
        bytes.truncate(read);
        look(&bytes);
        if let Err(error) = upload.wait_for_capacity(UPLOAD_PARTS_AT_ONCE).await {
            // Parts of an upload that nobody completes cost money until a lifecycle rule takes them away.
            upload.abort().await.ok();
            return Err(store::fault(error, &doing));
        }
        upload.put(bytes.into());
    }
    upload.finish().await.map_err(|error| store::fault(error, &doing))?;
    Ok(())
}

/// Hashes and counts what passes through.
pub(super) struct Hashing<W> {
    pub inner: W,
    hasher: blake3::Hasher,
    pub size_bytes: u64,
}

impl<W> Hashing<W> {
    pub fn new(inner: W) -> Self {
        Hashing { inner, hasher: blake3::Hasher::new(), size_bytes: 0 }
    }

    /// BLAKE3 of what has passed so far, as hex.
    pub fn hash(&self) -> String {
        self.hasher.finalize().to_hex().to_string()
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size_bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float64Array, Int64Array, StringArray};

    #[tokio::test]
    async fn a_file_that_has_grown_is_closed_and_the_next_begun() {
        let store = Arc::new(object_store::memory::InMemory::new());
        let target = Target {
            store,
            directory: None,
            folder: "values/batch=b".to_owned(),
            run_id: "run".to_owned(),
            file_bytes: 20_000,
            runtime: None,
        };
        let table = crate::schema::table("values").unwrap();
        let mut writer = TableWriter::new(table, target, 7, Arc::default()).unwrap();
        let rows = 5 * CHUNK_ROWS as i64;
        let ids = (0..rows).map(|step| blake3::hash(&step.to_le_bytes()).to_hex().to_string());
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec!["r"; rows as usize])),
            Arc::new(StringArray::from_iter_values(ids)),
            Arc::new(Int64Array::from_iter_values(0..rows)),
            Arc::new(Float64Array::from(vec![0.5; rows as usize])),
        ];
        writer.write(&RecordBatch::try_new(Arc::clone(&table.arrow), columns).unwrap()).unwrap();
        let files = writer.finish().await.unwrap();
        let paths: Vec<String> =
            (0..files.len()).map(|file| format!("values/batch=b/part-run-00007-{file:03}.parquet")).collect();
        assert_eq!(files.iter().map(|file| &file.path).collect::<Vec<_>>(), paths.iter().collect::<Vec<_>>());
        // 1,024 hashes of 64 hex digits are 33 kB however they are compressed: a file each.
        assert_eq!(files.iter().map(|file| file.rows).collect::<Vec<_>>(), [1024; 5]);
    }
}
