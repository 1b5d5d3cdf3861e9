//! OpenTelemetry GenAI attributes, latest and older names: what most instrumentations write, and what all others fall back to.

use super::envelope;
use crate::trace::attributes::{Attributes, push_json_string};
use crate::trace::message::text::string;
use crate::trace::message::{Message, Role, Stated, read_messages, read_stated};
use crate::trace::openai::{fill_choices, push_tools};
use crate::trace::span::{Choice, Kind, Llm, Span, Status, Tool};

pub(super) fn llm(attributes: &mut Attributes<'_>, llm: &mut Llm) {
    for key in ["gen_ai.provider.name", "gen_ai.system"] {
        attributes.fill_text(key, &mut llm.provider);
    }
    attributes.fill_text("gen_ai.request.model", &mut llm.model_requested);
    attributes.fill_text("gen_ai.response.model", &mut llm.model);
    attributes.fill_text("gen_ai.response.id", &mut llm.response_id);
    usage(attributes, llm);
    for key in ["gen_ai.request.stream", "gen_ai.request.streaming", "gen_ai.is_streaming"] {
        attributes.fill_bool(key, &mut llm.stream);
    }
    input(attributes, llm);
    output(attributes, llm);
    if llm.tools.is_empty()
        && let Some(definitions) = attributes.get("gen_ai.tool.definitions").and_then(|value| value.as_text())
    {
        push_tools(&definitions, &mut llm.tools);
        llm.tools_known = true;
        if !llm.tools.is_empty() {
            attributes.take("gen_ai.tool.definitions");
        }
    }
    parameters(attributes, llm);
}

fn usage(attributes: &mut Attributes<'_>, llm: &mut Llm) {
    for key in ["gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens"] {
        attributes.fill_int(key, &mut llm.input_tokens);
    }
    for key in ["gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens"] {
        attributes.fill_int(key, &mut llm.output_tokens);
    }
    for key in
        ["gen_ai.usage.cache_read.input_tokens", "gen_ai.usage.cache_read_input_tokens", "gen_ai.usage.details.cache_read_tokens"]
    {
        attributes.fill_int(key, &mut llm.cached_tokens);
    }
    for key in ["gen_ai.usage.reasoning.output_tokens", "gen_ai.usage.reasoning_tokens", "gen_ai.usage.details.reasoning_tokens"]
    {
        attributes.fill_int(key, &mut llm.reasoning_tokens);
    }
}

fn input(attributes: &mut Attributes<'_>, llm: &mut Llm) {
    if llm.input.is_empty()
        && let Some(json) = attributes.get("gen_ai.input.messages").and_then(|value| value.as_text())
        && let Ok(messages) = read_messages(&json)
    {
        drop(json);
        llm.input = messages;
        attributes.take("gen_ai.input.messages");
    }
    if llm.input.first().is_none_or(|first| first.role != Role::System)
        && let Some(instructions) = attributes.get("gen_ai.system_instructions").and_then(|value| value.as_text())
        && let Some(message) = system_message(&instructions)
    {
        llm.input.insert(0, message);
        attributes.take("gen_ai.system_instructions");
    }
}

/// Instructions are a text, or a list of parts.
fn system_message(instructions: &str) -> Option<Message> {
    let mut message = match instructions.trim_start().starts_with('[') {
        true => {
            let mut parts = read_messages(&format!("{{\"role\":\"system\",\"parts\":{instructions}}}")).ok()?.into_iter();
            parts.next().filter(|message| !message.is_empty())?
        }
        // Gemini's command line writes the text as JSON.
        false => Message {
            content: Some(string(instructions).map_or_else(|| instructions.to_owned(), Into::into)),
            ..Message::default()
        },
    };
    message.role = Role::System;
    Some(message)
}

fn output(attributes: &mut Attributes<'_>, llm: &mut Llm) {
    if let Some(json) = attributes.get("gen_ai.output.messages").and_then(|value| value.as_text())
        && let Ok(stated) = read_stated(&json, Role::Assistant)
    {
        drop(json);
        let count = attributes.get("gen_ai.request.choice.count").and_then(|value| value.as_int());
        fill_choices(&mut llm.choices, choices(stated, count));
        attributes.take("gen_ai.output.messages");
    }
    finish_reasons(attributes, llm, "gen_ai.response.finish_reasons");
}

