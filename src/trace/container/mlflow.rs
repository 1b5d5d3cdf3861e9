//! MLflow 3: one trace a record, with its spans.
//!
//! ```text
//! {"info": {"trace_id": "tr-…", "state", "request_time", "execution_duration_ms", "trace_metadata", "tags",
//!           "assessments": [{"assessment_name", "feedback": {"value"}, "source": {"source_type"}, "rationale", "span_id"}]},
//!  "data": {"spans": [{"trace_id", "span_id", "parent_span_id", "name", "start_time_unix_nano", "end_time_unix_nano",
//!                      "status": {"code", "message"}, "attributes": {name: JSON in a string}, "events"}]}}
//! ```
//!
//! Ids of spans are base64; the trace's own is `tr-` and the same in hex.

use std::borrow::Cow;

use super::metadata::{first_text, identify};
use super::record::{parse, reward_value, status, take_id, take_time};
use super::{Keys, ReadOptions, Sink, ids};
use crate::trace::attributes::{Attributes, Value};
use crate::trace::convention::{self, RawEvent, RawSpan};
use crate::trace::reject::Reject;
use crate::trace::span::{Format, Identity, Kind, Origin, Reward, RewardTarget, RolloutRecord, Span};

/// Whether a record is a trace.
pub fn recognises(keys: &Keys<'_>) -> bool {
    keys.inside("info").has_any(&["trace_id", "request_id"]) && keys.inside("data").begins("spans", b'[')
}

/// Reads one trace. A span that cannot be used is set aside alone.
pub fn read(text: &str, origin: Origin, options: &ReadOptions, sink: &mut Sink) -> Result<(), Reject> {
    let mut record = parse(text)?;
    let data = record.take_object("data");
    let spans = Attributes::of_object(data.as_ref()).take("spans").map(Value::into_owned);
    let info = record.take_object("info");
    let info = Attributes::of_object(info.as_ref());
    let id = first_text(&info, ["trace_id", "request_id"]).ok_or(Reject::MissingField { field: "info.trace_id" })?;
    let trace_id = ids::trace_id(id.strip_prefix("tr-").unwrap_or(&id));
    let assessments = info.get("assessments").cloned();
    let about = about(info.clone(), &id, trace_id.clone(), origin, options, sink);
    sink.spans.push(about);
    let mut position = 0;
    let mut next = || {
        position += 1;
        Origin { position, ..origin }
    };
    for part in spans.iter().flat_map(Value::elements) {
        let origin = next();
        sink.part(part, origin, |sink| span(parse(part)?, trace_id.clone(), origin, options, sink));
    }
    for part in assessments.iter().flat_map(Value::elements) {
        let origin = next();
        sink.part(part, origin, |sink| {
            let found = assessment(parse(part)?, trace_id.clone(), origin, sink)?;
            sink.spans.extend(found);
            Ok(())
        });
    }
    Ok(())
}

fn about(
    mut info: Attributes<'_>,
    id: &str,
    trace_id: Option<String>,
    origin: Origin,
    options: &ReadOptions,
    sink: &mut Sink,
) -> Span {
    let start = take_time(&mut info, "request_time", origin, sink);
    let state = info.take_text("state");
    info.take("assessments");
    let mut identity = Identity::default();
    for key in ["tags", "trace_metadata"] {
        let metadata = Attributes::of_object(info.get(key));
        identify(&mut identity, &metadata, options);
        let session = first_text(&metadata, ["mlflow.trace.session"]);
        identity.session_id = identity.session_id.or(session);
    }
    let metadata = Attributes::of_object(info.get("trace_metadata"));
    let task_input = first_text(&metadata, ["mlflow.traceInputs"]);
    drop(metadata);
    let status = match state.as_deref() {
        Some("OK") => "succeeded",
        Some("ERROR") => "failed",
        _ => "running",
    };
    Span {
        origin,
        format: Format::Mlflow,
        trace_id,
        span_id: id.to_owned(),
        name: "trace".to_owned(),
        kind: Kind::Rollout,
        kind_evidence: Some("info".to_owned()),
        start_ns: start.map(|time| time.ns),
        time_precision_ns: start.map(|time| time.precision_ns),
        identity,
        rollout: Some(Box::new(RolloutRecord { task_input, status: Some(status.to_owned()), status_message: None })),
        attributes_json: info.to_json(),
        ..Span::default()
    }
}

