//! Trace files into spans. No lake, no SQL, no async: plain functions on bytes, so that it builds (and is fuzzed) alone.
//!
//! ```text
//! bytes ─ read (frames, lines) ─► record ─ container ─► RawSpan ─ convention ─► Span ─ resolve ─► rows of `spans`
//! ```
//!
//! A *container* says where a span's fields are (OTLP JSON, OTLP protobuf, LangSmith runs, ...). A *convention* says what its
//! attributes mean (OpenTelemetry GenAI, OpenInference, Traceloop, ...). A new convention is one small file.

pub mod attributes;
pub mod blocks;
pub mod container;
pub mod convention;
pub mod detect;
pub mod message;
mod numbers;
pub mod object;
pub mod openai;
pub mod reject;
pub mod resolve;
#[cfg(test)]
mod samples;
mod scan;
#[cfg(fuzzing)]
pub use scan::second::agrees as scan_agrees;
pub mod span;
pub mod split;
pub mod time;

/// Says why a test is skipped: past the harness, which shows nothing of a test that passes.
#[cfg(test)]
fn skip(reason: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "skipped: {reason}");
}
