//! OTLP as JSON: what the Collector, SDK exporters, Tempo and protobuf's own JSON printers write.
//!
//! One pass from text to spans, strings borrowed from the record wherever they hold no escapes. Keys may be camelCase or
//! snake_case, ids hex or base64, 64-bit numbers strings or numbers, enums numbers or names.

mod wire;

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use self::wire::{Code, List, Request, Resource, Text, WireEvent, WireLink, WireLog, WireSpan};
use super::super::attributes::{Attributes, Value};
use super::super::convention::{self, RawEvent, RawLog, RawSpan};
use super::super::reject::Reject;
use super::super::span::{Format, Link, Origin, Status};
use super::otlp::{Surroundings, UNKNOWN_STATUS_KEY, event_name, precision_ns};
use super::{Keys, ReadOptions, Sink, ids, keys};

const REQUEST: &[&str] = &["resourceSpans", "resource_spans", "resourceLogs", "resource_logs", "batches"];
const RESOURCE: &[&str] = &[
    "scopeSpans",
    "scope_spans",
    "scopeLogs",
    "scope_logs",
    "instrumentationLibrarySpans",
    "instrumentation_library_spans",
    "instrumentationLibraryLogs",
    "instrumentation_library_logs",
];

/// Whether a record is OTLP: a request, or one `ResourceSpans` or `ResourceLogs` without its wrapper.
pub fn recognises(keys: &Keys<'_>) -> bool {
    keys.has_any(REQUEST) || keys.has_any(RESOURCE)
}

/// Reads one record. A span or log record that cannot be used is set aside alone.
pub fn read(text: &str, keys: &Keys<'_>, origin: Origin, options: &ReadOptions, sink: &mut Sink) -> Result<(), Reject> {
    let wrapped = keys.has_any(REQUEST);
    match parse::<WireSpan<'_>, WireLog<'_>>(text, wrapped) {
        Ok(resources) => {
            let spans_before = sink.spans.len();
            let rejects_before = sink.rejects.len();
            let walked = walk(resources, origin, |item, surroundings, origin| match item {
                Item::Span(span) => raw_span(span, surroundings, origin).map(|span| convention::interpret(span, options, sink)),
                Item::Log(log) => {
                    convention::interpret_log(raw_log(log, surroundings, origin), options, sink);
                    Ok(())
                }
            });
            if walked.is_ok() {
                let came = sink.spans.len() > spans_before || sink.rejects.len() > rejects_before;
                return if came { Ok(()) } else { is_empty(text, wrapped) };
            }
            sink.spans.truncate(spans_before);
            sink.rejects.truncate(rejects_before);
        }
        Err(error) if !error.is_data() => return Err(keys::syntax_reject(text, error)),
        Err(_) => {}
    }
    read_apart(text, wrapped, origin, options, sink)
}

/// Whether a record that nothing came of has nothing in it, as exports may. Members that nobody knows are passed over, but not where they
/// hold all that there is.
fn is_empty(text: &str, wrapped: bool) -> Result<(), Reject> {
    const OF_RESOURCE: &[&str] = &["resource", "schemaUrl", "schema_url"];
    const SCOPE: &[&str] = &["spans", "logRecords", "log_records", "logs"];
    const OF_SCOPE: &[&str] = &["scope", "instrumentationLibrary", "instrumentation_library", "schemaUrl", "schema_url"];
    let levels = [(REQUEST, [].as_slice()), (RESOURCE, OF_RESOURCE), (SCOPE, OF_SCOPE)];
    let record = serde_json::from_str(text).map_err(|error| keys::parse_reject(text, "OTLP", error))?;
    match unread(&record, if wrapped { &levels } else { &levels[1..] }) {
        Some(key) => Err(Reject::UnknownMember { key: key.to_owned() }),
        None => Ok(()),
    }
}

/// The first member with items in it that is not read.
///
/// * `levels`: for each level of objects the members that are lists of the next one's, and those that only describe.
fn unread<'a>(object: &'a serde_json::Value, levels: &[(&[&str], &[&str])]) -> Option<&'a str> {
    let ((lists, describe), deeper) = levels.split_first()?;
    object.as_object()?.iter().find_map(|(key, value)| match key.as_str() {
        known if lists.contains(&known) => value.as_array()?.iter().find_map(|item| unread(item, deeper)),
        known if describe.contains(&known) => None,
        unknown => has_items(value).then_some(unknown),
    })
}

fn has_items(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::Array(items) => !items.is_empty(),
        serde_json::Value::Object(members) => members.values().any(has_items),
        _ => false,
    }
}

/// The slow way, for records of which something is wrong: each span is parsed alone, so that the others survive.
fn read_apart(text: &str, wrapped: bool, origin: Origin, options: &ReadOptions, sink: &mut Sink) -> Result<(), Reject> {
    let resources = parse::<&RawValue, &RawValue>(text, wrapped).map_err(|error| keys::parse_reject(text, "OTLP", error))?;
    walk(resources, origin, |item, surroundings, origin| {
        let (raw, read) = match item {
            Item::Span(raw) => (
                raw,
                field_of::<WireSpan<'_>>(raw, "Span")
                    .and_then(|span| raw_span(span, surroundings, origin))
                    .map(|span| convention::interpret(span, options, sink)),
            ),
            Item::Log(raw) => (
                raw,
                field_of::<WireLog<'_>>(raw, "LogRecord")
                    .map(|log| convention::interpret_log(raw_log(log, surroundings, origin), options, sink)),
            ),
        };
        if let Err(reject) = read {
            sink.reject(origin, reject, raw.get().as_bytes());
        }
        Ok(())
    })
}

