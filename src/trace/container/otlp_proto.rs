//! OTLP as protobuf: requests and data messages, which are alike on the wire.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, LogsData};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{Span, TracesData, span};
use prost::Message;

use super::super::attributes::{Attributes, Value};
use super::super::convention::{self, RawEvent, RawLog, RawSpan};
use super::super::reject::Reject;
use super::super::span::{Format, Link, Origin, Status};
use super::otlp::{Surroundings, UNKNOWN_STATUS_KEY, array_json, event_name, map_json, precision_ns, status_of_number};
use super::{ReadOptions, Sink, ids};

/// Reads one message of spans or of log records. A span without an id is set aside alone.
///
/// The two are told apart by decoding: the ids of the one have the field numbers and wire types of other things in the other.
pub fn read(message: &[u8], mut origin: Origin, options: &ReadOptions, sink: &mut Sink) -> Result<(), Reject> {
    let traces = match TracesData::decode(message) {
        Ok(traces) if !traces.resource_spans.is_empty() => traces,
        Ok(_) => return Err(Reject::MissingField { field: "resource_spans" }),
        Err(error) => {
            let Some(logs) = LogsData::decode(message).ok().filter(has_sound_ids) else { return Err(Reject::Protobuf(error)) };
            read_logs(logs, origin, options, sink);
            return Ok(());
        }
    };
    for resource in traces.resource_spans {
        let mut surroundings = surroundings(resource.resource);
        for scope in resource.scope_spans {
            enter_scope(&mut surroundings, scope.scope);
            for span in scope.spans {
                match ids::from_bytes(&span.span_id) {
                    Some(span_id) => convention::interpret(raw_span(span, span_id, &surroundings, origin), options, sink),
                    None => sink.reject(origin, Reject::MissingField { field: "span_id" }, &span.encode_to_vec()),
                }
                origin.position += 1;
            }
        }
    }
    Ok(())
}

/// Whether what was decoded as log records is some: a broken message of spans may decode as well, with attributes for ids.
fn has_sound_ids(logs: &LogsData) -> bool {
    let scopes = logs.resource_logs.iter().flat_map(|resource| &resource.scope_logs);
    scopes
        .flat_map(|scope| &scope.log_records)
        .all(|log| matches!(log.trace_id.len(), 0 | 16) && matches!(log.span_id.len(), 0 | 8))
}

fn read_logs(logs: LogsData, mut origin: Origin, options: &ReadOptions, sink: &mut Sink) {
    for resource in logs.resource_logs {
        let mut surroundings = surroundings(resource.resource);
        for scope in resource.scope_logs {
            enter_scope(&mut surroundings, scope.scope);
            for log in scope.log_records {
                convention::interpret_log(raw_log(log, &surroundings, origin), options, sink);
                origin.position += 1;
            }
        }
    }
}

fn surroundings(resource: Option<Resource>) -> Surroundings<'static> {
    Surroundings::of_resource(&Attributes::new(entries(resource.unwrap_or_default().attributes)))
}

fn enter_scope(surroundings: &mut Surroundings<'static>, scope: Option<InstrumentationScope>) {
    let scope = scope.unwrap_or_default();
    surroundings.enter_scope(Some(scope.name.into()), Some(scope.version.into()), entries(scope.attributes));
}

