//! OpenAI Agents SDK: the records of its own trace processors and of its exporter.
//!
//! ```text
//! {"object": "trace", "id": "trace_…", "workflow_name", "group_id", "metadata"}
//! {"object": "trace.span", "id": "span_…", "trace_id", "parent_id", "started_at", "ended_at", "span_data": {"type": …}, "error"}
//! {"data": [record, …]}                      what the exporter posts
//! {"event": "span_end", "span": record}      what people's own processors write
//! ```
//!
//! The record of a trace may come last. It alone knows the group and the metadata. The default model (Responses API) records neither
//! messages nor the model's name: such a call has its usage and its response id, and no choices.

use super::metadata::identify;
use super::record::{parse, take_id, take_time};
use super::{Keys, ReadOptions, Sink};
use crate::trace::attributes::{Attributes, Value};
use crate::trace::message::{Role, read_messages, read_stated};
use crate::trace::object::Object;
use crate::trace::openai::{read_parameters_json, read_usage};
use crate::trace::reject::Reject;
use crate::trace::span::{Choice, Format, Identity, Kind, Llm, Origin, RolloutRecord, Span, Status, TaskIdSource, Tool};

/// Whether a record is a trace, a span, a batch of them or one in a wrapper.
pub fn recognises(keys: &Keys<'_>) -> bool {
    let is_record = |keys: &Keys<'_>| matches!(keys.text("object"), Some("trace" | "trace.span"));
    is_record(keys)
        || (keys.has("event") && (is_record(&keys.inside("span")) || is_record(&keys.inside("trace"))))
        || is_record(&keys.first_of("data"))
}

/// Reads one record. In a batch, what cannot be used is set aside alone.
pub fn read(text: &str, origin: Origin, options: &ReadOptions, sink: &mut Sink) -> Result<(), Reject> {
    let mut record = parse(text)?;
    if record.contains("object") {
        return read_one(record, origin, options, sink);
    }
    let batch = record.take("data");
    if let Some(batch) = batch {
        for (part, position) in batch.elements().into_iter().zip(0..) {
            let origin = Origin { position, ..origin };
            sink.part(part, origin, |sink| read_one(parse(part)?, origin, options, sink));
        }
        return Ok(());
    }
    let inner = record.take_object("span").or_else(|| record.take_object("trace"));
    read_one(Attributes::of_object(inner.as_ref()), origin, options, sink)
}

fn read_one(record: Attributes<'_>, origin: Origin, options: &ReadOptions, sink: &mut Sink) -> Result<(), Reject> {
    let span = match record.text("object") {
        Some("trace") => trace(record, origin, options)?,
        Some("trace.span") => span(record, origin, sink)?,
        object => return Err(Reject::bad_value("object", object.unwrap_or_default(), "`trace` or `trace.span`")),
    };
    sink.spans.push(span);
    Ok(())
}

/// A trace: what groups and describes its spans.
fn trace(mut record: Attributes<'_>, origin: Origin, options: &ReadOptions) -> Result<Span, Reject> {
    let trace_id = take_id(&mut record, "id").ok_or(Reject::MissingField { field: "id" })?;
    record.take("object");
    let group = take_id(&mut record, "group_id");
    let mut identity = Identity { session_id: group.clone(), group_id: group.clone(), ..Identity::default() };
    identify(&mut identity, &Attributes::of_object(record.get("metadata")), options);
    if identity.task_id.is_none() {
        identity.task_id = group.map(|group| (TaskIdSource::Group, group));
    }
    Ok(Span {
        origin,
        format: Format::OpenAiAgents,
        span_id: trace_id.clone(),
        trace_id: Some(trace_id),
        name: record.take_text("workflow_name").unwrap_or_default(),
        kind: Kind::Rollout,
        kind_evidence: Some("object".to_owned()),
        identity,
        rollout: Some(Box::<RolloutRecord>::default()),
        attributes_json: record.to_json(),
        ..Span::default()
    })
}

fn span(mut record: Attributes<'_>, origin: Origin, sink: &mut Sink) -> Result<Span, Reject> {
    let span_id = take_id(&mut record, "id").ok_or(Reject::MissingField { field: "id" })?;
    record.take("object");
    let start = take_time(&mut record, "started_at", origin, sink);
    let end = take_time(&mut record, "ended_at", origin, sink);
    let data_object = record.take_object("span_data");
    let mut data = Attributes::of_object(data_object.as_ref());
    let mut span = Span {
        origin,
        format: Format::OpenAiAgents,
        trace_id: take_id(&mut record, "trace_id"),
        span_id,
        parent_span_id: take_id(&mut record, "parent_id"),
        start_ns: start.map(|time| time.ns),
        end_ns: end.map(|time| time.ns),
        time_precision_ns: start.or(end).map(|time| time.precision_ns),
        kind_evidence: Some("span_data.type".to_owned()),
        ..Span::default()
    };
    read_error(&mut span, &record);
    read_data(&mut span, &mut data);
    data.fill_from(&record);
    span.attributes_json = data.to_json();
    Ok(span)
}

