//! Containers: where a format keeps the fields of its spans. One file a container; a record's format is found by its keys.

mod adp;
pub mod agent_lightning;
pub mod agent_lightning_v1;
mod atif;
pub mod chat;
mod claude_code;
mod codex;
mod dialogue;
mod gemini;
pub mod ids;
mod keys;
mod langfuse;
pub mod langsmith;
mod mend;
pub(crate) mod metadata;
mod mlflow;
pub mod openai_agents;
pub mod otel_console;
mod otlp;
pub mod otlp_json;
pub mod otlp_proto;
mod phoenix;
mod record;
pub(crate) mod session;
mod swe_agent;
mod verifiers;
mod verifiers_v1;

pub use keys::Keys;

use super::reject::{Reject, bounded_raw};
use super::span::{Origin, Span};

/// What a user can tell the readers.
#[derive(Debug, Clone, Default)]
pub struct ReadOptions {
    /// Attribute keys that hold the task id, best first, before every key that the readers know.
    pub task_id_keys: Vec<String>,
}

/// Where readers put what they find.
#[derive(Debug, Default)]
pub struct Sink {
    pub spans: Vec<Span>,
    pub rejects: Vec<RejectedRecord>,
}

/// A record, or a part of one, that could not be used.
#[derive(Debug)]
pub struct RejectedRecord {
    pub origin: Origin,
    /// Length of the whole record or part.
    pub size_bytes: u64,
    pub reject: Reject,
    /// At most 64 KiB of it.
    pub raw: String,
}

impl Sink {
    /// Sets a record, or a part of one, aside.
    pub fn reject(&mut self, origin: Origin, reject: Reject, raw: &[u8]) {
        self.rejects.push(RejectedRecord { origin, size_bytes: raw.len() as u64, reject, raw: bounded_raw(raw) });
    }

    /// Reads a record, or a part of one, of which nothing stays here if it is refused.
    fn all_or_nothing(&mut self, read: impl FnOnce(&mut Self) -> Result<(), Reject>) -> Result<(), Reject> {
        let (spans, rejects) = (self.spans.len(), self.rejects.len());
        let outcome = read(self);
        if outcome.is_err() {
            self.spans.truncate(spans);
            self.rejects.truncate(rejects);
        }
        outcome
    }

    /// Reads a part of a record; one that is refused is set aside alone.
    fn part(&mut self, text: &str, origin: Origin, read: impl FnOnce(&mut Self) -> Result<(), Reject>) {
        if let Err(reject) = self.all_or_nothing(read) {
            self.reject(origin, reject, text.as_bytes());
        }
    }
}

/// Reads one record of JSON text (a line, or one top-level value of a document).
///
/// An unusable part of a record goes to `sink.rejects`, and its usable parts to `sink.spans`. `Err` means that nothing of the
/// record was used; the caller sets the whole record aside.
pub fn read_json(record: &[u8], origin: Origin, options: &ReadOptions, sink: &mut Sink) -> Result<(), Reject> {
    let text = std::str::from_utf8(record).map_err(|error| match error.error_len() {
        Some(_) => Reject::Utf8 { offset: error.valid_up_to() },
        None => Reject::Truncated,
    })?;
    match sink.all_or_nothing(|sink| read_text(text, origin, options, sink)) {
        Err(Reject::Json(error)) => match mend::mend(text) {
            Some(mended) => sink.all_or_nothing(|sink| read_text(&mended, origin, options, sink)),
            None => Err(Reject::Json(error)),
        },
        read => read,
    }
}

fn read_text(text: &str, origin: Origin, options: &ReadOptions, sink: &mut Sink) -> Result<(), Reject> {
    let keys = Keys::of(text);
    if otlp_json::recognises(&keys) {
        return otlp_json::read(text, &keys, origin, options, sink);
    }
    if otel_console::recognises(&keys) {
        return otel_console::read(text, origin, options, sink);
    }
    if langfuse::recognises(&keys) {
        return langfuse::read(text, origin, options, sink);
    }
    if phoenix::recognises(&keys) {
        return phoenix::read(text, origin, options, sink);
    }
    if mlflow::recognises(&keys) {
        return mlflow::read(text, origin, options, sink);
    }
    if agent_lightning_v1::recognises(&keys) {
        return agent_lightning_v1::read(text, origin, options, sink);
    }
    if agent_lightning::recognises(&keys) {
        return agent_lightning::read(text, origin, options, sink);
    }
    if langsmith::recognises(&keys) {
        return langsmith::read(text, origin, options, sink);
    }
    if openai_agents::recognises(&keys) {
        return openai_agents::read(text, origin, options, sink);
    }
    if atif::recognises(&keys) {
        return atif::read(text, origin, options, sink);
    }
    if claude_code::recognises(&keys) {
        return claude_code::read(text, origin, options, sink);
    }
    if codex::recognises(&keys) {
        return codex::read(text, origin, options, sink);
    }
    if gemini::recognises(&keys) {
        return gemini::read(text, origin, options, sink);
    }
    if verifiers::recognises(&keys) {
        return verifiers::read(text, origin, options, sink);
    }
    if verifiers_v1::recognises(&keys) {
        return verifiers_v1::read(text, origin, options, sink);
    }
    if swe_agent::recognises(&keys) {
        return swe_agent::read(text, origin, options, sink);
    }
    if adp::recognises(&keys) {
        return adp::read(text, origin, options, sink);
    }
    if chat::recognises(&keys) {
        return chat::read(text, origin, options, sink);
    }
    Err(unknown_format(text, &keys))
}

/// Reads one OTLP protobuf message: `TracesData` or `ExportTraceServiceRequest`, `LogsData` or `ExportLogsServiceRequest`.
/// `Err` as in [`read_json`].
pub fn read_proto(message: &[u8], origin: Origin, options: &ReadOptions, sink: &mut Sink) -> Result<(), Reject> {
    otlp_proto::read(message, origin, options, sink)
}

fn unknown_format(text: &str, keys: &Keys<'_>) -> Reject {
    match serde_json::from_str::<serde::de::IgnoredAny>(text) {
        Err(error) => keys::syntax_reject(text, error),
        Ok(_) if keys::is_too_deep(text) => Reject::TooDeep,
        Ok(_) => Reject::UnknownFormat { keys: keys.summary() },
    }
}

#[cfg(test)]
mod samples;
