//! Phoenix exports: spans of its client or of its data frames, and annotations.
//!
//! ```text
//! {"name", "context": {"trace_id", "span_id"}, "span_kind", "parent_id", "start_time", "end_time", "status_code", "status_message",
//!  "attributes": {nested, or with dots}, "events": [{"name", "timestamp", "attributes"}]}                          the client
//! {"name", "context.trace_id", "context.span_id", "span_kind", …, "attributes.llm.model_name", …}                   a row of a data frame
//! {"span_id", "name", "annotator_kind", "result": {"label", "score", "explanation"}, "identifier", "metadata"}      an annotation
//! ```
//!
//! The attributes are OpenInference's. An annotation names its span alone.

use std::borrow::Cow;

use super::record::{parse, reward_value, status, take_id, take_time};
use super::{Keys, ReadOptions, Sink, ids};
use crate::trace::attributes::{Attributes, Value};
use crate::trace::convention::{self, RawEvent, RawSpan};
use crate::trace::reject::Reject;
use crate::trace::span::{Format, Kind, Origin, Reward, RewardTarget, Span};

/// Whether a record is a span or an annotation.
pub fn recognises(keys: &Keys<'_>) -> bool {
    let span = keys.begins("context", b'{') && keys.has_any(&["span_kind", "status_code"]);
    span || keys.has_all(&["context.span_id", "name"]) || keys.has_all(&["span_id", "annotator_kind", "result"])
}

/// Reads one span or annotation.
pub fn read(text: &str, origin: Origin, options: &ReadOptions, sink: &mut Sink) -> Result<(), Reject> {
    let mut record = parse(text)?;
    if record.contains("annotator_kind") {
        let span = annotation(record, origin, sink)?;
        sink.spans.push(span);
        return Ok(());
    }
    let context = record.take_object("context");
    let mut context = Attributes::of_object(context.as_ref());
    let mut id = |key: &str, dotted: &str| take_id(&mut context, key).or_else(|| take_id(&mut record, dotted));
    let span_id = id("span_id", "context.span_id")
        .and_then(|id| ids::span_id(&id))
        .ok_or(Reject::MissingField { field: "context.span_id" })?;
    let trace_id = id("trace_id", "context.trace_id").and_then(|id| ids::trace_id(&id));
    let start = take_time(&mut record, "start_time", origin, sink);
    let end = take_time(&mut record, "end_time", origin, sink);
    let nested = record.take_object("attributes");
    let mut entries = Vec::new();
    for (key, value) in Attributes::of_object(nested.as_ref()).iter() {
        flatten(key.to_owned(), value, &mut entries);
    }
    for (key, value) in record.take_prefix("attributes.") {
        flatten(key, &value, &mut entries);
    }
    if let Some(kind) = record.take_text("span_kind").filter(|kind| kind != "UNKNOWN") {
        entries.push(("openinference.span.kind".into(), Value::Str(kind.into())));
    }
    let events = record.take("events");
    let events: Vec<Attributes<'_>> =
        events.iter().flat_map(Value::elements).filter_map(|event| Attributes::from_json(event).ok()).collect();
    let mut events: Vec<Attributes<'static>> = events
        .iter()
        .map(|event| {
            Attributes::new(event.iter().map(|(key, value)| (key.to_owned().into(), value.clone().into_owned())).collect())
        })
        .collect();
    let code = record.take("status_code");
    let raw = RawSpan {
        origin,
        format: Format::Phoenix,
        trace_id,
        span_id,
        parent_span_id: take_id(&mut record, "parent_id").and_then(|id| ids::span_id(&id)),
        name: record.take_text("name").unwrap_or_default().into(),
        start_ns: start.map(|time| time.ns),
        end_ns: end.map(|time| time.ns),
        time_precision_ns: start.or(end).map(|time| time.precision_ns),
        status: status(code.as_ref()),
        status_message: record.take_text("status_message").filter(|text| !text.is_empty()).map(Cow::Owned),
        attributes: Attributes::new(entries),
        events: events.iter_mut().map(|event| raw_event(event, origin, sink)).collect(),
        ..RawSpan::default()
    };
    convention::interpret(raw, options, sink);
    Ok(())
}

fn raw_event<'a>(event: &'a mut Attributes<'static>, origin: Origin, sink: &mut Sink) -> RawEvent<'a> {
    let time_ns = take_time(event, "timestamp", origin, sink).map(|time| time.ns);
    let event = &*event;
    RawEvent {
        name: event.text("name").unwrap_or_default().into(),
        time_ns,
        attributes: Attributes::of_object(event.get("attributes")),
    }
}

/// Attributes under their dotted names. Lists of objects have their places in the names; strings that hold JSON stay strings. The depth
/// is that of the record, which is bounded.
fn flatten(key: String, value: &Value<'_>, entries: &mut Vec<(Cow<'static, str>, Value<'static>)>) {
    match value {
        Value::Json(json) if json.starts_with('{') && json.len() > 2 && key != "metadata" => {
            for (inner, value) in Attributes::of_object(Some(value)).iter() {
                flatten(format!("{key}.{inner}"), value, entries);
            }
        }
        Value::Json(json) if json.starts_with("[{") => {
            for (place, item) in value.elements().into_iter().enumerate() {
                flatten(format!("{key}.{place}"), &Value::from_json(item), entries);
            }
        }
        Value::Json(json) if key == "metadata" => entries.push((key.into(), Value::Str(json.clone().into_owned().into()))),
        other => entries.push((key.into(), other.clone().into_owned())),
    }
}

