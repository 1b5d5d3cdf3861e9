//! GenAI content that stands in events: log records of their own file, or events of the span.

use super::{RawEvent, RawLog, genai};
use crate::trace::attributes::{Attributes, Value};
use crate::trace::container::Sink;
use crate::trace::message::{Role, read_messages, read_stated};
use crate::trace::object::Object;
use crate::trace::openai::fill_choices;
use crate::trace::reject::Reject;
use crate::trace::span::{Choice, Convention, Kind, Llm, Origin, Reward, RewardTarget, Span};

const DETAILS: &str = "gen_ai.client.inference.operation.details";
const EVALUATION: &str = "gen_ai.evaluation.result";

/// Turns a log record into a span: of kind `Message` where it carries messages of the call that was active, `Reward` where it
/// is an evaluation, else `Other`.
pub(super) fn log(mut raw: RawLog<'_>, sink: &mut Sink) -> Span {
    let mut attributes = std::mem::take(&mut raw.attributes);
    let name = raw.event_name.take().or_else(|| attributes.text("event.name").map(|name| name.to_owned().into()));
    let name = name.unwrap_or_default().into_owned();
    let mut span = Span {
        span_id: id(&raw, &name, &attributes),
        origin: raw.origin,
        format: raw.format,
        trace_id: raw.trace_id,
        parent_span_id: raw.span_id,
        kind: Kind::Other,
        start_ns: raw.time_ns,
        end_ns: raw.time_ns,
        time_precision_ns: raw.time_precision_ns,
        service_name: raw.service_name,
        scope_name: raw.scope_name.map(|name| name.into_owned()),
        scope_version: raw.scope_version.map(|version| version.into_owned()),
        resource_json: raw.resource_json,
        ..Span::default()
    };
    let mut llm = Llm::default();
    if name == EVALUATION {
        if let Some(reward) = evaluation(&mut attributes, span.origin, sink) {
            let target = RewardTarget {
                trace_id: span.trace_id.clone(),
                span_id: span.parent_span_id.clone(),
                response_id: reward.target.as_ref().and_then(|target| target.response_id.clone()),
                tool_call_id: None,
            };
            // With neither span nor response it is about the trace as a whole.
            let has_target = target.span_id.is_some() || target.response_id.is_some();
            span.rewards.push(Reward { target: has_target.then_some(target), ..reward });
            span.kind = Kind::Reward;
        }
    } else if name == DETAILS {
        genai::llm(&mut attributes, &mut llm);
        span.kind = Kind::Message;
    } else if role_of(&name).is_some() {
        // Without its content, where the instrumentation was told to leave it out.
        if raw.body.as_text().is_some_and(|body| message(&name, &body, &mut llm)) {
            raw.body = Value::Null;
        }
        attributes.fill_text("gen_ai.system", &mut llm.provider);
        span.kind = Kind::Message;
    }
    match span.kind {
        Kind::Other => {}
        _ => {
            span.convention = Some(Convention::GenAiEvents);
            span.kind_evidence = Some("event.name".to_owned());
        }
    }
    if span.kind == Kind::Message {
        span.llm = Some(Box::new(llm));
    }
    if raw.body != Value::Null {
        attributes.put("log.body", raw.body);
    }
    if let Some(severity) = raw.severity {
        attributes.put("log.severity", Value::Str(severity));
    }
    attributes.fill_text("error.type", &mut span.error_type);
    span.attributes_json = attributes.to_json();
    span.name = name;
    span
}

/// Log records have no id: the same record read twice gets the same one, two that differ in anything do not.
fn id(raw: &RawLog<'_>, name: &str, attributes: &Attributes<'_>) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut add = |text: &str| {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    add(raw.span_id.as_deref().unwrap_or_default());
    add(name);
    add(&raw.time_ns.unwrap_or_default().to_string());
    add(&raw.body.as_text().unwrap_or_default());
    add(&attributes.to_json().unwrap_or_default());
    hasher.finalize().to_hex()[..16].to_owned()
}

/// Whose message a per-message event carries; `None` for every other event.
fn role_of(name: &str) -> Option<Role> {
    match name.strip_prefix("gen_ai.")? {
        "choice" => Some(Role::Assistant),
        name => Role::from_name(name.strip_suffix(".message")?),
    }
}

