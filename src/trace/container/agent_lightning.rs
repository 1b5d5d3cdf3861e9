//! Agent Lightning 0.1 to 0.3: spans, rollouts and triplets as JSON lines, and the report objects of 0.1.
//!
//! ```text
//! {"rollout_id", "attempt_id", "sequence_id", "trace_id", "span_id", "name", "attributes": {…}, "start_time": 1795363157.13, …}   span
//! {"rollout_id", "input", "mode": "train", "status": "succeeded", "attempt": {…}, …}                                             rollout
//! {"prompt": {"token_ids": […]}, "response": {"token_ids": […]}, "reward": 1.0, "metadata": {…}}                                 triplet
//! {"rollout_id", "final_reward": 1.0, "triplets": […], "trace": […]}                                                             report
//! ```
//!
//! `sequence_id` counts the ends of spans, so that it is no order: a tool call has a lower one than the LLM call that asked for it.
//! A triplet does not say which rollout it is of: alone it is joined to the call with the same response id, else it is a rollout of
//! its own.

use std::borrow::Cow;

use super::keys::is_too_deep;
use super::metadata::{first_text, split, task_id};
use super::record::{self, parse, placed_id, take_id, take_logprobs, take_reward, take_time, take_token_ids};
use super::{Keys, ReadOptions, Sink, ids};
use crate::trace::attributes::{Attributes, Value};
use crate::trace::convention::{self, RawEvent, RawSpan};
use crate::trace::message::{Role, read_stated};
use crate::trace::openai::push_tools;
use crate::trace::reject::Reject;
use crate::trace::span::{
    Choice, Convention, Format, Identity, Kind, Link, Llm, Origin, Reward, RewardTarget, RolloutRecord, Span, TaskIdSource,
};
use crate::trace::time;

/// Whether a record is one of the four shapes.
pub fn recognises(keys: &Keys<'_>) -> bool {
    let of_rollout = keys.has("rollout_id")
        && (keys.has("span_id")
            || keys.has_any(&["triplets", "final_reward"])
            || keys.begins("trace", b'[')
            || (keys.begins("status", b'"') && keys.has_any(&["input", "attempt"]) && !keys.has("event_type")));
    of_rollout || keys.inside("prompt").has("token_ids") || keys.inside("response").has("token_ids")
}

/// Reads one record.
pub fn read(text: &str, origin: Origin, options: &ReadOptions, sink: &mut Sink) -> Result<(), Reject> {
    if let Ok((record, attributes)) = Attributes::from_json_apart(text, "attributes")
        && record.contains("span_id")
        && !is_too_deep(text)
    {
        return read_span(record, attributes, origin, options, sink);
    }
    let mut record = parse(text)?;
    if record.contains("span_id") {
        let attribute_object = record.take_object("attributes");
        read_span(record, Attributes::of_object(attribute_object.as_ref()), origin, options, sink)
    } else if ["triplets", "final_reward", "trace"].iter().any(|key| record.contains(key)) {
        read_report(record, origin, options, sink);
        Ok(())
    } else if record.contains("rollout_id") {
        read_rollout(record, origin, options, sink);
        Ok(())
    } else {
        let triplet = triplet(record, &Identity::default(), origin, sink);
        sink.spans.push(triplet);
        Ok(())
    }
}

