//! Spans on their way from the readers to `resolve`: kept as they are read, taken back rollout by rollout.
//!
//! Readers meet spans in the order of the files; `resolve` wants whole rollouts, sorted, a few at a time. What is kept are runs: those spans
//! of one block that say the same of their rollout. Runs stay in memory until they fill it; those that come after go to temporary files, as
//! `[length: u32][postcard]` for each span. When the joins between traces are known, the runs are sorted by rollout and cut into partitions
//! that fit in memory.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result};

use crate::trace::resolve::{Components, have_one_locator, locator, rollout_of};
use crate::trace::span::Span;

/// Bytes of spans in one partition: what `resolve` and the Parquet writer make of it is a few times that. Small ones are worked on in memory
/// that the one before has left, where large ones had a quarter of the CPU time go by in the kernel, clearing fresh pages.
const PARTITION_BYTES: usize = 4 << 20;
/// Bytes of spans that stay in memory.
const HELD_BYTES: usize = 64 << 20;

/// All spans of one ingest.
pub struct Spill {
    /// `HELD_BYTES`, but for tests.
    limit_bytes: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held_bytes: usize,
    files: Vec<Arc<File>>,
    /// Files that no reader writes to now, and their lengths: there are no more files than readers at one time.
    idle: Vec<(u32, u64)>,
    runs: Vec<Run>,
    /// One encoded locator for each key; about 100 bytes a trace.
    locators: HashMap<u64, Box<[u8]>>,
}

/// Spans of one block with one locator, in the order of the block.
struct Run {
    key: u64,
    /// Of the spans in memory, wherever they are now: partitions do not depend on which run came first.
    size_bytes: usize,
    kept: Kept,
}

enum Kept {
    Spans(Vec<Span>),
    Stored { file: u32, offset: u64, length: usize },
}

/// One reader's way in, with a temporary file to itself where it needs one.
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
pub struct Partition(Vec<Run>);

impl Spill {
    pub fn new() -> Self {
        Self { limit_bytes: HELD_BYTES, state: Mutex::default() }
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

    /// Whether so many bytes more may stay in memory; they are counted if so.
    fn holds(&self, size_bytes: usize) -> bool {
        let mut state = locked(&self.state);
        let held_bytes = state.held_bytes + size_bytes;
        let fits = held_bytes <= self.limit_bytes;
        if fits {
            state.held_bytes = held_bytes;
        }
        fits
    }

    /// Cuts the spans into partitions, now that all are here.
    ///
    /// * `files`: paths or URLs as given to ingest, by `Origin::file`.
    pub fn partitions(&self, components: &Components, files: &[String]) -> Result<Vec<Partition>> {
        let mut state = locked(&self.state);
        let mut rollouts = HashMap::with_capacity(state.locators.len());
        for (key, locator) in std::mem::take(&mut state.locators) {
            let locator: Span = postcard::from_bytes(&locator).context("a locator cannot be read back")?;
            rollouts.insert(key, rollout_of(&locator, components, files).0);
        }
        let mut runs = std::mem::take(&mut state.runs);
        runs.sort_by(|a, b| rollouts[&a.key].cmp(&rollouts[&b.key]));
        let mut partitions = Vec::new();
        let (mut partition, mut partition_bytes) = (Vec::new(), 0);
        let mut runs = runs.into_iter().peekable();
        while let Some(first) = runs.next() {
            let rollout = &rollouts[&first.key];
            let mut whole = vec![first];
            while let Some(run) = runs.next_if(|run| rollouts[&run.key] == *rollout) {
                whole.push(run);
            }
            let size_bytes: usize = whole.iter().map(|run| run.size_bytes).sum();
            if partition_bytes > 0 && partition_bytes + size_bytes > PARTITION_BYTES {
                partitions.push(Partition(std::mem::take(&mut partition)));
                partition_bytes = 0;
            }
            partition.extend(whole);
            partition_bytes += size_bytes;
        }
        if !partition.is_empty() {
            partitions.push(Partition(partition));
        }
        Ok(partitions)
    }

    /// Every span of a partition, in the order of its origin, whatever thread read it.
    pub fn take(&self, partition: Partition) -> Result<Vec<Span>> {
        let mut spans = Vec::new();
        let mut bytes = Vec::new();
        for run in partition.0 {
            match run.kept {
                Kept::Spans(held) => spans.extend(held),
                Kept::Stored { file, offset, length } => {
                    let file = Arc::clone(&locked(&self.state).files[file as usize]);
                    bytes.resize(length, 0);
                    file.read_exact_at(&mut bytes, offset).context("cannot read a temporary file back")?;
                    decode(&bytes, &mut spans)?;
                }
            }
        }
        spans.sort_by(|a, b| (a.origin, &a.span_id).cmp(&(b.origin, &b.span_id)));
        Ok(spans)
    }
}

impl Writer<'_> {
    /// Hands over the spans of one block.
    pub fn push(&mut self, spans: Vec<Span>) -> Result<()> {
        let mut runs: Vec<(u64, Vec<Span>)> = Vec::new();
        let mut places: HashMap<u64, usize> = HashMap::new();
        let mut last = 0;
        for span in spans {
            // Neighbours are of one trace as a rule.
            if runs.get(last).is_none_or(|(_, run): &(u64, Vec<Span>)| !have_one_locator(&run[0], &span)) {
                let key = self.key(&span)?;
                last = *places.entry(key).or_insert(runs.len());
                if last == runs.len() {
                    runs.push((key, Vec::new()));
                }
            }
            runs[last].1.push(span);
        }
        let sizes: Vec<usize> = runs.iter().map(|(_, run)| run.iter().map(Span::size_bytes).sum()).collect();
        if self.spill.holds(sizes.iter().sum()) {
            let held = runs.into_iter().zip(sizes);
            self.runs.extend(held.map(|((key, spans), size_bytes)| Run { key, size_bytes, kept: Kept::Spans(spans) }));
            return Ok(());
        }
        self.store(runs, sizes)
    }