fn annotation(mut record: Attributes<'_>, origin: Origin, sink: &mut Sink) -> Result<Span, Reject> {
    let about =
        take_id(&mut record, "span_id").and_then(|id| ids::span_id(&id)).ok_or(Reject::MissingField { field: "span_id" })?;
    let name = take_id(&mut record, "name").unwrap_or_else(|| "annotation".to_owned());
    let id = take_id(&mut record, "id");
    let time = take_time(&mut record, "created_at", origin, sink);
    let result = record.take_object("result");
    let mut result = Attributes::of_object(result.as_ref());
    let value = match result.take("score") {
        Some(score) => {
            let text = score.as_text().unwrap_or_default().into_owned();
            Some(reward_value(&score).ok_or_else(|| Reject::bad_value("result.score", &text, "a finite number"))?)
        }
        None => None,
    };
    let human = record.take_text("annotator_kind").is_some_and(|kind| kind.eq_ignore_ascii_case("human"));
    let identifier = record.text("identifier").unwrap_or_default().to_owned();
    let reward = Reward {
        primary: true,
        name: name.clone(),
        value,
        label: result.take_text("label"),
        comment: result.take_text("explanation"),
        source: Some(if human { "human" } else { "grader" }.to_owned()),
        target: Some(RewardTarget { span_id: Some(about.clone()), ..RewardTarget::default() }),
        ..Reward::default()
    };
    Ok(Span {
        origin,
        format: Format::Phoenix,
        span_id: format!("annotation.{}", id.unwrap_or_else(|| format!("{about}.{name}.{identifier}"))),
        name,
        kind: Kind::Reward,
        kind_evidence: Some("annotator_kind".to_owned()),
        start_ns: time.map(|time| time.ns),
        end_ns: time.map(|time| time.ns),
        time_precision_ns: time.map(|time| time.precision_ns),
        rewards: vec![reward],
        attributes_json: record.to_json(),
        ..Span::default()
    })
}

#[cfg(test)]
mod tests {
    use super::super::record::{codes, sink_of};
    use super::*;
    use crate::trace::span::Status;

    #[test]
    fn nested_and_dotted_attributes_are_one() {
        let head = r#""name":"m","span_kind":"LLM","parent_id":"00f1","start_time":"2026-11-22T12:00:00+00:00","end_time":"2026-11-22T12:00:01+00:00","status_code":"ERROR","status_message":"busy""#;
        let ids = r#""context":{"trace_id":"fbeffbeffbeffbeffbeffbeffbeffbff","span_id":"c1e38046157ad96c"}"#;
        let dotted = r#""context.trace_id":"fbeffbeffbeffbeffbeffbeffbeffbff","context.span_id":"c1e38046157ad96c""#;
        for record in [
            format!(
                r#"{{{head},{ids},"attributes":{{"llm":{{"model_name":"m-1","input_messages":[{{"message":{{"role":"user","content":"q"}}}}]}},
                    "metadata":{{"task_id":"k"}}}},"events":[{{"name":"exception","timestamp":"2026-11-22T12:00:01+00:00","attributes":{{"exception.type":"E"}}}}]}}"#
            ),
            format!(
                r#"{{{head},{ids},"attributes":{{"llm.model_name":"m-1","llm.input_messages.0.message.role":"user","llm.input_messages.0.message.content":"q",
                    "metadata":"{{\"task_id\":\"k\"}}"}},"events":[{{"name":"exception","attributes":{{"exception.type":"E"}}}}]}}"#
            ),
            format!(
                r#"{{{head},{dotted},"attributes.llm.model_name":"m-1","attributes.llm.input_messages":[{{"message.role":"user","message.content":"q"}}],
                    "attributes.metadata":{{"task_id":"k"}},"events":[{{"name":"exception","attributes":{{"exception.type":"E"}}}}]}}"#
            ),
        ] {
            let sink = sink_of(&record, &[]);
            assert_eq!((codes(&sink), sink.spans.len()), (Vec::new(), 1), "{record}");
            let span = &sink.spans[0];
            assert_eq!((span.kind, span.status, span.error_type.as_deref()), (Kind::Llm, Status::Error, Some("E")));
            let llm = span.llm.as_deref().unwrap();
            assert_eq!((llm.model.as_deref(), llm.input.len()), (Some("m-1"), 1), "{record}");
            assert_eq!(span.identity.task_id.as_ref().map(|(_, id)| id.as_str()), Some("k"));
        }
    }

    #[test]
    fn annotations() {
        let read = |result: &str| {
            sink_of(&format!(r#"{{"span_id":"c1e38046157ad96c","name":"n","annotator_kind":"HUMAN","result":{result}}}"#), &[])
        };
        let sink = read(r#"{"label":"good","score":0.5,"explanation":"why"}"#);
        let reward = &sink.spans[0].rewards[0];
        assert_eq!((reward.value, reward.label.as_deref(), reward.source.as_deref()), (Some(0.5), Some("good"), Some("human")));
        assert_eq!(codes(&read(r#"{"score":"much"}"#)), ["bad_value"]);
        assert_eq!(codes(&sink_of(r#"{"span_id":null,"annotator_kind":"LLM","result":{}}"#, &[])), ["missing_field"]);
    }
}