fn read_span<'a>(
    mut record: Attributes<'a>,
    mut attributes: Attributes<'a>,
    origin: Origin,
    options: &ReadOptions,
    sink: &mut Sink,
) -> Result<(), Reject> {
    let span_id = take_id(&mut record, "span_id").ok_or(Reject::MissingField { field: "span_id" })?;
    let rollout_id = take_id(&mut record, "rollout_id");
    let attempt_id = take_id(&mut record, "attempt_id");
    let start = take_time(&mut record, "start_time", origin, sink);
    let end = take_time(&mut record, "end_time", origin, sink);

    let status_object = record.take_object("status");
    let mut status = Attributes::of_object(status_object.as_ref());
    let resource_object = record.take_object("resource");
    let mut resource = Attributes::of_object(resource_object.as_ref());
    let resource_attributes = resource.take_object("attributes");
    let scope_object = record.take_object("instrumentation_scope");
    let mut scope = Attributes::of_object(scope_object.as_ref());
    let events = record.take("events").unwrap_or(Value::Null);
    let links = record.take("links").unwrap_or(Value::Null);

    let raw = RawSpan {
        origin,
        format: Format::AgentLightning,
        trace_id: take_id(&mut record, "trace_id"),
        span_id,
        parent_span_id: take_id(&mut record, "parent_id"),
        name: record.take_text("name").unwrap_or_default().into(),
        start_ns: start.map(|time| time.ns),
        end_ns: end.map(|time| time.ns),
        time_precision_ns: start.or(end).map(|time| time.precision_ns),
        status: record::status(status.take("status_code").as_ref()),
        status_message: status.take_text("description").map(Cow::Owned),
        events: events.elements().into_iter().filter_map(event).collect(),
        links: links.elements().into_iter().filter_map(link).collect(),
        service_name: Attributes::of_object(resource_attributes.as_ref()).take_text("service.name"),
        scope_name: scope.take_text("name").map(Cow::Owned),
        scope_version: scope.take_text("version").map(Cow::Owned),
        resource_json: resource_attributes.as_ref().and_then(|value| Some(value.as_text()?.into_owned())),
        ..RawSpan::default()
    };
    // These repeat the ids, except for a trace state.
    for key in ["context", "parent"] {
        if !has_trace_state(&record, key) {
            record.take(key);
        }
    }
    attributes.fill_from(&record);
    let before = sink.spans.len();
    convention::interpret(RawSpan { attributes, ..raw }, options, sink);
    for span in &mut sink.spans[before..] {
        span.identity.rollout_id = rollout_id.clone().or(span.identity.rollout_id.take());
        span.identity.attempt_id = attempt_id.clone().or(span.identity.attempt_id.take());
    }
    Ok(())
}

fn has_trace_state(record: &Attributes<'_>, key: &str) -> bool {
    let context = Attributes::of_object(record.get(key));
    context.get("trace_state").and_then(Value::as_text).is_some_and(|state| !matches!(state.as_ref(), "" | "{}" | "[]"))
}

fn event(json: &str) -> Option<RawEvent<'_>> {
    let mut event = Attributes::from_json(json).ok()?;
    let time = event.take("timestamp").and_then(|value| time::parse(&value.as_text()?));
    let attributes = match event.take_object("attributes") {
        Some(Value::Json(Cow::Borrowed(object))) => Attributes::from_json(object).unwrap_or_default(),
        Some(Value::Json(object)) => owned(&Attributes::from_json(&object).unwrap_or_default()),
        _ => Attributes::default(),
    };
    Some(RawEvent { name: event.take_text("name")?.into(), time_ns: time.map(|time| time.ns), attributes })
}

