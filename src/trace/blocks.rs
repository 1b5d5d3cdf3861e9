//! A file's decompressed bytes in blocks that can be read in parallel: each holds whole records.

use std::io::{self, Read};
use std::ops::Range;

use super::container::{ReadOptions, Sink, read_json, read_proto};
use super::detect::{Layout, ZSTD_MAGIC, layout};
use super::reject::{MAX_RAW_BYTES, Reject};
use super::span::Origin;
use super::split::{Piece, Scanner, newlines};

/// Decompressed bytes in a block, unless one record is larger.
const BLOCK_BYTES: usize = if cfg!(fuzzing) { 256 } else { 2 << 20 };
/// What is looked at to find the layout.
const START_BYTES: usize = 64 << 10;

/// Whole records of one file.
pub struct Block {
    file: u32,
    /// Offset of the first byte in the decompressed file.
    offset: u64,
    /// Number of the first line, from 1; of the first message, for framed files.
    line: u64,
    bytes: Vec<u8>,
    content: Content,
    stored_bytes: u64,
}

enum Content {
    Lines,
    /// Records and garbage, with the newlines before each.
    Pieces(Vec<Piece>),
    Messages(Vec<Range<usize>>),
    /// Something that cannot be used: `bytes` are the first of so many.
    Reject {
        reject: Option<Reject>,
        size_bytes: u64,
    },
}

/// The blocks of one file, in order. Reading ends at the first error; what came before it is used, the rest is one reject.
pub struct Blocks {
    reader: Box<dyn Read + Send>,
    file: u32,
    max_record_bytes: usize,
    buffer: Vec<u8>,
    offset: u64,
    line: u64,
    ended: bool,
    error: Option<io::Error>,
    state: State,
}

enum State {
    Start,
    Lines,
    Document(Scanner),
    Message,
    Framed,
    Done,
}

impl Blocks {
    pub fn new(reader: Box<dyn Read + Send>, file: u32, max_record_bytes: usize) -> Self {
        let (buffer, offset, line) = (Vec::new(), 0, 1);
        Self { reader, file, max_record_bytes, buffer, offset, line, ended: false, error: None, state: State::Start }
    }

    /// Reads until the buffer holds `count` bytes or the file ends.
    fn fill(&mut self, count: usize) {
        if self.ended || self.buffer.len() >= count {
            return;
        }
        let missing = (count - self.buffer.len()) as u64;
        match (&mut self.reader).take(missing).read_to_end(&mut self.buffer) {
            Ok(read) => self.ended = (read as u64) < missing,
            Err(error) => {
                self.ended = true;
                self.error = Some(error);
            }
        }
    }

    /// Takes the first `count` bytes of the buffer as a block.
    fn take(&mut self, count: usize, lines: u64, content: Content) -> Block {
        let rest = self.buffer.split_off(count);
        let bytes = std::mem::replace(&mut self.buffer, rest);
        self.advance(bytes, count as u64, lines, content)
    }

    fn advance(&mut self, bytes: Vec<u8>, count: u64, lines: u64, content: Content) -> Block {
        let block = Block { file: self.file, offset: self.offset, line: self.line, bytes, content, stored_bytes: count };
        self.offset += count;
        self.line += lines;
        block
    }

    fn reject(&mut self, reject: Reject) -> Block {
        let count = self.buffer.len();
        let lines = newlines(&self.buffer);
        self.take(count, lines, Content::Reject { reject: Some(reject), size_bytes: count as u64 })
    }

    fn start(&mut self) -> Option<Block> {
        self.fill(START_BYTES);
        self.state = match layout(&self.buffer) {
            Layout::Empty if self.ended => State::Done,
            Layout::Empty | Layout::JsonLines => State::Lines,
            Layout::JsonDocument => State::Document(Scanner::default()),
            Layout::Message => State::Message,
            Layout::Framed => State::Framed,
            Layout::Unknown => {
                self.state = State::Done;
                self.buffer.truncate(MAX_RAW_BYTES);
                return Some(self.reject(Reject::NotATraceFile));
            }
        };
        None
    }