/// Gives choices without a finish reason theirs, from a list of one for each.
pub(super) fn finish_reasons(attributes: &mut Attributes<'_>, llm: &mut Llm, key: &str) {
    let Some(value) = attributes.get(key).and_then(|value| value.as_text()) else { return };
    let reasons: Vec<String> = serde_json::from_str(&value).unwrap_or_else(|_| vec![value.into_owned()]);
    if llm.choices.is_empty() && !reasons.is_empty() && reasons.iter().all(|reason| !reason.is_empty()) {
        // The content was not recorded here; it may come as a log event.
        return;
    }
    // One response that a bridge split has a reason for each part, and the last one is that of the whole.
    let split = reasons.len() > llm.choices.len();
    let mut all_known = true;
    for (index, choice) in llm.choices.iter_mut().enumerate() {
        let reason = if split { reasons.last() } else { reasons.get(index) };
        if choice.finish_reason.is_none() {
            choice.finish_reason = reason.cloned();
        }
        all_known &= reason.is_none_or(|reason| choice.finish_reason.as_ref() == Some(reason));
    }
    if all_known && !split {
        attributes.take(key);
    }
}

/// One choice for each message of a response, unless they are the parts of one response (rule 7.8): bridges from the
/// Responses API write its text and its tool calls as two messages.
///
/// * `count`: how many choices the request asked for, where stated.
pub(super) fn choices(stated: Vec<Stated>, count: Option<i64>) -> Vec<Choice> {
    let wants_many = count.is_some_and(|count| count > 1);
    let is_split = stated.len() > 1
        && !wants_many
        && stated[0].message.tool_calls.is_empty()
        && stated[1..].iter().any(|part| !part.message.tool_calls.is_empty());
    let mut choices: Vec<Choice> = Vec::with_capacity(stated.len());
    for Stated { message, finish_reason } in stated {
        match choices.last_mut() {
            Some(whole) if is_split => {
                whole.message.merge(message);
                whole.finish_reason = finish_reason.or(whole.finish_reason.take());
            }
            _ => choices.push(Choice { message, finish_reason, ..Choice::default() }),
        }
    }
    choices
}

/// Everything else under `gen_ai.request.` is a parameter of the request.
fn parameters(attributes: &mut Attributes<'_>, llm: &mut Llm) {
    for (key, field) in [("gen_ai.request.temperature", &mut llm.temperature), ("gen_ai.request.top_p", &mut llm.top_p)] {
        if field.is_none() {
            *field = attributes.get(key).and_then(|value| value.as_double()).filter(|number| number.is_finite());
        }
    }
    for (key, field) in [("gen_ai.request.max_tokens", &mut llm.max_tokens), ("gen_ai.request.top_k", &mut llm.top_k)] {
        if field.is_none() {
            *field = attributes.get(key).and_then(|value| value.as_int());
        }
    }
    if llm.params_json.is_some() {
        return;
    }
    let mut json = String::new();
    attributes.drain_prefix("gen_ai.request.", |key, value| {
        if matches!(key, "type" | "headers" | "model") || key.starts_with("functions.") {
            return Some(value);
        }
        json.push(if json.is_empty() { '{' } else { ',' });
        push_json_string(&mut json, key);
        json.push(':');
        value.push_json(&mut json);
        None
    });
    if !json.is_empty() {
        json.push('}');
        llm.params_json = Some(json);
    }
}

pub(super) fn tool(attributes: &mut Attributes<'_>, tool: &mut Tool) {
    attributes.fill_text("gen_ai.tool.name", &mut tool.name);
    attributes.fill_text("gen_ai.tool.call.id", &mut tool.call_id);
    arguments(attributes, tool, "gen_ai.tool.call.arguments");
    result(attributes, tool, "gen_ai.tool.call.result");
}

/// Sets a tool's arguments from an attribute, unwrapped.
pub(super) fn arguments(attributes: &mut Attributes<'_>, tool: &mut Tool, key: &str) {
    let Some(value) = attributes.get(key).filter(|_| tool.arguments.is_none()) else { return };
    let Some(recorded) = value.as_text() else { return };
    let (arguments, whole) = envelope::arguments(&recorded);
    tool.arguments = Some(arguments.into_owned());
    if whole {
        attributes.take(key);
    }
}

/// Sets a tool's result from an attribute, unwrapped.
pub(super) fn result(attributes: &mut Attributes<'_>, tool: &mut Tool, key: &str) {
    let Some(value) = attributes.get(key).filter(|_| tool.result.is_none()) else { return };
    let Some(recorded) = value.as_text() else { return };
    if envelope::set_result(tool, &recorded) {
        attributes.take(key);
    }
}

/// Agents, handoffs and conversations; the framework's own verdict on a task.
pub(super) fn common(attributes: &mut Attributes<'_>, span: &mut Span) {
    attributes.fill_text("gen_ai.conversation.id", &mut span.identity.session_id);
    match span.kind {
        Kind::Agent | Kind::Setup => attributes.fill_text("gen_ai.agent.name", &mut span.identity.agent),
        Kind::Handoff => attributes.fill_text("gen_ai.handoff.to_agent", &mut span.identity.agent),
        _ => {}
    }
    if span.status == Status::Unset && attributes.text("gen_ai.task.status") == Some("failure") {
        span.status = Status::Error;
    }
}