/// Attributes that outlive the text that they were read from.
fn owned(attributes: &Attributes<'_>) -> Attributes<'static> {
    Attributes::new(attributes.iter().map(|(key, value)| (Cow::Owned(key.to_owned()), value.clone().into_owned())).collect())
}

fn link(json: &str) -> Option<Link> {
    let mut link = Attributes::from_json(json).ok()?;
    let context_object = link.take_object("context");
    let mut context = Attributes::of_object(context_object.as_ref());
    Some(Link {
        trace_id: ids::trace_id(&context.take_text("trace_id")?)?,
        span_id: ids::span_id(&context.take_text("span_id")?)?,
        attributes_json: link.take_object("attributes").and_then(Value::into_text).filter(|json| json != "{}"),
    })
}

/// A rollout as the store keeps it: the task and how it ended.
fn read_rollout(mut record: Attributes<'_>, origin: Origin, options: &ReadOptions, sink: &mut Sink) {
    let start = take_time(&mut record, "start_time", origin, sink);
    let end = take_time(&mut record, "end_time", origin, sink);
    let attempt = Attributes::of_object(record.get("attempt"));
    let attempt_id = first_text(&attempt, ["attempt_id"]);
    let stated = record.text("status").unwrap_or_default();
    let status = match (stated, attempt.text("status").unwrap_or_default()) {
        ("failed", "timeout" | "unresponsive") => "timeout",
        ("succeeded" | "failed" | "cancelled", _) => stated,
        _ => "running",
    };
    let status = status.to_owned();
    let metadata = Attributes::of_object(record.get("metadata"));
    let group_id = first_text(&metadata, ["data_id", "group_id"]);
    let task = stated_task(&metadata, record.get("input"), options);
    let split = record.text("mode").and_then(split);
    drop((attempt, metadata));
    let rollout_id = take_id(&mut record, "rollout_id");
    let task_input = record.take("input").map(|input| json_of(&input));
    record.take("mode");
    sink.spans.push(Span {
        origin,
        format: Format::AgentLightning,
        convention: Some(Convention::AgentLightning),
        span_id: format!("rollout.{}.{status}", attempt_id.as_deref().unwrap_or("0")),
        name: "rollout".to_owned(),
        kind: Kind::Rollout,
        kind_evidence: Some("rollout_id".to_owned()),
        start_ns: start.map(|time| time.ns),
        end_ns: end.map(|time| time.ns),
        time_precision_ns: start.or(end).map(|time| time.precision_ns),
        identity: Identity { rollout_id, attempt_id, group_id, task_id: task, split, ..Identity::default() },
        rollout: Some(Box::new(RolloutRecord { task_input, status: Some(status), status_message: None })),
        attributes_json: record.to_json(),
        ..Span::default()
    });
}

/// The id of the task of a rollout record: where the user says it is, else in the metadata, else in the task itself, else a hash of the
/// task, since samples of one task have the same input.
pub(super) fn stated_task(
    metadata: &Attributes<'_>,
    input: Option<&Value<'_>>,
    options: &ReadOptions,
) -> Option<(TaskIdSource, String)> {
    let task = Attributes::of_object(input);
    let configured = || options.task_id_keys.iter().map(String::as_str);
    if let Some(id) = first_text(metadata, configured()).or_else(|| first_text(&task, configured())) {
        return Some((TaskIdSource::Configured, id));
    }
    let id = task_id(metadata).or_else(|| task_id(&task)).or_else(|| first_text(&task, ["id"]));
    let id = id.or_else(|| Some(format!("input-{}", &blake3::hash(json_of(input?).as_bytes()).to_hex()[..16])));
    Some((TaskIdSource::Record, id?))
}

pub(super) fn json_of(value: &Value<'_>) -> String {
    let mut json = String::new();
    value.push_json(&mut json);
    json
}

/// A report of 0.1: what one rollout sent when it ended. Triplets of calls that the trace has say nothing but their rewards.
fn read_report(mut record: Attributes<'_>, origin: Origin, options: &ReadOptions, sink: &mut Sink) {
    let identity = Identity { rollout_id: take_id(&mut record, "rollout_id"), ..Identity::default() };
    let before = sink.spans.len();
    let trace = record.take("trace").unwrap_or(Value::Null);
    for (part, position) in trace.elements().into_iter().zip(1..) {
        let origin = Origin { position, ..origin };
        sink.part(part, origin, |sink| read_sdk_span(part, origin, &identity, options, sink));
    }
    let known: Vec<String> = sink.spans[before..].iter().filter_map(|span| span.llm.as_ref()?.response_id.clone()).collect();
    let mut position = u32::try_from(sink.spans.len() - before).unwrap_or(u32::MAX);
    let triplets = record.take("triplets").unwrap_or(Value::Null);
    for part in triplets.elements() {
        position = position.saturating_add(1);
        let origin = Origin { position, ..origin };
        match parse(part) {
            Err(reject) => sink.reject(origin, reject, part.as_bytes()),
            Ok(record) => {
                let mut span = triplet(record, &identity, origin, sink);
                let response_id = span.llm.as_ref().and_then(|llm| llm.response_id.clone());
                if response_id.as_ref().is_some_and(|id| known.contains(id)) {
                    if span.rewards.is_empty() {
                        continue;
                    }
                    for reward in &mut span.rewards {
                        reward.target = Some(RewardTarget { response_id: response_id.clone(), ..RewardTarget::default() });
                    }
                    (span.kind, span.kind_evidence, span.llm) = (Kind::Reward, Some("reward".to_owned()), None);
                }
                span.order = Some(format!("{position:06}"));
                sink.spans.push(span);
            }
        }
    }
    if let Some(value) = take_reward(&mut record, "final_reward", origin, sink) {
        let reward = Reward { name: "reward".to_owned(), value: Some(value), primary: true, is_final: true, ..Reward::default() };
        sink.spans.push(Span {
            span_id: "final_reward".to_owned(),
            name: "final_reward".to_owned(),
            kind: Kind::Reward,
            kind_evidence: Some("final_reward".to_owned()),
            rewards: vec![reward],
            origin: Origin { position: position.saturating_add(1), ..origin },
            ..of_record(&identity)
        });
    }
    sink.spans.push(Span {
        origin,
        span_id: "rollout".to_owned(),
        name: "rollout".to_owned(),
        kind: Kind::Rollout,
        kind_evidence: Some("rollout_id".to_owned()),
        rollout: Some(Box::default()),
        attributes_json: record.to_json(),
        ..of_record(&identity)
    });
}

fn of_record(identity: &Identity) -> Span {
    Span {
        format: Format::AgentLightning,
        convention: Some(Convention::AgentLightning),
        identity: identity.clone(),
        ..Span::default()
    }
}

/// A span as OpenTelemetry's Python SDK prints it: ids with `0x` in `context`, ISO times.
fn read_sdk_span(json: &str, origin: Origin, identity: &Identity, options: &ReadOptions, sink: &mut Sink) -> Result<(), Reject> {
    let mut record = parse(json)?;
    let context_object = record.take_object("context");
    let mut context = Attributes::of_object(context_object.as_ref());
    let trace_id = context.take_text("trace_id").and_then(|id| ids::trace_id(&id));
    let span_id = context.take_text("span_id").and_then(|id| ids::span_id(&id));
    let parent_id = record.take_text("parent_id").and_then(|id| ids::span_id(&id));
    for (key, id) in [("trace_id", trace_id), ("span_id", span_id), ("parent_id", parent_id)] {
        if let Some(id) = id {
            record.put(key, Value::Str(Cow::Owned(id)));
        }
    }
    if let Some(rollout) = &identity.rollout_id {
        record.put("rollout_id", Value::Str(Cow::Owned(rollout.clone())));
    }
    let attribute_object = record.take_object("attributes");
    read_span(record, Attributes::of_object(attribute_object.as_ref()), origin, options, sink)
}

/// One LLM call with its token ids and, where the algorithm matched one, its reward.
fn triplet(mut record: Attributes<'_>, identity: &Identity, origin: Origin, sink: &mut Sink) -> Span {
    let metadata_object = record.take_object("metadata");
    let mut metadata = Attributes::of_object(metadata_object.as_ref());
    let request_object = metadata.take_object("request");
    let mut request = Attributes::of_object(request_object.as_ref());
    let answered_object = metadata.take_object("response");
    let mut answered = Attributes::of_object(answered_object.as_ref());
    let prompt_object = record.take_object("prompt");
    let mut prompt = Attributes::of_object(prompt_object.as_ref());
    let response_object = record.take_object("response");
    let mut response = Attributes::of_object(response_object.as_ref());

    let functions = request.take("functions").or_else(|| request.take("tools"));
    let mut llm = Llm {
        model_requested: request.take_text("model"),
        model: answered.take_text("model"),
        response_id: metadata.take_text("response_id").or_else(|| answered.take_text("id")),
        temperature: request.take_double("temperature"),
        top_p: request.take_double("top_p"),
        stream: request.take_bool("streaming"),
        tools_known: request_object.is_some(),
        prompt_token_ids: take_token_ids(&mut prompt, "token_ids", origin, sink),
        ..Llm::default()
    };
    if let Some(functions) = &functions {
        push_tools(&json_of(functions), &mut llm.tools);
    }
    answered.take("id");
    llm.input = take_messages(&mut prompt, Role::User).into_iter().map(|(message, _)| message).collect();
    llm.choices = take_messages(&mut response, Role::Assistant)
        .into_iter()
        .map(|(message, finish_reason)| Choice { message, finish_reason, ..Choice::default() })
        .collect();
    let ids = take_token_ids(&mut response, "token_ids", origin, sink);
    let logprobs = take_logprobs(&mut response, "logprobs", ids.as_deref(), origin, sink);
    if ids.is_some() || logprobs.is_some() {
        if llm.choices.is_empty() {
            let mut choice = Choice::default();
            choice.message.role = Role::Assistant;
            llm.choices.push(choice);
        }
        (llm.choices[0].token_ids, llm.choices[0].logprobs) = (ids, logprobs);
    }
    let reward = take_reward(&mut record, "reward", origin, sink);
    let agent = metadata.take_text("agent_name").filter(|name| name != "*");
    metadata.put_rest("request", &request);
    metadata.put_rest("response", &answered);
    record.put_rest("metadata", &metadata);
    record.put_rest("prompt", &prompt);
    record.put_rest("response", &response);
    Span {
        origin,
        span_id: llm.response_id.clone().unwrap_or_else(|| placed_id(origin)),
        name: "triplet".to_owned(),
        kind: Kind::Llm,
        kind_evidence: Some("triplet".to_owned()),
        identity: Identity { agent_hint: agent, ..identity.clone() },
        rewards: reward
            .map(|value| Reward { name: "reward".to_owned(), value: Some(value), primary: true, ..Reward::default() })
            .into_iter()
            .collect(),
        llm: Some(Box::new(llm)),
        attributes_json: record.to_json(),
        ..of_record(&Identity::default())
    }
}

/// The messages of a triplet's half, each with its finish reason.
fn take_messages(half: &mut Attributes<'_>, default_role: Role) -> Vec<(crate::trace::message::Message, Option<String>)> {
    let Some(content) = half.get("raw_content") else { return Vec::new() };
    match read_stated(&json_of(content), default_role) {
        Ok(stated) => {
            half.take("raw_content");
            stated.into_iter().map(|stated| (stated.message, stated.finish_reason)).collect()
        }
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::{codes, sink_of};
    use super::*;
    use crate::trace::span::Status;

    #[test]
    fn span_row() {
        let sink = sink_of(
            r#"{"rollout_id":"ro-1","attempt_id":"at-1","sequence_id":2,"trace_id":"ab","span_id":"cd","parent_id":null,"name":"work",
                "status":{"status_code":"ERROR","description":"boom"},"attributes":{"mine":[1, 2],"n":3},
                "events":[{"name":"exception","attributes":{"exception.type":"ValueError"},"timestamp":1795363157.5}],
                "links":[{"context":{"trace_id":"0xEE","span_id":"0xFF","is_remote":false,"trace_state":{}},"attributes":null}],
                "start_time":1795363157.1329603,"end_time":1795363158,"context":{"trace_id":"ab","trace_state":{}},"parent":null,
                "resource":{"attributes":{"service.name":"agent","agentlightning.rollout_id":""},"schema_url":""},"kind":"INTERNAL"}"#,
            &[],
        );
        assert_eq!(codes(&sink), [""; 0]);
        let span = &sink.spans[0];
        assert_eq!((span.identity.rollout_id.as_deref(), span.identity.attempt_id.as_deref()), (Some("ro-1"), Some("at-1")));
        assert_eq!((span.trace_id.as_deref(), span.span_id.as_str(), &span.parent_span_id), (Some("ab"), "cd", &None));
        assert_eq!((span.start_ns, span.end_ns), (Some(1_795_363_157_132_960_300), Some(1_795_363_158_000_000_000)));
        assert_eq!((span.time_precision_ns, span.status), (Some(1_000), Status::Error));
        assert_eq!((span.links[0].trace_id.as_str(), span.links[0].span_id.as_str()), ("ee", "ff"));
        assert_eq!(span.service_name.as_deref(), Some("agent"));
        let rest = span.attributes_json.as_deref().unwrap();
        assert!(rest.contains(r#""mine":[1,2]"#) && rest.contains(r#""kind":"INTERNAL""#) && rest.contains(r#""sequence_id":2"#));
        assert!(!rest.contains("context"), "{rest}");
    }

    #[test]
    fn unreadable_time_is_set_aside_and_the_span_kept() {
        let sink =
            sink_of(r#"{"rollout_id":"r","span_id":"s","trace_id":"t","name":"n","start_time":"noon","attributes":{}}"#, &[]);
        assert_eq!((codes(&sink), sink.spans.len(), sink.spans[0].start_ns), (vec!["bad_value"], 1, None));
        assert_eq!(codes(&sink_of(r#"{"rollout_id":"r","span_id":"","attributes":{}}"#, &[])), ["missing_field"]);
    }

    /// Status, task id and its source, split of a rollout row.
    fn check_rollout(record: &str, task_id_keys: &[&str], expected: (&str, TaskIdSource, &str, Option<&str>)) {
        let sink = sink_of(record, task_id_keys);
        assert_eq!(codes(&sink), [""; 0], "{record}");
        let span = &sink.spans[0];
        let (source, task) = span.identity.task_id.clone().unwrap();
        let status = span.rollout.as_ref().and_then(|rollout| rollout.status.clone()).unwrap();
        assert_eq!((status.as_str(), source, task.as_str(), span.identity.split.as_deref()), expected, "{record}");
    }

    #[test]
    fn rollout_rows() {
        use TaskIdSource::{Configured, Record};
        check_rollout(
            r#"{"rollout_id":"r","input":{"id":"calc-1"},"mode":"val","status":"failed","metadata":{},"attempt":{"attempt_id":"a","status":"unresponsive"}}"#,
            &[],
            ("timeout", Record, "calc-1", Some("val")),
        );
        check_rollout(
            r#"{"rollout_id":"r","input":{"id":"x","case":9},"mode":"train","status":"requeuing","metadata":{"data_id":"d"}}"#,
            &[],
            ("running", Record, "d", Some("train")),
        );
        check_rollout(
            r#"{"rollout_id":"r","input":{"id":"x","case":9},"mode":null,"status":"succeeded","metadata":null}"#,
            &["case"],
            ("succeeded", Configured, "9", None),
        );
        // The first 16 hex digits of the BLAKE3 of `"What is 1 + 1?"`, quotes included (b3sum).
        let input = blake3::hash(br#""What is 1 + 1?""#).to_hex();
        check_rollout(
            r#"{"rollout_id":"r","input":"What is 1 + 1?","status":"cancelled"}"#,
            &[],
            ("cancelled", Record, &format!("input-{}", &input[..16]), None),
        );
    }

    #[test]
    fn triplet_with_log_probabilities_that_do_not_fit() {
        let sink = sink_of(
            r#"{"prompt":{"token_ids":[1,2],"image_urls":[]},"response":{"token_ids":[3],"logprobs":[{"logprob":-0.5},{"logprob":-1}]},
                "reward":0.25,"metadata":{"response_id":"c1","agent_name":"solver"}}"#,
            &[],
        );
        assert_eq!(codes(&sink), ["bad_value"]);
        let span = &sink.spans[0];
        let llm = span.llm.as_deref().unwrap();
        assert_eq!((llm.prompt_token_ids.as_deref(), llm.choices[0].token_ids.as_deref()), (Some(&[1, 2][..]), Some(&[3][..])));
        assert_eq!((llm.choices[0].logprobs.as_ref(), span.rewards[0].value), (None, Some(0.25)));
        assert_eq!((span.span_id.as_str(), span.identity.agent_hint.as_deref()), ("c1", Some("solver")));
    }

    #[test]
    fn report_of_the_first_version() {
        let sink = sink_of(
            r#"{"rollout_id":"r1","final_reward":1.0,"logs":["x"],"metadata":{"k":1},
                "trace":[{"name":"s","context":{"trace_id":"0x0A","span_id":"0x0B","trace_state":"[]"},"kind":"SpanKind.INTERNAL","parent_id":null,
                          "start_time":"2026-11-22T15:47:23.850663Z","end_time":"2026-11-22T15:47:24Z","status":{"status_code":"OK"},"attributes":{"a":1},
                          "events":[],"links":[],"resource":{"attributes":{}}},{"name":"no ids"}],
                "triplets":[{"prompt":{"token_ids":[1]},"response":{"token_ids":[2]},"reward":null,"metadata":{"response_id":"c9"}}]}"#,
            &[],
        );
        assert_eq!(codes(&sink), ["missing_field"]);
        assert!(sink.spans.iter().all(|span| span.identity.rollout_id.as_deref() == Some("r1")));
        let kinds: Vec<_> = sink.spans.iter().map(|span| (span.kind, span.span_id.as_str())).collect();
        assert_eq!(kinds[0].1, "0b");
        assert_eq!(kinds[1..], [(Kind::Llm, "c9"), (Kind::Reward, "final_reward"), (Kind::Rollout, "rollout")]);
        assert_eq!(sink.spans[0].start_ns, Some(1_795_362_443_850_663_000));
        assert_eq!((sink.spans[2].rewards[0].value, sink.spans[2].rewards[0].is_final), (Some(1.0), true));
        assert_eq!(sink.spans[3].attributes_json.as_deref(), Some(r#"{"logs":["x"],"metadata":{"k":1}}"#));
    }
}
