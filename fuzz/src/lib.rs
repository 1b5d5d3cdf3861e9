//! What the targets share: bytes read as one file, and what must hold of the spans and rows that come of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;

use fulgurite::trace::blocks::Blocks;
use fulgurite::trace::container::{ReadOptions, Sink, read_json};
use fulgurite::trace::resolve::{Components, Joiner, Row, locator, resolve, rollout_of};
use fulgurite::trace::span::{Kind, Origin, Span};
use serde_json::value::RawValue;

/// Longest record that is read: small, so that inputs reach it.
const MAX_RECORD_BYTES: usize = 16 << 10;

/// Reads bytes as ingest reads a decompressed file.
pub fn read_file(bytes: &[u8]) -> Sink {
    let options = ReadOptions::default();
    let mut sink = Sink::default();
    for block in Blocks::new(Box::new(Cursor::new(bytes.to_vec())), 0, MAX_RECORD_BYTES) {
        let before = sink.spans.len() + sink.rejects.len();
        let records = block.read(&options, &mut sink, MAX_RECORD_BYTES);
        assert!(records > 0 || before == sink.spans.len() + sink.rejects.len(), "a record came of no record");
    }
    sink
}

/// Reads one record of JSON, which ends as a span, as a reject, or had nothing in it.
pub fn read_record(record: &[u8]) {
    let (options, mut sink) = (ReadOptions::default(), Sink::default());
    let read = read_json(record, Origin::default(), &options, &mut sink);
    let came = sink.spans.len() + sink.rejects.len();
    match read {
        Err(_) => assert_eq!(came, 0, "a record that was refused left something behind"),
        Ok(()) => assert!(came > 0 || is_empty_export(record), "a record is lost"),
    }
}

/// An OTLP request without a span or a log record in it.
fn is_empty_export(record: &[u8]) -> bool {
    fn items(value: &serde_json::Value) -> usize {
        match value {
            serde_json::Value::Array(elements) => elements.iter().map(items).sum(),
            serde_json::Value::Object(members) => members
                .iter()
                .map(|(key, value)| match key.as_str() {
                    "spans" | "logRecords" | "log_records" | "logs" => value.as_array().map_or(0, Vec::len),
                    _ => items(value),
                })
                .sum(),
            _ => 0,
        }
    }
    serde_json::from_slice(record).is_ok_and(|record| items(&record) == 0)
}

/// Checks spans that were read from so many bytes, and the rows that they become.
pub fn check(sink: Sink, read_bytes: usize) {
    let made_bytes: usize = sink.spans.iter().map(|span| postcard::to_stdvec(span).expect("a span is plain data").len()).sum();
    // Prompts are implied by what was said before, and every span has its resource: the square, but no more.
    let most_bytes = 8_192 + 256 * read_bytes + read_bytes * read_bytes / 2;
    assert!(made_bytes <= most_bytes, "{read_bytes} bytes became {made_bytes} bytes of spans");
    for rejected in &sink.rejects {
        assert!(!rejected.reject.reason().is_empty() && rejected.raw.len() <= 64 << 10);
    }
    let files = ["f".to_owned()];
    let components = components(sink.spans.iter());
    for span in &sink.spans {
        let found = rollout_of(span, &components, &files);
        assert_eq!(rollout_of(&locator(span), &components, &files), found, "the locator of {span:?} leaves something out");
    }
    let (rows, _) = resolve(sink.spans.clone(), &components, &files);
    check_rows(&rows, &sink.spans);
    let backwards = self::components(sink.spans.iter().rev());
    let (again, _) = resolve(sink.spans.into_iter().rev().collect(), &backwards, &files);
    assert_eq!(rows.len(), again.len(), "the order of the spans decides how many rows there are");
    for (row, other) in rows.iter().zip(&again) {
        assert_eq!(format!("{row:?}"), format!("{other:?}"), "the order of the spans decides what a row says");
    }
}

fn components<'a>(spans: impl Iterator<Item = &'a Span>) -> Components {
    let mut joiner = Joiner::default();
    spans.for_each(|span| joiner.see(span));
    joiner.finish()
}

fn check_rows(rows: &[Row], spans: &[Span]) {
    let mut ids: BTreeMap<(&str, &str), &Row> = BTreeMap::new();
    let mut places = BTreeSet::new();
    for row in rows {
        assert!(places.insert((&row.rollout_id, row.seq)), "two rows at one place: {row:?}");
        if row.choice_index.unwrap_or(0) == 0 {
            assert!(ids.insert((&row.rollout_id, &row.span_id), row).is_none(), "two rows of one id: {row:?}");
        }
        let texts = [
            &row.input_messages, &row.output_messages, &row.tools, &row.request_params, &row.events, &row.links, &row.attributes,
            &row.resource,
        ];
        for json in texts.into_iter().flatten() {
            assert!(serde_json::from_str::<&RawValue>(json).is_ok(), "a column of JSON holds something else: {json}");
        }
    }
    for row in rows {
        if let Some(kept) = &row.dedup_of {
            let kept = ids.get(&(row.rollout_id.as_str(), kept.as_str()));
            assert!(kept.is_some_and(|kept| kept.dedup_of.is_none()), "{row:?} repeats {kept:?}");
        }
    }
    let named: BTreeSet<&str> = rows.iter().map(|row| row.span_id.rsplit_once('~').map_or(&*row.span_id, |(id, _)| id)).collect();
    let known: BTreeSet<&str> = rows.iter().map(|row| row.span_id.as_str()).collect();
    // Events go into their calls; parts become a span together.
    for span in spans.iter().filter(|span| span.kind != Kind::Message && span.part_json.is_none()) {
        assert!(known.contains(&*span.span_id) || named.contains(&*span.span_id), "{span:?} has no row");
    }
    assert!(spans.is_empty() || !rows.is_empty(), "spans without rows");
}

/// Reads bytes as a file, twice, and checks what came of them.
pub fn check_file(bytes: &[u8]) -> Sink {
    let (sink, again) = (read_file(bytes), read_file(bytes));
    assert_eq!(format!("{sink:?}"), format!("{again:?}"), "reading twice gives something else");
    check(again, bytes.len());
    sink
}