fn raw_span(span: Span, span_id: String, surroundings: &Surroundings<'static>, origin: Origin) -> RawSpan<'static> {
    let mut attributes = entries(span.attributes);
    let wire_status = span.status.unwrap_or_default();
    let status = status_of_number(i64::from(wire_status.code)).unwrap_or_else(|| {
        attributes.push((UNKNOWN_STATUS_KEY.into(), Value::Str(wire_status.code.to_string().into())));
        Status::Unset
    });
    let start_ns = time_ns(span.start_time_unix_nano);
    RawSpan {
        origin,
        format: Format::OtlpProto,
        trace_id: ids::from_bytes(&span.trace_id),
        span_id,
        parent_span_id: ids::from_bytes(&span.parent_span_id),
        name: span.name.into(),
        start_ns,
        end_ns: time_ns(span.end_time_unix_nano),
        time_precision_ns: start_ns.map(precision_ns),
        status,
        status_message: non_empty(wire_status.message),
        attributes: surroundings.attributes(attributes),
        events: span.events.into_iter().map(raw_event).collect(),
        links: span.links.into_iter().filter_map(link).collect(),
        service_name: surroundings.service_name.clone(),
        scope_name: surroundings.scope_name.clone(),
        scope_version: surroundings.scope_version.clone(),
        resource_json: surroundings.resource_json.clone(),
    }
}

fn raw_event(event: span::Event) -> RawEvent<'static> {
    RawEvent {
        name: event.name.into(),
        time_ns: time_ns(event.time_unix_nano),
        attributes: Attributes::new(entries(event.attributes)),
    }
}

/// A link without ids points nowhere and is left out.
fn link(link: span::Link) -> Option<Link> {
    Some(Link {
        trace_id: ids::from_bytes(&link.trace_id)?,
        span_id: ids::from_bytes(&link.span_id).unwrap_or_default(),
        attributes_json: Attributes::new(entries(link.attributes)).to_json(),
    })
}

fn raw_log(log: LogRecord, surroundings: &Surroundings<'static>, origin: Origin) -> RawLog<'static> {
    let mut attributes = surroundings.attributes(entries(log.attributes));
    let time_ns = time_ns(log.time_unix_nano).or_else(|| time_ns(log.observed_time_unix_nano));
    RawLog {
        origin,
        format: Format::OtlpProto,
        trace_id: ids::from_bytes(&log.trace_id),
        span_id: ids::from_bytes(&log.span_id),
        event_name: event_name(non_empty(log.event_name), &mut attributes),
        time_ns,
        time_precision_ns: time_ns.map(precision_ns),
        severity: non_empty(log.severity_text),
        body: value(log.body),
        attributes,
        service_name: surroundings.service_name.clone(),
        scope_name: surroundings.scope_name.clone(),
        scope_version: surroundings.scope_version.clone(),
        resource_json: surroundings.resource_json.clone(),
    }
}

fn entries(attributes: Vec<KeyValue>) -> Vec<(Cow<'static, str>, Value<'static>)> {
    attributes.into_iter().map(|attribute| (attribute.key.into(), value(attribute.value))).collect()
}

fn value(any: Option<AnyValue>) -> Value<'static> {
    match any.and_then(|any| any.value) {
        None => Value::Null,
        Some(any_value::Value::StringValue(text)) => Value::Str(text.into()),
        Some(any_value::Value::BoolValue(flag)) => Value::Bool(flag),
        Some(any_value::Value::IntValue(number)) => Value::Int(number),
        Some(any_value::Value::DoubleValue(number)) => Value::Double(number),
        Some(any_value::Value::BytesValue(bytes)) => Value::Bytes(STANDARD.encode(bytes).into()),
        // An index into the dictionary of a profile, which traces and logs have none of.
        Some(any_value::Value::StringValueStrindex(index)) => Value::Int(i64::from(index)),
        Some(any_value::Value::ArrayValue(array)) => {
            let items: Vec<_> = array.values.into_iter().map(|item| value(Some(item))).collect();
            Value::Json(array_json(items.iter()).into())
        }
        Some(any_value::Value::KvlistValue(list)) => {
            let entries = entries(list.values);
            Value::Json(map_json(entries.iter().map(|(key, value)| (key.as_ref(), value))).into())
        }
    }
}

/// Zero is how protobuf says missing.
fn time_ns(unix_ns: u64) -> Option<i64> {
    i64::try_from(unix_ns).ok().filter(|time_ns| *time_ns != 0)
}

fn non_empty(text: String) -> Option<Cow<'static, str>> {
    (!text.is_empty()).then_some(Cow::Owned(text))
}