    fn lines(&mut self) -> Option<Block> {
        let mut wanted = BLOCK_BYTES;
        loop {
            self.fill(wanted);
            if self.ended {
                self.state = State::Done;
                let count = self.buffer.len();
                let lines = newlines(&self.buffer);
                return (count > 0).then(|| self.take(count, lines, Content::Lines));
            }
            if let Some(end) = memchr::memrchr(b'\n', &self.buffer) {
                let lines = newlines(&self.buffer[..=end]);
                return Some(self.take(end + 1, lines, Content::Lines));
            }
            if self.buffer.len() > self.max_record_bytes {
                return Some(self.skip_line());
            }
            wanted = self.buffer.len() * 2;
        }
    }

    /// A line that is too long: kept are its first bytes, and where the next one begins.
    fn skip_line(&mut self) -> Block {
        let mut first = std::mem::take(&mut self.buffer);
        let mut size_bytes = first.len() as u64;
        first.truncate(MAX_RAW_BYTES);
        loop {
            self.fill(BLOCK_BYTES);
            match memchr::memchr(b'\n', &self.buffer) {
                Some(end) => {
                    size_bytes += end as u64;
                    self.buffer.drain(..=end);
                    let content =
                        Content::Reject { reject: Some(Reject::TooLarge { limit_bytes: self.max_record_bytes }), size_bytes };
                    return self.advance(first, size_bytes + 1, 1, content);
                }
                None => {
                    size_bytes += self.buffer.len() as u64;
                    self.buffer.clear();
                    if self.ended {
                        let content =
                            Content::Reject { reject: Some(Reject::TooLarge { limit_bytes: self.max_record_bytes }), size_bytes };
                        return self.advance(first, size_bytes, 0, content);
                    }
                }
            }
        }
    }

    fn document(&mut self, mut scanner: Scanner) -> Option<Block> {
        let mut wanted = BLOCK_BYTES;
        loop {
            self.fill(wanted);
            let (pieces, consumed) = scanner.scan(&self.buffer);
            if consumed > 0 {
                let lines = newlines(&self.buffer[..consumed]);
                self.state = State::Document(scanner);
                return Some(self.take(consumed, lines, Content::Pieces(pieces)));
            }
            if self.ended {
                self.state = State::Done;
                let cut = !self.buffer.is_empty();
                return cut.then(|| self.reject(Reject::Truncated));
            }
            if self.buffer.len() > self.max_record_bytes {
                // A record that does not end: its end could only be found by reading on, and what follows it could not be trusted.
                return Some(self.skip_rest(Reject::TooLarge { limit_bytes: self.max_record_bytes }));
            }
            wanted = self.buffer.len() * 2;
        }
    }

    /// Gives up on the file from here on, and says how much that is.
    fn skip_rest(&mut self, reject: Reject) -> Block {
        let mut first = std::mem::take(&mut self.buffer);
        let mut size_bytes = first.len() as u64;
        first.truncate(MAX_RAW_BYTES);
        while !self.ended {
            self.fill(BLOCK_BYTES);
            size_bytes += self.buffer.len() as u64;
            self.buffer.clear();
        }
        self.state = State::Done;
        self.advance(first, size_bytes, 0, Content::Reject { reject: Some(reject), size_bytes })
    }

    fn message(&mut self) -> Option<Block> {
        self.fill(self.max_record_bytes + 1);
        self.state = State::Done;
        if !self.ended {
            return Some(self.skip_rest(Reject::TooLarge { limit_bytes: self.max_record_bytes }));
        }
        if self.error.is_some() {
            return Some(self.reject(Reject::Truncated));
        }
        let count = self.buffer.len();
        let message = 0..count;
        Some(self.take(count, 1, Content::Messages(vec![message])))
    }