    /// The key of what a span says about its rollout.
    fn key(&mut self, span: &Span) -> Result<u64> {
        let locator = postcard::to_stdvec(&locator(span)).context("a locator cannot be written")?;
        let key = key_of(&locator);
        self.locators.entry(key).or_insert_with(|| locator.into());
        Ok(key)
    }

    fn store(&mut self, runs: Vec<(u64, Vec<Span>)>, sizes: Vec<usize>) -> Result<()> {
        let place = match &mut self.place {
            Some(place) => place,
            none => none.insert(self.spill.place()?),
        };
        let mut bytes = Vec::new();
        for ((key, spans), size_bytes) in runs.iter().zip(sizes) {
            let start = bytes.len();
            for span in spans {
                let length_at = bytes.len();
                bytes.extend_from_slice(&[0; 4]);
                bytes = postcard::to_extend(span, bytes).context("a span cannot be spilled")?;
                let length = (bytes.len() - length_at - 4) as u32;
                bytes[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
            }
            let kept = Kept::Stored { file: place.index, offset: place.offset + start as u64, length: bytes.len() - start };
            self.runs.push(Run { key: *key, size_bytes, kept });
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

/// Spans out of what `Writer::store` made of them.
fn decode(mut bytes: &[u8], spans: &mut Vec<Span>) -> Result<()> {
    while let Some((length, tail)) = bytes.split_first_chunk::<4>() {
        let (record, tail) = tail.split_at(u32::from_le_bytes(*length) as usize);
        let span =
            postcard::from_bytes(record).context("a spilled span cannot be read back; is the temporary folder damaged?")?;
        spans.push(span);
        bytes = tail;
    }
    Ok(())
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
            attributes_json: Some("x".repeat(100_000)),
            ..Span::default()
        }
    }

    fn check(limit_bytes: usize) {
        let spill = Spill { limit_bytes, ..Spill::new() };
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
        assert_eq!(locked(&spill.state).files.is_empty(), limit_bytes > 200 << 20);
        assert!(partitions.len() > 10);
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
        for limit_bytes in [0, 20 << 20, 256 << 20] {
            check(limit_bytes);
        }
    }
}
