//! Langfuse exports: the download of its user interface, the rows of its API and of its blob storage export.
//!
//! ```text
//! {"trace": {"id", "name", "timestamp", "sessionId", "metadata", "scores": [score]}, "observations": [observation]}     the download
//! {"id", "timestamp", "sessionId", …, "observations": [observation], "scores": [score]}                                 a trace of the API
//! {"id", "traceId", "parentObservationId", "type", "name", "startTime", "endTime", "level", "statusMessage", "input",
//!  "output", "model", "modelParameters", "usageDetails", "metadata": {"attributes": {…}}}                              an observation
//! {"id", "traceId", "observationId", "name", "value", "stringValue", "dataType", "source", "comment"}                   a score
//! {"data": [row, …], "meta": {…}}                                                                                      a page of the API
//! ```
//!
//! The blob export writes the same keys as `trace_id`, `parent_observation_id` and so on, and its times without a zone. What the
//! instrumentation recorded stands in `metadata.attributes` and counts before Langfuse's own view of it. Times are those of milliseconds.

use std::borrow::Cow;

use super::metadata::identify;
use super::record::{parse, reward_value, take_id, take_time};
use super::{Keys, ReadOptions, Sink, ids};
use crate::trace::attributes::{Attributes, Value};
use crate::trace::convention::{self, RawSpan};
use crate::trace::message::text::string;
use crate::trace::object::Object;
use crate::trace::reject::Reject;
use crate::trace::span::{Format, Identity, Kind, Origin, Reward, RewardTarget, RolloutRecord, Span, Status};

/// Kinds of observations, as Langfuse writes them.
const TYPES: [&str; 10] =
    ["SPAN", "GENERATION", "EVENT", "AGENT", "TOOL", "CHAIN", "RETRIEVER", "EMBEDDING", "GUARDRAIL", "EVALUATOR"];

/// Keys of the blob export, and those of the others.
const SNAKE: [(&str, &str); 16] = [
    ("trace_id", "traceId"),
    ("parent_observation_id", "parentObservationId"),
    ("observation_id", "observationId"),
    ("start_time", "startTime"),
    ("end_time", "endTime"),
    ("status_message", "statusMessage"),
    ("provided_model_name", "model"),
    ("model_parameters", "modelParameters"),
    ("usage_details", "usageDetails"),
    ("session_id", "sessionId"),
    ("user_id", "userId"),
    ("string_value", "stringValue"),
    ("data_type", "dataType"),
    ("project_id", "projectId"),
    ("tool_definitions", "toolDefinitions"),
    ("trace_name", "traceName"),
];

/// Whether a record is any of these.
pub fn recognises(keys: &Keys<'_>) -> bool {
    is_download(keys) || is_row(keys) || keys.has("meta") && is_row(&keys.first_of("data"))
}

fn is_download(keys: &Keys<'_>) -> bool {
    keys.begins("trace", b'{') && keys.begins("observations", b'[')
}

fn is_row(keys: &Keys<'_>) -> bool {
    is_observation(keys) || is_score(keys) || is_trace(keys)
}

fn is_observation(keys: &Keys<'_>) -> bool {
    keys.has_any(&["traceId", "trace_id"])
        && keys.has_any(&["startTime", "start_time"])
        && keys.text("type").is_some_and(|kind| TYPES.contains(&kind))
}

fn is_score(keys: &Keys<'_>) -> bool {
    keys.has_any(&["traceId", "trace_id"]) && keys.has("name") && keys.has_any(&["dataType", "data_type"])
}

fn is_trace(keys: &Keys<'_>) -> bool {
    keys.has_all(&["id", "timestamp"])
        && keys.has_any(&["projectId", "project_id"])
        && keys.has_any(&["sessionId", "session_id", "userId", "user_id"])
}