    fn framed(&mut self) -> Option<Block> {
        self.fill(BLOCK_BYTES);
        let mut messages = Vec::new();
        let mut at = 0;
        while let Some((length, rest)) = self.buffer[at..].split_first_chunk::<4>() {
            let length = u32::from_be_bytes(*length) as usize;
            if length > rest.len() {
                break;
            }
            messages.push(at + 4..at + 4 + length);
            at += 4 + length;
        }
        if at > 0 {
            let count = messages.len() as u64;
            return Some(self.take(at, count, Content::Messages(messages)));
        }
        if self.buffer.is_empty() {
            self.state = State::Done;
            return None;
        }
        let length = self.buffer.first_chunk::<4>().map(|length| u32::from_be_bytes(*length) as usize);
        match length {
            Some(length) if length > self.max_record_bytes => {
                Some(self.skip_rest(Reject::TooLarge { limit_bytes: self.max_record_bytes }))
            }
            Some(length) if !self.ended => {
                self.fill(4 + length);
                self.framed()
            }
            _ => {
                self.state = State::Done;
                Some(self.reject(Reject::Truncated))
            }
        }
    }
}

impl Iterator for Blocks {
    type Item = Block;

    fn next(&mut self) -> Option<Block> {
        loop {
            let state = std::mem::replace(&mut self.state, State::Done);
            let block = match state {
                State::Start => match self.start() {
                    None => continue,
                    block => block,
                },
                State::Lines => {
                    self.state = State::Lines;
                    self.lines()
                }
                State::Document(scanner) => self.document(scanner),
                State::Message => self.message(),
                State::Framed => {
                    self.state = State::Framed;
                    self.framed()
                }
                State::Done => {
                    let error = self.error.take()?;
                    self.buffer.clear();
                    Some(self.reject(Reject::Compression(error)))
                }
            };
            if block.is_some() {
                return block;
            }
            if matches!(self.state, State::Done) && self.error.is_none() {
                return None;
            }
        }
    }
}

impl Block {
    /// Reads every record of the block; how many there were.
    pub fn read(mut self, options: &ReadOptions, sink: &mut Sink, max_record_bytes: usize) -> u64 {
        let content = std::mem::replace(&mut self.content, Content::Lines);
        match content {
            Content::Lines => self.read_lines(options, sink, max_record_bytes),
            Content::Pieces(pieces) => self.read_pieces(&pieces, options, sink),
            Content::Messages(messages) => self.read_messages(&messages, options, sink, max_record_bytes),
            Content::Reject { reject, size_bytes } => {
                if let Some(reject) = reject {
                    sink.reject(self.origin(0, 0), reject, &self.bytes);
                    if let Some(rejected) = sink.rejects.last_mut() {
                        rejected.size_bytes = size_bytes;
                    }
                }
                1
            }
        }
    }

    /// Bytes of the decompressed file that the block stands for.
    pub fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    fn origin(&self, line: u64, offset: usize) -> Origin {
        Origin { file: self.file, line: self.line + line, offset: self.offset + offset as u64, position: 0 }
    }

