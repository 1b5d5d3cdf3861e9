//! Spans on their way from the readers to `resolve`: written as they are read, taken back rollout by rollout.
//!
//! Readers meet spans in the order of the files; `resolve` wants whole rollouts, sorted, a few at a time. A small input stays in memory.
//! A large one goes to temporary files as runs of `[length: u32][postcard]`: those spans of one block that say the same of their rollout.
//! What is kept in memory is where each run lies. When the joins between traces are known, the runs are sorted by rollout and cut into
//! partitions that fit in memory.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result};

use crate::trace::resolve::{Components, locator, rollout_of};
use crate::trace::span::Span;

/// Bytes of encoded spans in one partition: what `resolve` and the Parquet writer make of it is about six times that. Small ones are worked
/// on in memory that the one before has left, where large ones had a quarter of the CPU time go by in the kernel, clearing fresh pages.
const PARTITION_BYTES: u64 = 2 << 20;
/// Below this much input nothing is written to disk.
const MEMORY_BYTES: u64 = 32 << 20;

/// All spans of one ingest.
pub struct Spill {
    in_memory: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    spans: Vec<Span>,
    files: Vec<Arc<File>>,
    /// Files that no reader writes to now, and their lengths: there are no more files than readers at one time.
    idle: Vec<(u32, u64)>,
    runs: Vec<Run>,
    /// One encoded locator for each key; about 100 bytes a trace.
    locators: HashMap<u64, Box<[u8]>>,
}

/// Neighbouring records with one locator.
#[derive(Debug, Clone, Copy)]
struct Run {
    key: u64,
    file: u32,
    offset: u64,
    length: u32,
}

/// One reader's way in, with a temporary file to itself.
pub struct Writer<'a> {
    spill: &'a Spill,
    place: Option<Place>,
    runs: Vec<Run>,
    locators: HashMap<u64, Box<[u8]>>,
}

/// Where a reader writes.
struct Place {
    index: u32,
    file: Arc<File>,
    /// Bytes in the file.
    offset: u64,
}

/// The spans of whole rollouts, sorted by rollout from one partition to the next.
pub enum Partition {
    Spans(Vec<Span>),
    Runs(Vec<u32>),
}

impl Spill {
    /// For an input of about `input_bytes` (decompressed).
    pub fn new(input_bytes: u64) -> Self {
        Self { in_memory: input_bytes <= MEMORY_BYTES, state: Mutex::default() }
    }

    pub fn writer(&self) -> Writer<'_> {
        Writer { spill: self, place: None, runs: Vec::new(), locators: HashMap::new() }
    }

    /// A file that nobody writes to, or a new one.
    fn place(&self) -> Result<Place> {
        let mut state = locked(&self.state);
        if let Some((index, offset)) = state.idle.pop() {
            return Ok(Place { index, file: Arc::clone(&state.files[index as usize]), offset });
        }
        let file = Arc::new(tempfile::tempfile().context(WRITE)?);
        let index = state.files.len() as u32;
        state.files.push(Arc::clone(&file));
        Ok(Place { index, file, offset: 0 })
    }

    /// Cuts the spans into partitions, now that all are here.
    ///
    /// * `files`: paths or URLs as given to ingest, by `Origin::file`.
    pub fn partitions(&self, components: &Components, files: &[String]) -> Result<Vec<Partition>> {
        let mut state = locked(&self.state);
        if self.in_memory {
            return Ok(vec![Partition::Spans(std::mem::take(&mut state.spans))]);
        }
        let mut rollouts = HashMap::with_capacity(state.locators.len());
        for (key, locator) in std::mem::take(&mut state.locators) {
            let locator: Span = postcard::from_bytes(&locator).context("a locator cannot be read back")?;
            rollouts.insert(key, rollout_of(&locator, components, files).0);
        }
        let mut order: Vec<(&str, u32)> = state.runs.iter().zip(0..).map(|(run, index)| (&*rollouts[&run.key], index)).collect();
        order.sort_unstable();
        let mut partitions = Vec::new();
        let (mut indices, mut size_bytes) = (Vec::new(), 0);
        for rollout in order.chunk_by(|(before, _), (after, _)| before == after) {
            let bytes: u64 = rollout.iter().map(|(_, index)| u64::from(state.runs[*index as usize].length)).sum();
            if size_bytes > 0 && size_bytes + bytes > PARTITION_BYTES {
                partitions.push(Partition::Runs(std::mem::take(&mut indices)));
                size_bytes = 0;
            }
            indices.extend(rollout.iter().map(|(_, index)| *index));
            size_bytes += bytes;
        }
        if !indices.is_empty() {
            partitions.push(Partition::Runs(indices));
        }
        Ok(partitions)
    }

    /// Every span of a partition, in the order of its origin, whatever thread read it.
    pub fn take(&self, partition: Partition) -> Result<Vec<Span>> {
        let mut spans = match partition {
            Partition::Spans(spans) => spans,
            Partition::Runs(indices) => self.read_runs(&indices)?,
        };
        spans.sort_by(|a, b| (a.origin, &a.span_id).cmp(&(b.origin, &b.span_id)));
        Ok(spans)
    }

    fn read_runs(&self, indices: &[u32]) -> Result<Vec<Span>> {
        let mut spans = Vec::new();
        let mut bytes = Vec::new();
        for index in indices {
            let state = locked(&self.state);
            let run = state.runs[*index as usize];
            bytes.resize(run.length as usize, 0);
            state.files[run.file as usize].read_exact_at(&mut bytes, run.offset).context("cannot read a temporary file back")?;
            drop(state);
            let mut rest = bytes.as_slice();
            while let Some((length, tail)) = rest.split_first_chunk::<4>() {
                let (record, tail) = tail.split_at(u32::from_le_bytes(*length) as usize);
                let span = postcard::from_bytes(record)
                    .context("a spilled span cannot be read back; is the temporary folder damaged?")?;
                spans.push(span);
                rest = tail;
            }
        }
        Ok(spans)
    }
}