/// Reads one record. Of several rows in one, those that cannot be used are set aside alone.
pub fn read(text: &str, origin: Origin, options: &ReadOptions, sink: &mut Sink) -> Result<(), Reject> {
    let keys = Keys::of(text);
    if is_row(&keys) {
        return read_row(text, &mut Places::new(origin), options, sink);
    }
    let mut record = parse(text)?;
    let mut places = Places::new(origin);
    let whole = [record.take("trace"), record.take("observations"), record.take("data")];
    for value in whole.iter().flatten() {
        match value {
            Value::Json(object) if object.starts_with('{') => read_part(object, &mut places, options, sink),
            rows => rows.elements().into_iter().for_each(|row| read_part(row, &mut places, options, sink)),
        }
    }
    Ok(())
}

/// Places of the rows in their record.
struct Places {
    next: Origin,
}

impl Places {
    fn new(origin: Origin) -> Self {
        Self { next: origin }
    }

    fn take(&mut self) -> Origin {
        let origin = self.next;
        self.next.position += 1;
        origin
    }
}

fn read_part(row: &str, places: &mut Places, options: &ReadOptions, sink: &mut Sink) {
    sink.part(row, places.next, |sink| read_row(row, places, options, sink));
}

fn read_row(text: &str, places: &mut Places, options: &ReadOptions, sink: &mut Sink) -> Result<(), Reject> {
    let keys = Keys::of(text);
    let record = in_camel_case(parse(text)?);
    if is_observation(&keys) {
        return observation(record, places.take(), options, sink);
    }
    if is_score(&keys) {
        let span = score(record, places.take(), sink)?;
        sink.spans.push(span);
        return Ok(());
    }
    trace(record, places, options, sink)
}