fn field_of<'a, T: Deserialize<'a>>(raw: &'a RawValue, container: &'static str) -> Result<T, Reject> {
    serde_json::from_str(raw.get()).map_err(|error| keys::parse_reject(raw.get(), container, error))
}

fn parse<'a, S: Deserialize<'a>, L: Deserialize<'a>>(
    text: &'a str,
    wrapped: bool,
) -> Result<Vec<Resource<'a, S, L>>, serde_json::Error> {
    if !wrapped {
        return Ok(vec![serde_json::from_str(text)?]);
    }
    let Request { resource_spans: List(mut resources), resource_logs } = serde_json::from_str(text)?;
    resources.extend(resource_logs.0);
    Ok(resources)
}

enum Item<S, L> {
    Span(S),
    Log(L),
}

/// Gives every span and log record to `visit`, with what its resource and scope say and its position in the record.
fn walk<'a, S, L>(
    resources: Vec<Resource<'a, S, L>>,
    mut origin: Origin,
    mut visit: impl FnMut(Item<S, L>, &Surroundings<'a>, Origin) -> Result<(), Reject>,
) -> Result<(), Reject> {
    for Resource { resource, scope_spans, scope_logs } in resources {
        let mut surroundings = Surroundings::of_resource(&Attributes::new(resource.unwrap_or_default().attributes.0));
        for scope in scope_spans.0.into_iter().chain(scope_logs.0) {
            let fields = scope.scope.unwrap_or_default();
            surroundings.enter_scope(fields.name.map(|name| name.0), fields.version.map(|text| text.0), fields.attributes.0);
            let spans = scope.spans.0.into_iter().map(Item::Span);
            for item in spans.chain(scope.log_records.0.into_iter().map(Item::Log)) {
                visit(item, &surroundings, origin)?;
                origin.position += 1;
            }
        }
    }
    Ok(())
}

fn raw_span<'a>(span: WireSpan<'a>, surroundings: &Surroundings<'a>, origin: Origin) -> Result<RawSpan<'a>, Reject> {
    let span_id = id(span.span_id.as_ref(), ids::span_id).ok_or(Reject::MissingField { field: "spanId" })?;
    let mut attributes = span.attributes.0;
    let (status, status_message) = match span.status {
        None => (Status::Unset, None),
        Some(wire) => {
            let status = match wire.code {
                Code::Known(status) => status,
                Code::Unknown(text) => {
                    attributes.push((Cow::Borrowed(UNKNOWN_STATUS_KEY), Value::Str(Cow::Owned(text))));
                    Status::Unset
                }
            };
            (status, non_empty(wire.message))
        }
    };
    Ok(RawSpan {
        origin,
        format: Format::OtlpJson,
        trace_id: id(span.trace_id.as_ref(), ids::trace_id),
        span_id,
        parent_span_id: id(span.parent_span_id.as_ref(), ids::span_id),
        name: span.name.map(|name| name.0).unwrap_or_default(),
        start_ns: span.start_time_unix_nano.0,
        end_ns: span.end_time_unix_nano.0,
        time_precision_ns: span.start_time_unix_nano.0.map(precision_ns),
        status,
        status_message,
        attributes: surroundings.attributes(attributes),
        events: span.events.0.into_iter().map(raw_event).collect(),
        links: span.links.0.into_iter().filter_map(link).collect(),
        service_name: surroundings.service_name.clone(),
        scope_name: surroundings.scope_name.clone(),
        scope_version: surroundings.scope_version.clone(),
        resource_json: surroundings.resource_json.clone(),
    })
}

fn raw_event(event: WireEvent<'_>) -> RawEvent<'_> {
    RawEvent {
        name: event.name.map(|name| name.0).unwrap_or_default(),
        time_ns: event.time_unix_nano.0,
        attributes: Attributes::new(event.attributes.0),
    }
}

/// A link without ids points nowhere and is left out.
fn link(link: WireLink<'_>) -> Option<Link> {
    Some(Link {
        trace_id: id(link.trace_id.as_ref(), ids::trace_id)?,
        span_id: id(link.span_id.as_ref(), ids::span_id).unwrap_or_default(),
        attributes_json: Attributes::new(link.attributes.0).to_json(),
    })
}

fn raw_log<'a>(log: WireLog<'a>, surroundings: &Surroundings<'a>, origin: Origin) -> RawLog<'a> {
    let mut attributes = surroundings.attributes(log.attributes.0);
    let time_ns = log.time_unix_nano.0.or(log.observed_time_unix_nano.0);
    RawLog {
        origin,
        format: Format::OtlpJson,
        trace_id: id(log.trace_id.as_ref(), ids::trace_id),
        span_id: id(log.span_id.as_ref(), ids::span_id),
        event_name: event_name(non_empty(log.event_name), &mut attributes),
        time_ns,
        time_precision_ns: time_ns.map(precision_ns),
        severity: non_empty(log.severity_text),
        body: log.body.0,
        attributes,
        service_name: surroundings.service_name.clone(),
        scope_name: surroundings.scope_name.clone(),
        scope_version: surroundings.scope_version.clone(),
        resource_json: surroundings.resource_json.clone(),
    }
}

fn id(text: Option<&Text<'_>>, normalise: fn(&str) -> Option<String>) -> Option<String> {
    normalise(&text?.0)
}

fn non_empty(text: Option<Text<'_>>) -> Option<Cow<'_, str>> {
    text.map(|text| text.0).filter(|text| !text.is_empty())
}
