//! What the session files of command-line agents share: their lines are read one by one, and their calls are put together when the whole
//! session is there.

use crate::trace::attributes::Attributes;
use crate::trace::span::{Format, Kind, Origin, Span};
use crate::trace::time::Time;

use super::{claude_code, codex};

/// Whether a format keeps a session in lines of which not every one names it: those that do not are about the session of their file.
pub fn is_of_file(format: Format) -> bool {
    matches!(format, Format::ClaudeCode | Format::Codex)
}

/// A line that waits for the rest of its session.
pub fn part(text: &str, format: Format, session: Option<String>, name: String, time: Option<Time>, origin: Origin) -> Span {
    Span {
        origin,
        format,
        trace_id: session,
        span_id: super::record::placed_id(origin),
        name,
        kind: Kind::Other,
        kind_evidence: Some("type".to_owned()),
        start_ns: time.map(|time| time.ns),
        end_ns: time.map(|time| time.ns),
        time_precision_ns: time.map(|time| time.precision_ns),
        part_json: Some(text.into()),
        ..Span::default()
    }
}

/// Makes calls and tools of the lines of sessions. For the spans of one whole rollout, in any order.
pub fn complete(spans: Vec<Span>) -> Vec<Span> {
    if !spans.iter().any(|span| is_of_file(span.format) && span.part_json.is_some()) {
        return spans;
    }
    let (mut lines, mut whole): (Vec<Span>, Vec<Span>) =
        spans.into_iter().partition(|span| is_of_file(span.format) && span.part_json.is_some());
    lines.sort_by_key(|line| line.origin);
    let (claude, codex): (Vec<Span>, Vec<Span>) = lines.into_iter().partition(|line| line.format == Format::ClaudeCode);
    whole.extend(claude_code::complete(claude));
    whole.extend(codex::complete(codex));
    whole
}

/// A line as what it is: a record of the session that is neither call nor tool.
pub fn kept(mut line: Span, rest: &Attributes<'_>) -> Span {
    line.part_json = None;
    line.attributes_json = rest.to_json();
    line
}