/// `error` is `{message, data}`. It stays among the attributes, since only its texts have fields.
fn read_error(span: &mut Span, record: &Attributes<'_>) {
    let Some(error) = record.get("error") else { return };
    span.status = Status::Error;
    let members = Attributes::of_object(Some(error));
    let detail = Attributes::of_object(members.get("data"));
    span.status_message = match (members.text("message"), detail.text("error")) {
        (Some(message), Some(detail)) => Some(format!("{message}: {detail}")),
        (Some(message), None) => Some(message.to_owned()),
        (None, _) => error.as_text().map(|text| text.into_owned()),
    };
}

/// Fills the fields that the kind of span has; `data` keeps the rest.
fn read_data(span: &mut Span, data: &mut Attributes<'_>) {
    let kind = data.take_text("type").unwrap_or_default();
    let name = data.text("name").unwrap_or(&kind).to_owned();
    span.kind = match kind.as_str() {
        "agent" => {
            span.identity.agent = data.take_text("name");
            Kind::Agent
        }
        "generation" | "response" => {
            span.llm = Some(Box::new(llm(data)));
            Kind::Llm
        }
        "function" => {
            span.tool = Some(Box::new(Tool {
                name: data.take_text("name"),
                arguments: data.take_text("input"),
                result: data.take_text("output"),
                ..Tool::default()
            }));
            Kind::Tool
        }
        "handoff" => {
            span.identity.agent = data.text("to_agent").map(str::to_owned);
            Kind::Handoff
        }
        "guardrail" => Kind::Guardrail,
        "custom" | "task" | "turn" => {
            let detail = Attributes::of_object(data.get("data"));
            span.identity.agent_hint = detail.text("agent_name").map(str::to_owned);
            match detail.text("sdk_span_type") {
                Some("task" | "turn") => Kind::Chain,
                _ if kind != "custom" => Kind::Chain,
                _ => Kind::Other,
            }
        }
        "mcp_tools" => Kind::Setup,
        _ => Kind::Other,
    };
    if data.text("name") == Some(name.as_str()) {
        data.take("name");
    }
    if !matches!(span.kind, Kind::Llm | Kind::Tool | Kind::Agent | Kind::Handoff | Kind::Guardrail) {
        data.put("type", Value::Str(kind.into()));
    }
    span.name = name;
}

/// A call of the chat model, with its messages, or of the Responses API, without.
fn llm(data: &mut Attributes<'_>) -> Llm {
    let mut llm = Llm { model_requested: data.take_text("model"), response_id: data.take_text("response_id"), ..Llm::default() };
    if let Some(input) = data.get("input").and_then(Value::as_text)
        && let Ok(messages) = read_messages(&input)
    {
        llm.input = messages;
        data.take("input");
    }
    if let Some(output) = data.get("output").and_then(Value::as_text)
        && let Ok(stated) = read_stated(&output, Role::Assistant)
    {
        let choices = stated.into_iter().filter(|stated| stated.message.role == Role::Assistant);
        llm.choices = choices
            .map(|stated| Choice { message: stated.message, finish_reason: stated.finish_reason, ..Choice::default() })
            .collect();
        data.take("output");
    }
    if let Some(usage) = data.get("usage").and_then(Value::as_text)
        && let Some(usage) = Object::parse(&usage)
    {
        read_usage(&usage, &mut llm);
    }
    if let Some(config) = data.take_object("model_config").and_then(Value::into_text) {
        read_parameters_json(&config, &mut llm);
    }
    llm
}

#[cfg(test)]
mod tests {
    use super::super::record::{codes, sink_of};
    use super::*;