/// Reads one per-message event; false where it is none.
fn message(name: &str, body: &str, llm: &mut Llm) -> bool {
    if name == "gen_ai.choice" {
        let Some(object) = Object::parse(body) else { return false };
        let message = object.get("message").map_or(body, |message| message.get());
        let Ok(stated) = read_stated(message, Role::Assistant) else { return false };
        let Some(stated) = stated.into_iter().next() else { return false };
        let finish_reason = object.text("finish_reason").map(Into::into).or(stated.finish_reason);
        llm.choices.push(Choice { message: stated.message, finish_reason, ..Choice::default() });
        return true;
    }
    let Some(role) = role_of(name) else { return false };
    let Ok(stated) = read_stated(body, role) else { return false };
    let is_read = !stated.is_empty();
    llm.input.extend(stated.into_iter().map(|mut stated| {
        // Tool messages name the call that they answer in `id`, and not always a role.
        if role == Role::Tool && stated.message.tool_call_id.is_none() {
            stated.message.tool_call_id = Object::parse(body).and_then(|body| Some(body.text("id")?.into_owned()));
        }
        stated.message
    }));
    is_read
}

/// Reads the content that older instrumentations put into events of the span, and evaluations. Events that were read whole
/// are taken out.
pub(super) fn of_span(events: &mut Vec<RawEvent<'_>>, span: &mut Span, llm: &mut Llm, sink: &mut Sink) {
    let mut heard = Llm::default();
    events.retain_mut(|event| !read_event(event, span, &mut heard, sink));
    if llm.input.is_empty() {
        llm.input = heard.input;
    }
    fill_choices(&mut llm.choices, heard.choices);
}

fn read_event(event: &mut RawEvent<'_>, span: &mut Span, heard: &mut Llm, sink: &mut Sink) -> bool {
    if !event.name.starts_with("gen_ai.") {
        return false;
    }
    let attributes = &mut event.attributes;
    match event.name.as_ref() {
        EVALUATION => {
            let Some(reward) = evaluation(attributes, span.origin, sink) else { return false };
            span.rewards.push(reward);
            attributes.is_empty()
        }
        DETAILS => {
            genai::llm(attributes, heard);
            attributes.is_empty()
        }
        "gen_ai.content.prompt" => {
            let messages = attributes.text("gen_ai.prompt").and_then(|json| read_messages(json).ok());
            messages.map(|messages| heard.input.extend(messages)).is_some()
        }
        "gen_ai.content.completion" => {
            let stated = attributes.text("gen_ai.completion").and_then(|json| read_stated(json, Role::Assistant).ok());
            stated.map(|stated| heard.choices.extend(genai::choices(stated, None))).is_some()
        }
        name => {
            let content = attributes.text("gen_ai.event.content").map(str::to_owned).or_else(|| attributes.to_json());
            content.is_some_and(|content| message(name, &content, heard))
        }
    }
}

/// A score, as the event `gen_ai.evaluation.result` states it. One that is no finite number is set aside.
fn evaluation(attributes: &mut Attributes<'_>, origin: Origin, sink: &mut Sink) -> Option<Reward> {
    let value = attributes.get("gen_ai.evaluation.score.value").and_then(Value::as_double);
    let mut reward = Reward { source: Some("grader".to_owned()), ..Reward::default() };
    if let Some(value) = value.filter(|value| !value.is_finite()) {
        let raw = attributes.to_json().unwrap_or_default();
        let reject = Reject::bad_value("gen_ai.evaluation.score.value", &value.to_string(), "a finite number");
        sink.reject(origin, reject, raw.as_bytes());
        return None;
    }
    reward.name = attributes.take_text("gen_ai.evaluation.name")?;
    attributes.fill_double("gen_ai.evaluation.score.value", &mut reward.value);
    attributes.fill_text("gen_ai.evaluation.score.label", &mut reward.label);
    attributes.fill_text("gen_ai.evaluation.explanation", &mut reward.comment);
    let response_id = attributes.take_text("gen_ai.response.id");
    reward.target = response_id.map(|id| RewardTarget { response_id: Some(id), ..RewardTarget::default() });
    Some(reward)
}