fn in_camel_case(mut record: Attributes<'_>) -> Attributes<'_> {
    for (snake, camel) in SNAKE {
        if !record.contains(camel)
            && let Some(value) = record.take(snake)
        {
            record.put(camel, value);
        }
    }
    record
}

/// A trace: whom its observations belong to, and in some exports these and its scores too.
fn trace(mut record: Attributes<'_>, places: &mut Places, options: &ReadOptions, sink: &mut Sink) -> Result<(), Reject> {
    let id = take_id(&mut record, "id").ok_or(Reject::MissingField { field: "id" })?;
    let origin = places.take();
    let trace_id = ids::trace_id(&id);
    let time = take_time(&mut record, "timestamp", origin, sink);
    let mut identity = Identity { session_id: take_id(&mut record, "sessionId"), ..Identity::default() };
    identify(&mut identity, &Attributes::of_object(record.get("metadata")), options);
    let nested: Vec<Value<'_>> = ["scores", "observations"]
        .into_iter()
        .filter_map(|key| match record.get(key) {
            // The list of traces has ids here, which say nothing that the rows do not.
            Some(Value::Json(list)) if list.starts_with("[{") => record.take(key),
            _ => None,
        })
        .collect();
    let task_input = record.take("input").and_then(decoded);
    sink.spans.push(Span {
        origin,
        format: Format::Langfuse,
        trace_id,
        span_id: format!("trace.{id}"),
        name: record.take_text("name").unwrap_or_default(),
        kind: Kind::Rollout,
        kind_evidence: Some("trace".to_owned()),
        start_ns: time.map(|time| time.ns),
        time_precision_ns: time.map(|time| time.precision_ns),
        identity,
        rollout: Some(Box::new(RolloutRecord { task_input, ..RolloutRecord::default() })),
        attributes_json: record.to_json(),
        ..Span::default()
    });
    for value in &nested {
        value.elements().into_iter().for_each(|row| read_part(row, places, options, sink));
    }
    Ok(())
}

/// Text as it was before it was written as JSON once more.
fn decoded(value: Value<'_>) -> Option<String> {
    let text = value.into_text()?;
    Some(string(&text).map_or_else(|| text.clone(), Cow::into_owned))
}

fn observation(mut record: Attributes<'_>, origin: Origin, options: &ReadOptions, sink: &mut Sink) -> Result<(), Reject> {
    let span_id = take_id(&mut record, "id").and_then(|id| ids::span_id(&id)).ok_or(Reject::MissingField { field: "id" })?;
    let start = take_time(&mut record, "startTime", origin, sink);
    let end = take_time(&mut record, "endTime", origin, sink);
    let metadata_object = record.take_object("metadata");
    let mut metadata = Attributes::of_object(metadata_object.as_ref());
    let recorded = metadata.take_object("attributes");
    let resource = metadata.take_object("resourceAttributes");
    let resource = Attributes::of_object(resource.as_ref());
    let scope = metadata.take_object("scope");
    let mut scope = Attributes::of_object(scope.as_ref());

    // What the instrumentation recorded, in the strings that it came in.
    let recorded = Attributes::of_object(recorded.as_ref());
    let as_text = |value: &Value<'_>| match value {
        Value::Json(_) => Value::Str(value.as_text().unwrap_or_default().into_owned().into()),
        other => other.clone().into_owned(),
    };
    let mut attributes = Attributes::new(recorded.iter().map(|(key, value)| (key.to_owned().into(), as_text(value))).collect());
    for (key, value) in metadata.iter() {
        attributes.put(format!("metadata.{key}"), as_text(value));
    }
    let kind = record.take_text("type").unwrap_or_default();
    let output = record.take("output").and_then(decoded);
    let is_tool_message =
        || output.as_deref().and_then(Object::parse).is_some_and(|said| said.text("type").as_deref() == Some("tool"));
    // Before Langfuse had types of its own everything but a call was a span.
    let known_better = ["openinference.span.kind", "gen_ai.operation.name", "traceloop.span.kind", "langfuse.observation.type"];
    match kind.as_str() {
        "SPAN" if is_tool_message() => attributes.put("langfuse.observation.type", Value::Str("tool".into())),
        "SPAN" if known_better.iter().any(|key| attributes.contains(key)) => {}
        kind => attributes.put("langfuse.observation.type", Value::Str(kind.to_ascii_lowercase().into())),
    }
    let input =
        record.take("input").and_then(decoded).map(|input| with_tools(&input, record.get("toolDefinitions")).unwrap_or(input));
    for (key, text) in [
        ("langfuse.observation.input", input),
        ("langfuse.observation.output", output),
        ("langfuse.observation.level", record.take_text("level")),
        ("langfuse.observation.status_message", record.take_text("statusMessage")),
        ("langfuse.observation.model.name", record.take_text("model")),
        ("langfuse.observation.model.parameters", record.take_text("modelParameters")),
        ("langfuse.observation.usage_details", record.take_text("usageDetails")),
        ("session.id", take_id(&mut record, "sessionId")),
    ] {
        if let Some(text) = text.filter(|text| !text.is_empty() && text != "{}") {
            attributes.put(key, Value::Str(text.into()));
        }
    }
    let trace_id = take_id(&mut record, "traceId").and_then(|id| ids::trace_id(&id));
    let parent_span_id = take_id(&mut record, "parentObservationId").and_then(|id| ids::span_id(&id));
    let name = record.take_text("name").unwrap_or_default();
    for (key, value) in record.iter() {
        attributes.put(key.to_owned(), value.clone().into_owned());
    }
    let raw = RawSpan {
        origin,
        format: Format::Langfuse,
        trace_id,
        span_id,
        parent_span_id,
        name: name.into(),
        start_ns: start.map(|time| time.ns),
        end_ns: end.map(|time| time.ns),
        time_precision_ns: start.or(end).map(|time| time.precision_ns),
        status: Status::Unset,
        attributes,
        service_name: resource.text("service.name").map(str::to_owned),
        scope_name: scope.take_text("name").map(Cow::Owned),
        scope_version: scope.take_text("version").map(Cow::Owned),
        resource_json: resource.to_json(),
        ..RawSpan::default()
    };
    convention::interpret(raw, options, sink);
    Ok(())
}