    fn one(span_data: &str, error: &str) -> Span {
        let record = format!(
            r#"{{"object":"trace.span","id":"span_1","trace_id":"trace_1","parent_id":"span_0","started_at":"2026-11-22T15:47:23.850663+00:00",
                 "ended_at":null,"span_data":{span_data},"error":{error}}}"#
        );
        let mut sink = sink_of(&record, &[]);
        assert_eq!((codes(&sink), sink.spans.len()), (Vec::new(), 1), "{record}");
        sink.spans.remove(0)
    }

    #[test]
    fn every_type_of_span() {
        for (span_data, kind, name) in [
            (r#"{"type":"agent","name":"solver","handoffs":[],"tools":["f"],"output_type":"str"}"#, Kind::Agent, "solver"),
            (r#"{"type":"response","response_id":"resp_1","usage":{"input_tokens":5,"output_tokens":2}}"#, Kind::Llm, "response"),
            (r#"{"type":"generation","model":"m"}"#, Kind::Llm, "generation"),
            (r#"{"type":"function","name":"f","input":"{}","output":null}"#, Kind::Tool, "f"),
            (r#"{"type":"handoff","from_agent":"a","to_agent":"b"}"#, Kind::Handoff, "handoff"),
            (r#"{"type":"guardrail","name":"g","triggered":true}"#, Kind::Guardrail, "g"),
            (r#"{"type":"custom","name":"turn","data":{"sdk_span_type":"turn","agent_name":"a"}}"#, Kind::Chain, "turn"),
            (r#"{"type":"custom","name":"mine","data":{}}"#, Kind::Other, "mine"),
            (r#"{"type":"mcp_tools","server":"s","result":["f"]}"#, Kind::Setup, "mcp_tools"),
            (r#"{"type":"speech","output":"x"}"#, Kind::Other, "speech"),
            (r#"{"type":"never seen"}"#, Kind::Other, "never seen"),
        ] {
            let span = one(span_data, "null");
            assert_eq!((span.kind, span.name.as_str()), (kind, name), "{span_data}");
        }
    }

    #[test]
    fn what_has_no_field_is_kept() {
        let guardrail = one(r#"{"type":"guardrail","name":"g","triggered":true}"#, "null");
        assert_eq!(guardrail.attributes_json.as_deref(), Some(r#"{"triggered":true}"#));
        let handoff = one(r#"{"type":"handoff","from_agent":"a","to_agent":"b"}"#, "null");
        assert_eq!(handoff.identity.agent.as_deref(), Some("b"));
        let turn = one(r#"{"type":"custom","name":"turn","data":{"sdk_span_type":"turn","agent_name":"a","turn":2}}"#, "null");
        assert_eq!(turn.identity.agent_hint.as_deref(), Some("a"));
    }

    #[test]
    fn failed_tool() {
        let span = one(
            r#"{"type":"function","name":"f","input":"{\"a\": 1}","output":"An error occurred.","mcp_data":null}"#,
            r#"{"message":"Error running tool (non-fatal)","data":{"tool_name":"f","error":"boom"}}"#,
        );
        assert_eq!((span.status, span.status_message.as_deref()), (Status::Error, Some("Error running tool (non-fatal): boom")));
        let tool = span.tool.as_deref().unwrap();
        assert_eq!((tool.arguments.as_deref(), tool.result.as_deref()), (Some(r#"{"a": 1}"#), Some("An error occurred.")));
    }

    #[test]
    fn calls_with_and_without_messages() {
        let span = one(r#"{"type":"response","response_id":"resp_1","usage":{"input_tokens":5,"output_tokens":2}}"#, "null");
        let llm = span.llm.as_deref().unwrap();
        assert_eq!((llm.response_id.as_deref(), llm.input_tokens, llm.output_tokens), (Some("resp_1"), Some(5), Some(2)));
        assert!(llm.input.is_empty() && llm.choices.is_empty() && !llm.tools_known);
        let span = one(
            r#"{"type":"generation","input":[{"role":"user","content":"q"}],"output":[{"role":"assistant","content":"a"}],"model":"m",
                "model_config":{"temperature":0.5,"top_p":null,"base_url":"http://x"},"usage":{"input_tokens":5}}"#,
            "null",
        );
        let llm = span.llm.as_deref().unwrap();
        assert_eq!((llm.input.len(), llm.choices.len(), llm.temperature), (1, 1, Some(0.5)));
        assert_eq!(llm.choices[0].message.content.as_deref(), Some("a"));
        assert_eq!(llm.params_json.as_deref(), Some(r#"{"temperature":0.5,"base_url":"http://x"}"#));
    }

    #[test]
    fn wrappers_and_batches() {
        let record = r#"{"object":"trace.span","id":"s","trace_id":"t","span_data":{"type":"agent","name":"a"}}"#;
        let wrapped = sink_of(&format!(r#"{{"event":"span_end","span":{record}}}"#), &[]);
        assert_eq!((codes(&wrapped), wrapped.spans[0].span_id.as_str()), (vec![], "s"));
        let trace = r#"{"object":"trace","id":"t","workflow_name":"w","group_id":"g","metadata":{"task_id":"k","split":"test"}}"#;
        let batch = sink_of(&format!(r#"{{"data":[{trace},{record},{{"object":"trace.span"}},5]}}"#), &[]);
        assert_eq!((codes(&batch), batch.spans.len()), (vec!["missing_field", "bad_value"], 2));
        let identity = &batch.spans[0].identity;
        assert_eq!(identity.task_id, Some((TaskIdSource::Metadata, "k".to_owned())));
        assert_eq!(
            (identity.group_id.as_deref(), identity.session_id.as_deref(), identity.split.as_deref()),
            (Some("g"), Some("g"), Some("test"))
        );
        assert_eq!(batch.spans[1].origin.position, 1);
    }
}
