//! Agent Lightning 0.x: token ids beside AgentOps' attributes, rewards of three generations, links, and Weave's flattened calls.

use super::traceloop;
use crate::trace::attributes::{Attributes, Value};
use crate::trace::container::Sink;
use crate::trace::message::{Message, Role, ToolCallRequest, take_traceloop};
use crate::trace::object::Object;
use crate::trace::openai::{fill, fill_choices, take_logprobs};
use crate::trace::reject::Reject;
use crate::trace::span::{Choice, Llm, Reward, RewardTarget, Span};

const INPUT: &str = "agentlightning.operation.input.";
const OUTPUT: &str = "agentlightning.operation.output.";

/// The name of a reward that its author gave none.
const PRIMARY: &str = "primary";

/// Token ids and log-probabilities; reads after the messages.
pub(super) fn llm(attributes: &mut Attributes<'_>, llm: &mut Llm) {
    if attributes.has_prefix(OUTPUT) {
        weave(attributes, llm);
    }
    if let Some(ids) = take_ids(attributes, "prompt_token_ids") {
        fill(&mut llm.prompt_token_ids, Some(ids));
    }
    let ids = take_ids(attributes, "response_token_ids");
    let logprobs = attributes.get("logprobs.content").and_then(|value| value.as_text());
    if ids.is_none() && logprobs.is_none() {
        return;
    }
    if llm.choices.is_empty() {
        llm.choices.push(Choice { message: Message { role: Role::Assistant, ..Message::default() }, ..Choice::default() });
    }
    // Only the first choice's are recorded.
    let choice = &mut llm.choices[0];
    fill(&mut choice.token_ids, ids);
    if choice.logprobs.is_none()
        && let Some(logprobs) = logprobs
        && take_logprobs(choice, &logprobs)
    {
        attributes.take("logprobs.content");
    }
}

/// A list of token ids: an array, or its JSON as text.
fn take_ids(attributes: &mut Attributes<'_>, key: &str) -> Option<Vec<i32>> {
    let ids = attributes.get(key)?.as_ints()?;
    attributes.take(key);
    Some(ids)
}

/// A call that Weave traced: request and response, flattened to dotted keys.
fn weave(attributes: &mut Attributes<'_>, llm: &mut Llm) {
    attributes.fill_text(&format!("{INPUT}model"), &mut llm.model_requested);
    attributes.fill_double(&format!("{INPUT}temperature"), &mut llm.temperature);
    if llm.input.is_empty() {
        let stated = take_traceloop(attributes, &format!("{INPUT}messages."), Role::User);
        llm.input = stated.into_iter().map(|stated| stated.message).collect();
    }
    attributes.fill_text(&format!("{OUTPUT}id"), &mut llm.response_id);
    attributes.fill_text(&format!("{OUTPUT}model"), &mut llm.model);
    for (key, field) in [("prompt_tokens", &mut llm.input_tokens), ("completion_tokens", &mut llm.output_tokens)] {
        attributes.fill_int(&format!("{OUTPUT}usage.{key}"), field);
    }
    if let Some(ids) = take_ids(attributes, &format!("{OUTPUT}prompt_token_ids")) {
        fill(&mut llm.prompt_token_ids, Some(ids));
    }
    let mut choices = Vec::new();
    for index in 0.. {
        let prefix = format!("{OUTPUT}choices.{index}.");
        let flat_ids = format!("{OUTPUT}response_token_ids.{index}");
        if !attributes.has_prefix(&prefix) && !attributes.contains(&flat_ids) {
            break;
        }
        let mut choice = Choice { message: Message { role: Role::Assistant, ..Message::default() }, ..Choice::default() };
        attributes.fill_text(&format!("{prefix}message.content"), &mut choice.message.content);
        attributes.fill_text(&format!("{prefix}finish_reason"), &mut choice.finish_reason);
        for call in 0.. {
            let prefix = format!("{prefix}message.tool_calls.{call}.");
            let Some(name) = attributes.take_text(&format!("{prefix}function.name")) else { break };
            let arguments = attributes.take_text(&format!("{prefix}function.arguments")).unwrap_or_default();
            let id = attributes.take_text(&format!("{prefix}id"));
            choice.message.tool_calls.push(ToolCallRequest { id, name, arguments });
        }
        let keys = [flat_ids, format!("{prefix}token_ids"), format!("{prefix}provider_specific_fields.token_ids")];
        choice.token_ids = keys.iter().find_map(|key| take_ids(attributes, key));
        choices.push(choice);
    }
    fill_choices(&mut llm.choices, choices);
    traceloop::functions(attributes, llm, &format!("{INPUT}functions."));
}