/// Messages and tools apart: Langfuse appends the tools that were offered to the messages, as messages of a tool.
fn with_tools(input: &str, definitions: Option<&Value<'_>>) -> Option<String> {
    let list = Value::Json(input.into());
    let is_offer = |message: &str| {
        let message = Object::parse(message);
        let content = message
            .as_ref()
            .filter(|message| message.text("role").as_deref() == Some("tool"))
            .and_then(|said| said.object("content"));
        content
            .filter(|content| content.text("type").as_deref() == Some("function"))
            .and_then(|content| content.to_json(|_| true))
    };
    let mut messages = Vec::new();
    let mut tools: Vec<String> = Vec::new();
    for message in list.elements() {
        match is_offer(message) {
            Some(tool) => tools.push(tool),
            None => messages.push(message),
        }
    }
    if tools.is_empty() {
        tools = definitions?.elements().into_iter().map(str::to_owned).collect();
    }
    (!tools.is_empty() && !messages.is_empty())
        .then(|| format!("{{\"messages\":[{}],\"tools\":[{}]}}", messages.join(","), tools.join(",")))
}

fn score(mut record: Attributes<'_>, origin: Origin, sink: &mut Sink) -> Result<Span, Reject> {
    let name = take_id(&mut record, "name").ok_or(Reject::MissingField { field: "name" })?;
    let id = take_id(&mut record, "id");
    let trace_id = take_id(&mut record, "traceId").and_then(|id| ids::trace_id(&id));
    let about = take_id(&mut record, "observationId").and_then(|id| ids::span_id(&id));
    let time = take_time(&mut record, "timestamp", origin, sink);
    let label = record.take_text("stringValue").filter(|label| !label.is_empty());
    let categorical = record.text("dataType") == Some("CATEGORICAL");
    let value = match record.take("value").filter(|_| !categorical) {
        Some(Value::Bool(flag)) => Some(f64::from(u8::from(flag))),
        Some(value) => {
            let text = value.as_text().unwrap_or_default().into_owned();
            Some(reward_value(&value).ok_or_else(|| Reject::bad_value("value", &text, "a finite number"))?)
        }
        None => None,
    };
    let source = match record.take_text("source").as_deref() {
        Some("ANNOTATION") => Some("human"),
        Some("EVAL") => Some("grader"),
        _ => None,
    };
    let reward = Reward {
        primary: true,
        name: name.clone(),
        value,
        label,
        source: source.map(str::to_owned),
        comment: record.take_text("comment"),
        is_final: about.is_none(),
        target: Some(RewardTarget { trace_id: trace_id.clone(), span_id: about, ..RewardTarget::default() }),
        ..Reward::default()
    };
    Ok(Span {
        origin,
        format: Format::Langfuse,
        span_id: id.map_or_else(|| super::record::placed_id(origin), |id| format!("score.{id}")),
        trace_id,
        name,
        kind: Kind::Reward,
        kind_evidence: Some("dataType".to_owned()),
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

    fn one(record: &str) -> Span {
        let mut sink = sink_of(record, &[]);
        assert_eq!((codes(&sink), sink.spans.len()), (Vec::new(), 1), "{record}");
        sink.spans.remove(0)
    }

    #[test]
    fn both_spellings_of_an_observation_are_one() {
        let camel = one(
            r#"{"id":"o","traceId":"t","parentObservationId":"p","type":"TOOL","name":"f","startTime":"2026-11-22T12:00:00.000Z","endTime":"2026-11-22T12:00:00.500Z",
                "level":"ERROR","statusMessage":"boom","input":{"x":1},"output":null,"projectId":"q"}"#,
        );
        let snake = one(
            r#"{"id":"o","trace_id":"t","parent_observation_id":"p","type":"TOOL","name":"f","start_time":"2026-11-22 12:00:00.000000","end_time":"2026-11-22 12:00:00.500000",
                "level":"ERROR","status_message":"boom","input":"{\"x\":1}","project_id":"q"}"#,
        );
        for span in [&camel, &snake] {
            assert_eq!((span.kind, span.status, span.status_message.as_deref()), (Kind::Tool, Status::Error, Some("boom")));
            assert_eq!((span.trace_id.as_deref(), span.parent_span_id.as_deref()), (Some("t"), Some("p")));
            assert_eq!((span.start_ns, span.end_ns), (Some(1_795_348_800_000_000_000), Some(1_795_348_800_500_000_000)));
            assert_eq!(span.tool.as_deref().unwrap().arguments.as_deref(), Some(r#"{"x":1}"#));
        }
        assert_eq!((camel.time_precision_ns, snake.time_precision_ns), (Some(1_000_000), Some(1_000)));
    }

    #[test]
    fn tools_among_the_messages_are_offers() {
        let span = one(
            r#"{"id":"o","traceId":"t","type":"GENERATION","name":"m","startTime":"2026-11-22T12:00:00.000Z","model":"m-1","usageDetails":{"input":6,"output":2},
                "modelParameters":{"temperature":0.5},"input":[{"role":"user","content":"q"},{"role":"tool","content":{"type":"function","function":{"name":"f"}}}],
                "output":{"role":"assistant","content":"a"},"metadata":{"attributes":{"gen_ai.response.id":"r"},"task_id":"k"}}"#,
        );
        let llm = span.llm.as_deref().unwrap();
        assert_eq!((llm.input.len(), llm.tools.len(), llm.input_tokens, llm.temperature), (1, 1, Some(6), Some(0.5)));
        assert_eq!((llm.model.as_deref(), llm.response_id.as_deref()), (Some("m-1"), Some("r")));
        assert_eq!(span.identity.task_id.as_ref().map(|(_, id)| id.as_str()), Some("k"));
    }

    #[test]
    fn scores() {
        let read = |rest: &str| sink_of(&format!(r#"{{"id":"s","traceId":"t","name":"n",{rest}}}"#), &[]);
        for (rest, value, label, is_final, source) in [
            (r#""observationId":null,"value":0.5,"dataType":"NUMERIC","source":"EVAL""#, Some(0.5), None, true, Some("grader")),
            (
                r#""observationId":"o","value":1,"dataType":"BOOLEAN","stringValue":"True","source":"ANNOTATION""#,
                Some(1.0),
                Some("True"),
                false,
                Some("human"),
            ),
            (r#""value":0,"dataType":"CATEGORICAL","stringValue":"good","source":"API""#, None, Some("good"), true, None),
        ] {
            let sink = read(rest);
            assert_eq!(codes(&sink), [""; 0], "{rest}");
            let reward = &sink.spans[0].rewards[0];
            assert_eq!(
                (reward.value, reward.label.as_deref(), reward.is_final, reward.source.as_deref()),
                (value, label, is_final, source)
            );
        }
        assert_eq!(codes(&read(r#""value":"NaN","dataType":"NUMERIC""#)), ["bad_value"]);
    }

    #[test]
    fn pages_and_traces_hold_several_rows() {
        let score = r#"{"id":"s","traceId":"t","name":"n","value":1,"dataType":"NUMERIC"}"#;
        let row = r#"{"id":"o","traceId":"t","type":"SPAN","name":"x","startTime":"2026-11-22T12:00:00.000Z"}"#;
        let trace = sink_of(
            &format!(
                r#"{{"id":"t","projectId":"p","timestamp":"2026-11-22T12:00:00.000Z","sessionId":null,"input":"\"q\"","scores":[{score},{{"name":"n"}}],"observations":[{row}]}}"#
            ),
            &[],
        );
        assert_eq!((codes(&trace), trace.spans.len()), (vec!["missing_field"], 3));
        assert_eq!(trace.spans[0].rollout.as_deref().unwrap().task_input.as_deref(), Some("q"));
        let page = sink_of(&format!(r#"{{"data":[{row},5],"meta":{{"page":1}}}}"#), &[]);
        assert_eq!(page.spans.len(), 1);
        assert_eq!(codes(&page).len(), 1);
    }
}
