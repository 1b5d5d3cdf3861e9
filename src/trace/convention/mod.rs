//! Conventions: what a span's attributes mean.

use std::borrow::Cow;

use super::attributes::{Attributes, Value, push_json_string};
use super::container::{ReadOptions, Sink};
use super::span::{Format, Kind, Link, Origin, Span, Status};

/// Turns a span into what its attributes mean and appends it to `sink.spans`.
pub fn interpret(mut raw: RawSpan<'_>, options: &ReadOptions, sink: &mut Sink) {
    let _ = options;
    let attributes = std::mem::take(&mut raw.attributes);
    let mut span = common(raw);
    span.attributes_json = attributes.to_json();
    sink.spans.push(span);
}

/// Turns a log record that carries messages or a reward into a span of kind `Message` or `Reward` and appends it to
/// `sink.spans`. Log records that say nothing about an agent are kept as `Other`.
pub fn interpret_log(mut raw: RawLog<'_>, options: &ReadOptions, sink: &mut Sink) {
    let _ = options;
    let attributes = std::mem::take(&mut raw.attributes);
    sink.spans.push(Span {
        origin: raw.origin,
        format: raw.format,
        trace_id: raw.trace_id,
        span_id: format!("{}.{}", raw.origin.line, raw.origin.position),
        parent_span_id: raw.span_id,
        name: raw.event_name.unwrap_or_default().into_owned(),
        kind: Kind::Message,
        start_ns: raw.time_ns,
        end_ns: raw.time_ns,
        service_name: raw.service_name,
        scope_name: raw.scope_name.map(Cow::into_owned),
        scope_version: raw.scope_version.map(Cow::into_owned),
        attributes_json: attributes.to_json(),
        resource_json: raw.resource_json,
        ..Span::default()
    });
}

/// What every convention leaves as the container gave it.
fn common(raw: RawSpan<'_>) -> Span {
    Span {
        origin: raw.origin,
        format: raw.format,
        trace_id: raw.trace_id,
        span_id: raw.span_id,
        parent_span_id: raw.parent_span_id,
        links: raw.links,
        name: raw.name.into_owned(),
        start_ns: raw.start_ns,
        end_ns: raw.end_ns,
        time_precision_ns: raw.time_precision_ns,
        status: raw.status,
        status_message: raw.status_message.map(Cow::into_owned),
        service_name: raw.service_name,
        scope_name: raw.scope_name.map(Cow::into_owned),
        scope_version: raw.scope_version.map(Cow::into_owned),
        events_json: events_json(&raw.events),
        resource_json: raw.resource_json,
        ..Span::default()
    }
}

/// Events as the column `events` keeps them; `None` where there are none.
fn events_json(events: &[RawEvent<'_>]) -> Option<String> {
    if events.is_empty() {
        return None;
    }
    let mut json = String::from("[");
    for event in events {
        json.push_str(if json.len() > 1 { ",{\"name\":" } else { "{\"name\":" });
        push_json_string(&mut json, &event.name);
        if let Some(time_ns) = event.time_ns {
            json.push_str(&format!(",\"time_ns\":{time_ns}"));
        }
        if let Some(attributes) = event.attributes.to_json() {
            json.push_str(",\"attributes\":");
            json.push_str(&attributes);
        }
        json.push('}');
    }
    json.push(']');
    Some(json)
}

/// A span as its container gives it, before a convention has looked at its attributes.
#[derive(Debug, Clone, Default)]
pub struct RawSpan<'a> {
    pub origin: Origin,
    pub format: Format,
    /// Normalised: lower-case hex without `0x` for OpenTelemetry ids.
    pub trace_id: Option<String>,
    pub span_id: String,
    pub parent_span_id: Option<String>,
    pub name: Cow<'a, str>,
    pub start_ns: Option<i64>,
    pub end_ns: Option<i64>,
    pub time_precision_ns: Option<i64>,
    pub status: Status,
    pub status_message: Option<Cow<'a, str>>,
    pub attributes: Attributes<'a>,
    pub events: Vec<RawEvent<'a>>,
    pub links: Vec<Link>,
    pub service_name: Option<String>,
    pub scope_name: Option<Cow<'a, str>>,
    pub scope_version: Option<Cow<'a, str>>,
    /// JSON object of the resource's attributes.
    pub resource_json: Option<String>,
}

/// A span event, such as `exception`.
#[derive(Debug, Clone, Default)]
pub struct RawEvent<'a> {
    pub name: Cow<'a, str>,
    pub time_ns: Option<i64>,
    pub attributes: Attributes<'a>,
}

/// A log record as its container gives it.
#[derive(Debug, Clone)]
pub struct RawLog<'a> {
    pub origin: Origin,
    pub format: Format,
    pub trace_id: Option<String>,
    /// The span that was active when the record was made.
    pub span_id: Option<String>,
    /// From the field `eventName`, else from the attribute `event.name`.
    pub event_name: Option<Cow<'a, str>>,
    /// The record's own time, else the time at which it was observed.
    pub time_ns: Option<i64>,
    pub time_precision_ns: Option<i64>,
    /// As text, e.g. `INFO`.
    pub severity: Option<Cow<'a, str>>,
    /// `Value::Null` where there is none.
    pub body: Value<'a>,
    pub attributes: Attributes<'a>,
    pub service_name: Option<String>,
    pub scope_name: Option<Cow<'a, str>>,
    pub scope_version: Option<Cow<'a, str>>,
    pub resource_json: Option<String>,
}