    fn read_lines(&self, options: &ReadOptions, sink: &mut Sink, max_record_bytes: usize) -> u64 {
        let mut records = 0;
        let mut start = 0;
        let ends = memchr::memchr_iter(b'\n', &self.bytes).chain([self.bytes.len()]);
        for (number, end) in ends.enumerate() {
            let offset = start;
            let line = &self.bytes[start..end];
            start = end + 1;
            let line = if self.offset == 0 && number == 0 { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line) } else { line };
            let record = line.trim_ascii();
            if record.is_empty() {
                continue;
            }
            let origin = self.origin(number as u64, offset);
            if record.len() > max_record_bytes {
                sink.reject(origin, Reject::TooLarge { limit_bytes: max_record_bytes }, record);
            } else if record[0] == b'[' {
                read_elements(record, origin, options, sink);
            } else {
                match read_json(record, origin, options, sink) {
                    Ok(()) => {}
                    // A document over many lines among those of one line each: from here on, brackets say where records end.
                    Err(Reject::Truncated) => return records + self.read_documents(offset, number as u64, options, sink),
                    Err(Reject::Json(_)) if is_several(record) => read_elements(record, origin, options, sink),
                    Err(reject) => sink.reject(origin, reject, record),
                }
            }
            records += 1;
        }
        records
    }

    /// Reads what follows byte `start` of the block, which begins its line `first_line` (from 0), as documents.
    fn read_documents(&self, start: usize, first_line: u64, options: &ReadOptions, sink: &mut Sink) -> u64 {
        let text = &self.bytes[start..];
        let mut scanner = Scanner::default();
        let (pieces, consumed) = scanner.scan(text);
        for piece in &pieces {
            match piece {
                Piece::Record { range, line } => {
                    read_record(&text[range.clone()], self.origin(first_line + line, start + range.start), options, sink);
                }
                Piece::Garbage { range, line } => {
                    let garbage = &text[range.clone()];
                    sink.reject(self.origin(first_line + line, start + range.start), garbage_reject(garbage), garbage);
                }
            }
        }
        if !scanner.is_open() {
            return pieces.len() as u64;
        }
        let line = first_line + newlines(&text[..consumed]);
        sink.reject(self.origin(line, start + consumed), Reject::Truncated, &text[consumed..]);
        pieces.len() as u64 + 1
    }

    fn read_pieces(&self, pieces: &[Piece], options: &ReadOptions, sink: &mut Sink) -> u64 {
        for piece in pieces {
            match piece {
                Piece::Record { range, line } => {
                    read_record(&self.bytes[range.clone()], self.origin(*line, range.start), options, sink);
                }
                Piece::Garbage { range, line } => {
                    let garbage = &self.bytes[range.clone()];
                    sink.reject(self.origin(*line, range.start), garbage_reject(garbage), garbage);
                }
            }
        }
        pieces.len() as u64
    }

    fn read_messages(&self, messages: &[Range<usize>], options: &ReadOptions, sink: &mut Sink, max_record_bytes: usize) -> u64 {
        for (number, range) in messages.iter().enumerate() {
            let origin = self.origin(number as u64, range.start);
            let stored = &self.bytes[range.clone()];
            if !stored.starts_with(&ZSTD_MAGIC) {
                read_message(stored, origin, options, sink);
                continue;
            }
            let mut message = Vec::new();
            let decoded = zstd::stream::read::Decoder::new(stored)
                .and_then(|decoder| decoder.take(max_record_bytes as u64 + 1).read_to_end(&mut message));
            match decoded {
                Err(error) => sink.reject(origin, Reject::Compression(error), &message),
                Ok(size) if size > max_record_bytes => {
                    sink.reject(origin, Reject::TooLarge { limit_bytes: max_record_bytes }, &message);
                }
                Ok(_) => read_message(&message, origin, options, sink),
            }
        }
        messages.len() as u64
    }
}

/// A framed message: protobuf, or JSON (which no protobuf begins like).
fn read_message(message: &[u8], origin: Origin, options: &ReadOptions, sink: &mut Sink) {
    if message.starts_with(b"{") {
        return read_record(message, origin, options, sink);
    }
    if let Err(reject) = read_proto(message, origin, options, sink) {
        sink.reject(origin, reject, message);
    }
}

fn read_record(record: &[u8], origin: Origin, options: &ReadOptions, sink: &mut Sink) {
    if let Err(reject) = read_json(record, origin, options, sink) {
        sink.reject(origin, reject, record);
    }
}

/// Whether a line holds several records after each other.
fn is_several(line: &[u8]) -> bool {
    let (pieces, _) = Scanner::default().scan(line);
    pieces.len() > 1 && pieces.iter().all(|piece| matches!(piece, Piece::Record { .. }))
}

/// Text that the scanner could make nothing of is the beginning of a record, or none at all.
fn garbage_reject(text: &[u8]) -> Reject {
    if text.starts_with(b"{") { Reject::Truncated } else { Reject::NotARecord }
}

/// A line that holds an array of records, or several after each other.
fn read_elements(line: &[u8], origin: Origin, options: &ReadOptions, sink: &mut Sink) {
    let mut scanner = Scanner::default();
    let (pieces, consumed) = scanner.scan(line);
    for piece in pieces {
        let (Piece::Record { range, .. } | Piece::Garbage { range, .. }) = &piece;
        let origin = Origin { offset: origin.offset + range.start as u64, ..origin };
        match &piece {
            Piece::Record { range, .. } => read_record(&line[range.clone()], origin, options, sink),
            Piece::Garbage { range, .. } => sink.reject(origin, garbage_reject(&line[range.clone()]), &line[range.clone()]),
        }
    }
    if scanner.is_open() {
        sink.reject(Origin { offset: origin.offset + consumed as u64, ..origin }, Reject::Truncated, &line[consumed..]);
    }
}
