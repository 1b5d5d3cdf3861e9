//! Spans as OpenTelemetry's Python SDK prints them: `ConsoleSpanExporter` and `ReadableSpan.to_json()`.

use std::borrow::Cow;

use super::super::attributes::{Attributes, Value};
use super::super::convention::{self, RawEvent, RawSpan};
use super::super::reject::Reject;
use super::super::span::{Format, Link, Origin, Status};
use super::otlp::{Surroundings, UNKNOWN_STATUS_KEY, status_of_name};
use super::record::{parse, take_id, take_time};
use super::{Keys, ReadOptions, Sink, ids};

/// Ids with `0x` in `context` are what no other format has.
pub fn recognises(keys: &Keys<'_>) -> bool {
    keys.begins("context", b'{') && keys.inside("context").text("trace_id").is_some_and(|id| id.starts_with("0x"))
}

/// Reads one span.
pub fn read(text: &str, origin: Origin, options: &ReadOptions, sink: &mut Sink) -> Result<(), Reject> {
    let mut record = parse(text)?;
    let context = record.take("context");
    let mut context = Attributes::of_object(context.as_ref());
    let span_id = take_id(&mut context, "span_id")
        .and_then(|id| ids::span_id(&id))
        .ok_or(Reject::MissingField { field: "context.span_id" })?;

    let resource = record.take("resource");
    let resource = Attributes::of_object(resource.as_ref()).take("attributes");
    let mut surroundings = Surroundings::of_resource(&Attributes::of_object(resource.as_ref()));
    let scope = record.take("instrumentation_scope");
    let mut scope = Attributes::of_object(scope.as_ref());
    surroundings.enter_scope(scope.take_text("name").map(Cow::Owned), scope.take_text("version").map(Cow::Owned), Vec::new());

    let own = record.take("attributes");
    let mut attributes = Attributes::of_object(own.as_ref());
    let status = record.take("status");
    let mut status = Attributes::of_object(status.as_ref());
    let code = status.take_text("status_code").unwrap_or_default();
    let known_status = status_of_name(&code);
    if known_status.is_none() {
        attributes.put(UNKNOWN_STATUS_KEY, Value::Str(Cow::Owned(code)));
    }

    let events = record.take("events");
    let mut events: Vec<_> =
        events.iter().flat_map(Value::elements).filter_map(|event| Attributes::from_json(event).ok()).collect();
    let events = events.iter_mut().map(|event| raw_event(event, origin, sink)).collect();
    let links = record.take("links");
    let links = links.iter().flat_map(Value::elements).filter_map(link).collect();
    let start = take_time(&mut record, "start_time", origin, sink);
    let end = take_time(&mut record, "end_time", origin, sink);
    let raw = RawSpan {
        origin,
        format: Format::OtelConsole,
        trace_id: take_id(&mut context, "trace_id").and_then(|id| ids::trace_id(&id)),
        span_id,
        parent_span_id: take_id(&mut record, "parent_id").and_then(|id| ids::span_id(&id)),
        name: record.take_text("name").unwrap_or_default().into(),
        start_ns: start.map(|time| time.ns),
        end_ns: end.map(|time| time.ns),
        time_precision_ns: start.map(|time| time.precision_ns),
        status: known_status.unwrap_or(Status::Unset),
        status_message: status.take_text("description").filter(|text| !text.is_empty()).map(Cow::Owned),
        attributes,
        events,
        links,
        service_name: surroundings.service_name,
        scope_name: surroundings.scope_name,
        scope_version: surroundings.scope_version,
        resource_json: surroundings.resource_json,
    };
    convention::interpret(raw, options, sink);
    Ok(())
}

fn raw_event<'a>(event: &'a mut Attributes<'_>, origin: Origin, sink: &mut Sink) -> RawEvent<'a> {
    let time_ns = take_time(event, "timestamp", origin, sink).map(|time| time.ns);
    let event = &*event;
    RawEvent {
        name: event.text("name").unwrap_or_default().into(),
        time_ns,
        attributes: Attributes::of_object(event.get("attributes")),
    }
}

/// A link without ids points nowhere and is left out.
fn link(link: &str) -> Option<Link> {
    let mut link = Attributes::from_json(link).ok()?;
    let context = link.take("context");
    let mut context = Attributes::of_object(context.as_ref());
    let attributes = link.take("attributes");
    Some(Link {
        trace_id: ids::trace_id(&take_id(&mut context, "trace_id")?)?,
        span_id: take_id(&mut context, "span_id").and_then(|id| ids::span_id(&id)).unwrap_or_default(),
        attributes_json: Attributes::of_object(attributes.as_ref()).to_json(),
    })
}