impl Writer<'_> {
    /// Hands over the spans of one block.
    pub fn push(&mut self, spans: Vec<Span>) -> Result<()> {
        if self.spill.in_memory {
            locked(&self.spill.state).spans.extend(spans);
            return Ok(());
        }
        let mut keyed = Vec::with_capacity(spans.len());
        for span in &spans {
            let locator = postcard::to_stdvec(&locator(span)).context("a locator cannot be written")?;
            let key = key_of(&locator);
            self.locators.entry(key).or_insert_with(|| locator.into());
            keyed.push((key, span));
        }
        keyed.sort_by_key(|(key, _)| *key);
        let place = match &mut self.place {
            Some(place) => place,
            none => none.insert(self.spill.place()?),
        };
        let mut bytes = Vec::new();
        for group in keyed.chunk_by(|(before, _), (after, _)| before == after) {
            let start = bytes.len();
            for (_, span) in group {
                let length_at = bytes.len();
                bytes.extend_from_slice(&[0; 4]);
                bytes = postcard::to_extend(span, bytes).context("a span cannot be spilled")?;
                let length = (bytes.len() - length_at - 4) as u32;
                bytes[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
            }
            let length = (bytes.len() - start) as u32;
            self.runs.push(Run { key: group[0].0, file: place.index, offset: place.offset + start as u64, length });
        }
        (&*place.file).write_all(&bytes).context(WRITE)?;
        place.offset += bytes.len() as u64;
        Ok(())
    }

    /// Makes what was pushed known. Without it nothing is.
    pub fn finish(self) {
        let mut state = locked(&self.spill.state);
        state.idle.extend(self.place.map(|place| (place.index, place.offset)));
        state.runs.extend(self.runs);
        state.locators.extend(self.locators);
    }
}

fn key_of(locator: &[u8]) -> u64 {
    let hash = blake3::hash(locator);
    u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("eight bytes"))
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

const WRITE: &str = "cannot write a temporary file; is the disk full? (TMPDIR names another folder)";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::resolve::Joiner;
    use crate::trace::span::{Link, Origin};

    /// Each line is a trace of its own; a link joins lines 2 k and 2 k + 1.
    fn span(line: u64) -> Span {
        let link = Link { trace_id: format!("t{}", line.saturating_sub(1)), ..Link::default() };
        Span {
            origin: Origin { line, ..Origin::default() },
            span_id: format!("s{line}"),
            trace_id: Some(format!("t{line}")),
            links: if line % 2 == 1 { vec![link] } else { Vec::new() },
            name: "x".repeat(100_000),
            ..Span::default()
        }
    }

    fn check(input_bytes: u64, partitions_expected: bool) {
        let spill = Spill::new(input_bytes);
        let mut joiner = Joiner::default();
        for reader in 0..3 {
            let mut writer = spill.writer();
            for line in (0..999).rev().filter(|line| line % 3 == reader) {
                joiner.see(&span(line));
                writer.push(vec![span(line)]).unwrap();
            }
            writer.finish();
        }
        let components = joiner.finish();
        let partitions = spill.partitions(&components, &[]).unwrap();
        assert_eq!(partitions.len() > 1, partitions_expected);
        let mut all = Vec::new();
        let mut last = String::new();
        for partition in partitions {
            let spans = spill.take(partition).unwrap();
            assert!(spans.is_sorted_by_key(|span| span.origin));
            let mut rollouts: Vec<String> = spans.iter().map(|span| rollout_of(span, &components, &[]).0.into()).collect();
            rollouts.sort();
            assert!(last < rollouts[0], "a rollout is torn apart, or partitions are out of order");
            last = rollouts.pop().unwrap();
            all.extend(spans.iter().map(|span| span.origin.line));
        }
        all.sort_unstable();
        assert_eq!(all, (0..999).collect::<Vec<_>>());
    }

    #[test]
    fn rollouts_come_back_whole_and_in_order() {
        check(0, false);
        check(200 << 20, true);
    }
}