/// Rewards of 0.3 (`agentlightning.reward.{i}.*`), 0.2 (`reward` of a span `agentlightning.reward`) and 0.1 (an operation's
/// output `{"type": "reward", "value"}`). Returns the key that they were found under.
pub(super) fn rewards(attributes: &mut Attributes<'_>, span: &mut Span, sink: &mut Sink) -> Option<&'static str> {
    let known = span.rewards.len();
    let mut key = numbered(attributes, span, sink);
    for scalar in ["agentlightning.reward", "reward"] {
        if scalar == "reward" && span.name != "agentlightning.reward" {
            continue;
        }
        if let Some(value) = attributes.get(scalar).and_then(Value::as_double) {
            attributes.take(scalar);
            push(span, sink, PRIMARY.to_owned(), value, true);
            key = key.or(Some(scalar));
        }
    }
    for output in ["agentops.task.output", "agentops.entity.output"] {
        let Some(text) = attributes.get(output).and_then(|value| value.as_text()) else { continue };
        let Some(object) = Object::parse(&text).filter(|object| object.text("type").as_deref() == Some("reward")) else {
            continue;
        };
        // A null value is an agent that gave no reward.
        if let Some(value) = object.number("value") {
            push(span, sink, PRIMARY.to_owned(), value, true);
            key = key.or(Some(output));
            break;
        }
    }
    if span.rewards.len() > known {
        let target = target(attributes);
        span.rewards[known..].iter_mut().for_each(|reward| reward.target = target.clone());
    }
    key
}

fn numbered(attributes: &mut Attributes<'_>, span: &mut Span, sink: &mut Sink) -> Option<&'static str> {
    let mut found: Vec<(u32, Option<String>, Option<f64>)> = Vec::new();
    attributes.drain_prefix("agentlightning.reward.", |key, value| {
        let Some((index, field)) = key.split_once('.').and_then(|(index, field)| Some((index.parse().ok()?, field))) else {
            return Some(value);
        };
        if found.last().is_none_or(|(last, ..)| *last != index) {
            found.push((index, None, None));
        }
        let (_, name, number) = found.last_mut()?;
        match (field, value.as_double()) {
            ("name", _) => *name = value.into_text(),
            ("value", Some(value)) => *number = Some(value),
            _ => return Some(value),
        }
        None
    });
    found.sort_by_key(|(index, ..)| *index);
    let mut key = None;
    for (index, name, value) in found {
        let Some(value) = value else { continue };
        push(span, sink, name.unwrap_or_else(|| PRIMARY.to_owned()), value, index == 0);
        key = Some("agentlightning.reward");
    }
    key
}

/// A reward that is no finite number is set aside: no statistic survives one.
fn push(span: &mut Span, sink: &mut Sink, name: String, value: f64, primary: bool) {
    if !value.is_finite() {
        let raw = format!("span `{}`, reward `{name}`: {value}", span.span_id);
        let reject = Reject::bad_value(format!("reward `{name}`"), &value.to_string(), "a finite number");
        return sink.reject(span.origin, reject, raw.as_bytes());
    }
    let source = Some("agent".to_owned());
    span.rewards.push(Reward { name, value: Some(value), primary, source, ..Reward::default() });
}

/// What a reward is linked to: `agentlightning.link.{i}.{key_match,value_match}`, all of which must match.
fn target(attributes: &mut Attributes<'_>) -> Option<RewardTarget> {
    let mut target = RewardTarget::default();
    for index in 0.. {
        let (key, value) = (format!("agentlightning.link.{index}.key_match"), format!("agentlightning.link.{index}.value_match"));
        let Some(matched) = attributes.text(&key) else { break };
        let field = match matched {
            "trace_id" => &mut target.trace_id,
            "span_id" => &mut target.span_id,
            "gen_ai.response.id" => &mut target.response_id,
            "gen_ai.tool.call.id" | "tool.call.id" => &mut target.tool_call_id,
            _ => continue,
        };
        *field = attributes.take_text(&value);
        attributes.take(&key);
    }
    (target != RewardTarget::default()).then_some(target)
}