fn span(
    mut record: Attributes<'_>,
    trace_id: Option<String>,
    origin: Origin,
    options: &ReadOptions,
    sink: &mut Sink,
) -> Result<(), Reject> {
    // Before version 3 ids stood in a context of their own.
    let context = record.take_object("context");
    let mut context = Attributes::of_object(context.as_ref());
    let span_id = take_id(&mut record, "span_id")
        .or_else(|| take_id(&mut context, "span_id"))
        .and_then(|id| ids::span_id(&id))
        .ok_or(Reject::MissingField { field: "span_id" })?;
    let parent = take_id(&mut record, "parent_span_id").or_else(|| take_id(&mut record, "parent_id"));
    let mut time = |keys: [&'static str; 2]| keys.into_iter().find_map(|key| take_time(&mut record, key, origin, sink));
    let (start, end) = (time(["start_time_unix_nano", "start_time"]), time(["end_time_unix_nano", "end_time"]));
    let outcome = record.take_object("status");
    let mut outcome = Attributes::of_object(outcome.as_ref());
    let code = outcome.take("code").or_else(|| record.take("status_code"));
    let own = record.take_object("attributes");
    let events = record.take("events");
    let mut events: Vec<Attributes<'_>> =
        events.iter().flat_map(Value::elements).filter_map(|event| Attributes::from_json(event).ok()).collect();
    let raw = RawSpan {
        origin,
        format: Format::Mlflow,
        trace_id,
        span_id,
        parent_span_id: parent.and_then(|id| ids::span_id(&id)),
        name: record.take_text("name").unwrap_or_default().into(),
        start_ns: start.map(|time| time.ns),
        end_ns: end.map(|time| time.ns),
        time_precision_ns: start.or(end).map(|time| time.precision_ns),
        status: status(code.as_ref()),
        status_message: outcome.take_text("message").filter(|text| !text.is_empty()).map(Cow::Owned),
        attributes: Attributes::of_object(own.as_ref()),
        events: events.iter_mut().map(|event| raw_event(event, origin, sink)).collect(),
        ..RawSpan::default()
    };
    convention::interpret(raw, options, sink);
    Ok(())
}

fn raw_event<'a>(event: &'a mut Attributes<'_>, origin: Origin, sink: &mut Sink) -> RawEvent<'a> {
    let time_ns =
        ["time_unix_nano", "timestamp"].into_iter().find_map(|key| take_time(event, key, origin, sink)).map(|time| time.ns);
    let event = &*event;
    RawEvent {
        name: event.text("name").unwrap_or_default().into(),
        time_ns,
        attributes: Attributes::of_object(event.get("attributes")),
    }
}

/// Feedback on the trace, or on one of its spans. An expectation is no reward: it says what should have come out.
fn assessment(
    mut record: Attributes<'_>,
    trace_id: Option<String>,
    origin: Origin,
    sink: &mut Sink,
) -> Result<Option<Span>, Reject> {
    let name = first_text(&record, ["assessment_name", "name"]).ok_or(Reject::MissingField { field: "assessment_name" })?;
    let feedback = record.take_object("feedback");
    let Some(value) = Attributes::of_object(feedback.as_ref()).take("value").map(Value::into_owned) else { return Ok(None) };
    let time = take_time(&mut record, "create_time", origin, sink);
    let about = take_id(&mut record, "span_id").and_then(|id| ids::span_id(&id));
    let (value, label) = match value {
        Value::Bool(flag) => (Some(f64::from(u8::from(flag))), None),
        Value::Str(label) => (None, Some(label.into_owned())),
        value => {
            let text = value.as_text().unwrap_or_default().into_owned();
            (Some(reward_value(&value).ok_or_else(|| Reject::bad_value("feedback.value", &text, "a finite number"))?), None)
        }
    };
    let source = record.take_object("source");
    let source = match Attributes::of_object(source.as_ref()).text("source_type") {
        Some("HUMAN") => "human",
        _ => "grader",
    };
    let reward = Reward {
        primary: true,
        name: name.clone(),
        value,
        label,
        source: Some(source.to_owned()),
        comment: record.take_text("rationale"),
        is_final: about.is_none(),
        target: Some(RewardTarget { trace_id: trace_id.clone(), span_id: about, ..RewardTarget::default() }),
        ..Reward::default()
    };
    let id = take_id(&mut record, "assessment_id").unwrap_or_else(|| super::record::placed_id(origin));
    Ok(Some(Span {
        origin,
        format: Format::Mlflow,
        trace_id,
        span_id: id,
        name,
        kind: Kind::Reward,
        kind_evidence: Some("feedback".to_owned()),
        start_ns: time.map(|time| time.ns),
        end_ns: time.map(|time| time.ns),
        time_precision_ns: time.map(|time| time.precision_ns),
        rewards: vec![reward],
        attributes_json: record.to_json(),
        ..Span::default()
    }))
}

#[cfg(test)]
mod tests {
    use super::super::record::{codes, sink_of};
    use super::*;

    fn trace(spans: &str, assessments: &str) -> Sink {
        sink_of(
            &format!(
                r#"{{"info":{{"trace_id":"tr-fbeffbeffbeffbeffbeffbeffbeffbff","state":"ERROR","request_time":"2026-11-22T16:06:26.399Z",
                    "trace_metadata":{{"mlflow.trace.session":"s"}},"tags":{{"task_id":"k"}},"assessments":[{assessments}]}},"data":{{"spans":[{spans}]}}}}"#
            ),
            &[],
        )
    }

    #[test]
    fn spans_and_assessments_belong_to_the_trace() {
        let sink = trace(
            r#"{"trace_id":"++/77/vv++/77/vv++/7/w==","span_id":"weOARhV62Ww=","parent_span_id":null,"name":"f","start_time_unix_nano":1795363586399362080,
                "end_time_unix_nano":1795363586584519826,"status":{"code":"STATUS_CODE_ERROR","message":"boom"},
                "attributes":{"mlflow.spanType":"\"TOOL\"","mlflow.spanInputs":"{\"x\": 1}","mlflow.spanOutputs":"\"4\""}},{"name":"no id"}"#,
            r#"{"assessment_name":"a","feedback":{"value":true},"source":{"source_type":"HUMAN"}},{"assessment_name":"e","expectation":{"value":"4"}},
               {"assessment_name":"l","feedback":{"value":"good"},"span_id":"weOARhV62Ww="},{"assessment_name":"n","feedback":{"value":[1]}}"#,
        );
        assert_eq!(codes(&sink), ["missing_field", "bad_value"]);
        assert!(sink.spans.iter().all(|span| span.trace_id.as_deref() == Some("fbeffbeffbeffbeffbeffbeffbeffbff")));
        let [about, tool, flag, label] = &sink.spans[..] else { panic!("{} spans", sink.spans.len()) };
        assert_eq!(
            (about.identity.session_id.as_deref(), about.rollout.as_deref().unwrap().status.as_deref()),
            (Some("s"), Some("failed"))
        );
        let found = tool.tool.as_deref().unwrap();
        assert_eq!((tool.span_id.as_str(), found.name.as_deref()), ("c1e38046157ad96c", Some("f")));
        assert_eq!((found.arguments.as_deref(), found.result.as_deref()), (Some(r#"{"x": 1}"#), Some("4")));
        assert_eq!((flag.rewards[0].value, flag.rewards[0].is_final), (Some(1.0), true));
        assert_eq!((label.rewards[0].label.as_deref(), label.rewards[0].is_final), (Some("good"), false));
    }
}
